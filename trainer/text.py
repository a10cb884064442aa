"""The text side of training: finished conditionings, or the conditioner trained along with the transformer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from anima.load import Base
from anima.prompt import literal
from anima.text import pad_rows
from trainer.cache import Encoder, TextCache


class Text(Protocol):
    """Gives the transformer its conditioning."""

    encoders: tuple[nn.Module, ...]
    """What need not be in a GPU's memory once all captions of an epoch are encoded."""

    def prepare(self, captions: Iterable[str]) -> None:
        """Do for good what can be done beforehand."""

    def expect(self, captions: Iterable[str]) -> None:
        """The same for captions that pass: they are forgotten at the next call."""

    def get(self, captions: Sequence[str]) -> Tensor:
        """(B, rows, dim), padded with zero rows to the longest, on the base's device and of its type."""


class FrozenText:
    """Conditionings from the cache: the text encoder and the conditioner run once per caption."""

    def __init__(self, folder: Path, base: Base, identity: str) -> None:
        self._base = base
        self.encoders: tuple[nn.Module, ...] = (base.text.encoder, base.text.conditioner)
        encoder = Encoder(base.text.condition, self.encoders, base.device)
        self._cache = TextCache(folder, f"conditioning {base.dtype}", identity, encoder)
        self.prepare, self.expect = self._cache.prepare, self._cache.expect

    def get(self, captions: Sequence[str]) -> Tensor:
        return pad_rows([self._cache.get(caption) for caption in captions]).to(self._base.device, self._base.dtype)


class TrainedText:
    """The encoder's states from the cache, and from them, at each step, the conditioner with its adapter."""

    def __init__(self, folder: Path, base: Base, identity: str) -> None:
        self._base = base
        self.encoders: tuple[nn.Module, ...] = (base.text.encoder,)
        encoder = Encoder(self._states, self.encoders, base.device)
        self._cache = TextCache(folder, f"encoder states {base.dtype}", identity, encoder)
        self.prepare, self.expect = self._cache.prepare, self._cache.expect

    def get(self, captions: Sequence[str]) -> Tensor:
        return pad_rows([self._condition(caption) for caption in captions]).to(self._base.dtype)

    def _condition(self, caption: str) -> Tensor:
        base = self._base
        states = self._cache.get(caption).to(base.device).unsqueeze(0)
        ids = base.text.tokens(literal(caption)).t5
        with torch.autocast(base.device.type, base.dtype, enabled=base.dtype != torch.float32):
            rows: Tensor = base.text.conditioner(states, torch.tensor([ids], device=base.device))
        return rows[0]

    @torch.inference_mode()
    def _states(self, caption: str) -> Tensor:
        """(tokens, dim): what `anima.text` feeds the conditioner."""
        text = self._base.text
        ids = torch.tensor([text.tokens(literal(caption)).qwen], device=text.encoder.device)
        states: Tensor = text.encoder(input_ids=ids).last_hidden_state
        return states[0]
