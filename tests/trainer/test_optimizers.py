"""Optimizers that are chosen by name: what they remember is all they need, and what is missing is said in one line."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from orchestrator.core.errors import MissingError
from trainer.config import TrainConfig
from trainer.optimizers import make_optimizer, memory_of, remember


def descend(name: str, steps: int, handover: int | None) -> torch.Tensor:
    """Weights after some steps down a bowl; after `handover` steps a new optimizer goes on with the memory."""
    weight = nn.Parameter(torch.linspace(-1, 1, 64 * 64).view(64, 64).clone())
    config = TrainConfig.model_validate({"optimizer": name, "learning_rate": 1.0 if name == "prodigy" else 1e-2})
    optimizer = make_optimizer([weight], config)
    for step in range(steps):
        if step == handover:
            memory = {key: value.clone() for key, value in memory_of(optimizer, [weight]).items()}
            optimizer = make_optimizer([weight], config)
            remember(optimizer, [weight], memory)
        optimizer.zero_grad()
        (weight - 0.5).square().mean().backward()
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "adafactor", "muon", "nadam", "prodigy", "radam"])
def test_a_new_one_goes_on_with_the_memory_of_the_old(name: str) -> None:
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes", reason="an extra: pip install 'bitsandbytes>=0.50,<0.51'")
    straight = descend(name, 9, None)
    assert torch.equal(descend(name, 9, 4), straight)
    assert not torch.equal(descend(name, 5, None), straight), "there was something to remember"


def test_what_is_not_installed_is_asked_for_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(MissingError, match=r"adamw8bit needs bitsandbytes.*pip install"):
        make_optimizer([nn.Parameter(torch.zeros(2))], TrainConfig(optimizer="adamw8bit"))


def test_prodigy_with_the_rate_of_others_is_refused() -> None:
    with pytest.raises(ValueError, match="finds the rate itself"):
        TrainConfig(optimizer="prodigy", learning_rate=2e-5)
