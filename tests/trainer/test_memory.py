"""How much a pass keeps is measured, not guessed, and what follows from it is arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from anima.base import POCKET
from anima.load import Base, load_base
from trainer.adaptation import adapt
from trainer.config import TrainConfig
from trainer.memory import Largest, fits, kept_bytes, peak_memory_mb, visiting


@pytest.fixture(scope="module")
def base() -> Base:
    base = load_base(POCKET)
    adapt(base, TrainConfig(rank=8))
    return base


def largest(base: Base, width: int = 96, height: int = 64) -> Largest:
    return Largest(width, height, base.text.condition("").unsqueeze(0).clone())


def kept_by_a_whole_pass(base: Base, size: Largest, pictures: int) -> int:
    """Counted over all blocks, the last layers too."""
    own = {p.untyped_storage().data_ptr() for p in base.transformer.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    latents = torch.randn(pictures, *base.codec.latent_shape(size.width, size.height))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = base.transformer(
            latents, torch.full((pictures,), 0.5), size.conditions.expand(pictures, -1, -1), return_dict=False
        )[0]
    assert out.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("pictures", [1, 3])
def test_the_first_block_tells_what_the_whole_pass_keeps(base: Base, pictures: int) -> None:
    measured = kept_bytes(base, largest(base), pictures)
    assert measured == pytest.approx(kept_by_a_whole_pass(base, largest(base), pictures), rel=0.1)


def test_an_adapter_on_later_layers_alone_is_not_taken_for_none(base: Base) -> None:
    late = load_base(POCKET)
    adapt(late, TrainConfig(rank=8, targets=r"blocks\.5\.mlp"))
    assert 0 < kept_bytes(late, largest(late), 1) < kept_bytes(base, largest(base), 1)


def test_larger_pictures_keep_more_and_nothing_of_the_look_stays(base: Base) -> None:
    small, large = (kept_bytes(base, largest(base, *size), 2) for size in ((64, 64), (128, 64)))
    assert 1.5 * small < large < 2.5 * small
    assert (
        base.transformer(
            torch.zeros(1, *base.codec.latent_shape(64, 64)), torch.ones(1), largest(base).conditions, return_dict=False
        )[0]
        .isfinite()
        .all()
    ), "whole passes are made again"


def test_memory_holds_activations_beside_gradients_and_moments() -> None:
    gb = 10**9
    assert fits(kept=10 * gb, free=20 * gb, adapter_bytes=gb)
    assert not fits(kept=10 * gb, free=20 * gb, adapter_bytes=3 * gb)
    assert not fits(kept=10 * gb, free=12 * gb, adapter_bytes=0), "never to the last byte"
    assert not fits(kept=0, free=gb, adapter_bytes=gb)


def test_visitors_leave_a_cpu_alone() -> None:
    module = nn.Linear(2, 2)
    with visiting(torch.device("cpu"), [module]):
        assert module.weight.device.type == "cpu"


def test_the_peak_never_falls() -> None:
    before = peak_memory_mb(torch.device("cpu"))
    held = torch.ones(64 * 2**20, dtype=torch.uint8)
    after = peak_memory_mb(torch.device("cpu"))
    assert before is not None
    assert after is not None
    assert after >= before
    assert after > held.nbytes >> 20
