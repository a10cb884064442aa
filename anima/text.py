"""Prompts to conditioning, exactly as ComfyUI does it for Anima.

Qwen3 reads the prompt as it is (no template, no special tokens) and gives its last hidden states; the conditioner's
queries are the T5 tokens of the same prompt, commas kept, ending in `</s>`; its output is padded with zero rows to the
conditioner's minimum (512 in the real model). The transformer gets no text mask: the zero rows are attention sinks.
The empty prompt is one ordinary padding token for Qwen and `</s>` alone for T5. Nothing is truncated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import AnimaTextConditioner
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3Model, T5TokenizerFast


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Token ids of one prompt for both readers; never empty."""

    qwen: tuple[int, ...]
    t5: tuple[int, ...]


class TextEncoder:
    """Both tokenizers, the encoder and the conditioner, with a cache of finished prompts."""

    def __init__(
        self,
        tokenizer: Qwen2Tokenizer,
        t5_tokenizer: T5TokenizerFast,
        encoder: Qwen3Model,
        conditioner: AnimaTextConditioner,
    ) -> None:
        self.tokenizer, self.t5_tokenizer = tokenizer, t5_tokenizer
        self.encoder, self.conditioner = encoder, conditioner
        self._finished: dict[str, Tensor] = {}

    def tokens(self, prompt: str) -> PromptTokens:
        """Tokenize for both readers; the empty prompt becomes Qwen's padding token and T5's `</s>`."""
        qwen = self.tokenizer(prompt, add_special_tokens=False)["input_ids"] or [self.tokenizer.pad_token_id]
        t5 = self.t5_tokenizer(prompt, truncation=False)["input_ids"]
        return PromptTokens(tuple(qwen), tuple(t5))

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that the conditioner cannot see: they contain a T5 `<unk>`."""
        unknown = self.t5_tokenizer.unk_token_id
        return [word for word in prompt.split() if unknown in self.t5_tokenizer(word)["input_ids"]]

    @torch.inference_mode()
    def condition(self, prompt: str) -> Tensor:
        """Conditioning of one prompt: (rows >= minimum, dim), on the encoder's device, cached."""
        if prompt not in self._finished:
            tokens = self.tokens(prompt)
            device = self.encoder.device
            states = self.encoder(input_ids=torch.tensor([tokens.qwen], device=device)).last_hidden_state
            rows = self.conditioner(states, torch.tensor([tokens.t5], device=device))
            self._finished[prompt] = rows[0].clone()
        return self._finished[prompt]

    def condition_batch(self, prompts: Sequence[str]) -> Tensor:
        """Conditioning of several prompts, padded with zero rows to the longest: (B, rows, dim)."""
        return pad_rows([self.condition(p) for p in prompts])


def pad_rows(conditions: Sequence[Tensor]) -> Tensor:
    """Stack (rows_i, dim) conditionings into (B, max rows, dim) with zero rows below."""
    longest = max(c.shape[0] for c in conditions)
    return torch.stack([torch.nn.functional.pad(c, (0, 0, 0, longest - c.shape[0])) for c in conditions])
