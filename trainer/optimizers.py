"""Optimizers by name, all of them torch's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from trainer.config import TrainConfig


def make_optimizer(parameters: Sequence[nn.Parameter], config: TrainConfig) -> Optimizer:
    """The configured optimizer. Weight decay is decoupled from the gradient in all of them."""
    rate, betas, decay = config.learning_rate, config.betas, config.weight_decay
    match config.optimizer:
        case "adamw":
            return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=decay, fused=True)
        case "nadam":
            return torch.optim.NAdam(parameters, lr=rate, betas=betas, weight_decay=decay, decoupled_weight_decay=True)
        case "radam":
            return torch.optim.RAdam(parameters, lr=rate, betas=betas, weight_decay=decay, decoupled_weight_decay=True)
        case "adafactor":
            return torch.optim.Adafactor(parameters, lr=rate, weight_decay=decay)
        case "muon":
            return torch.optim.Muon(parameters, lr=rate, momentum=betas[0], weight_decay=decay)
