"""Optimizers by name, from libraries that are kept up; what they know travels with the training state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from orchestrator.core.errors import MissingError
from trainer.config import TrainConfig

_SET_BY_US = ("lr", "params")
"""What a group holds that is no memory of the optimizer."""


def make_optimizer(parameters: Sequence[nn.Parameter], config: TrainConfig) -> Optimizer:
    """The configured optimizer. Weight decay is decoupled from the gradient in all of them. Raises MissingError."""
    rate, betas, decay = config.learning_rate, config.betas, config.weight_decay
    match config.optimizer:
        case "adamw":
            return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=decay, fused=True)
        case "adamw8bit":
            return _adamw8bit(parameters, lr=rate, betas=betas, weight_decay=decay)
        case "nadam":
            return torch.optim.NAdam(parameters, lr=rate, betas=betas, weight_decay=decay, decoupled_weight_decay=True)
        case "radam":
            return torch.optim.RAdam(parameters, lr=rate, betas=betas, weight_decay=decay, decoupled_weight_decay=True)
        case "adafactor":
            return torch.optim.Adafactor(parameters, lr=rate, weight_decay=decay)
        case "muon":
            return torch.optim.Muon(parameters, lr=rate, momentum=betas[0], weight_decay=decay)
        case "prodigy":
            return _prodigy(parameters, config)


def memory_of(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """Everything the optimizer remembers, as tensors: `<parameter>.<name>`, and `group.<name>` for what is common."""
    memory = {
        f"{i}.{name}": _as_tensor(value)
        for i, parameter in enumerate(parameters)
        for name, value in optimizer.state[parameter].items()
    }
    group = optimizer.param_groups[0]
    return memory | {f"group.{name}": _as_tensor(value) for name, value in _numbers(group).items()}


def remember(optimizer: Optimizer, parameters: Sequence[nn.Parameter], memory: Mapping[str, Tensor]) -> None:
    """Put back what `memory_of` gave, into a new optimizer of the same kind."""
    group = optimizer.param_groups[0]
    for name, number in _numbers(group).items():
        group[name] = type(number)(memory[f"group.{name}"].item())
    kept: dict[int, dict[str, Any]] = {}
    for key, value in memory.items():
        owner, _, name = key.partition(".")
        if owner.isdigit():
            kept.setdefault(int(owner), {})[name] = _as_it_was(value)
    optimizer.load_state_dict({"state": kept, "param_groups": optimizer.state_dict()["param_groups"]})
    for i, parameter in enumerate(parameters):
        for name, loaded in optimizer.state[parameter].items():
            wanted = memory[f"{i}.{name}"]
            # Loading casts to the parameter's type; 8-bit moments must stay what they are.
            if isinstance(loaded, Tensor) and loaded.dtype != wanted.dtype:
                optimizer.state[parameter][name] = wanted.to(loaded.device)


def _adamw8bit(parameters: Sequence[nn.Parameter], **settings: Any) -> Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise MissingError(
            "adamw8bit needs bitsandbytes, which is not installed",
            where="train.optimizer",
            fix="pip install 'bitsandbytes>=0.50,<0.51', or choose adamw",
        ) from error
    made: Optimizer = AdamW8bit(parameters, **settings)
    return made


def _prodigy(parameters: Sequence[nn.Parameter], config: TrainConfig) -> Optimizer:
    from prodigyopt import Prodigy

    made: Optimizer = Prodigy(
        parameters,
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        # Its author's advice for diffusion models, and where the rate is warmed up.
        use_bias_correction=True,
        safeguard_warmup=config.warmup_steps > 0,
    )
    return made


def _numbers(group: Mapping[str, Any]) -> dict[str, int | float]:
    """Numbers of a group that steps may change, like what Prodigy has found out about the rate."""
    return {
        name: value
        for name, value in group.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in _SET_BY_US
    }


def _as_tensor(value: Tensor | float) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)


def _as_it_was(value: Tensor) -> Tensor | float:
    """Python numbers were made tensors of types in which no optimizer keeps a single number of its own."""
    was_number = value.ndim == 0 and value.dtype in (torch.int64, torch.float64)
    return value.item() if was_number else value
