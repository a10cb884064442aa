"""Text to conditioning, exactly as ComfyUI does it for Anima.

Qwen3 reads the text as it is (no template, no special tokens) and gives its last hidden states; the conditioner's
queries are the T5 tokens of the same text, commas kept, ending in `</s>`; its output is padded with zero rows to the
conditioner's minimum (512 in the real model). The transformer gets no text mask: the zero rows are attention sinks.
The empty text is one ordinary padding token for Qwen and `</s>` alone for T5. Nothing is truncated. A weight, as in
`(ribbon:1.2)`, multiplies the conditioner's output rows of its T5 tokens; Qwen never sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import AnimaTextConditioner
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3Model, T5TokenizerFast

from anima.prompt import Segment, literal, read_prompt
from anima.recent import Recent
from anima.vocabulary import unknown_words


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Token ids of one text for both readers, never empty, and a weight for each T5 token."""

    qwen: tuple[int, ...]
    t5: tuple[int, ...]
    weights: tuple[float, ...]


class TextEncoder:
    """Both tokenizers, the encoder and the conditioner, with a cache behind each of the two models.

    Whoever writes into a model's weights says so: `forget_rows` after the conditioner's (a LoRA with `llm_adapter`
    layers), which keeps the encoder's states, and `forget` after the encoder's.
    """

    def __init__(
        self,
        tokenizer: Qwen2Tokenizer,
        t5_tokenizer: T5TokenizerFast,
        encoder: Qwen3Model,
        conditioner: AnimaTextConditioner,
        *,
        cache_bytes: int = 256 * 2**20,
    ) -> None:
        """`cache_bytes` bounds either cache; at the real model's sizes a prompt of 60 tokens takes 0.1 MB in each."""
        self.tokenizer, self.t5_tokenizer = tokenizer, t5_tokenizer
        self.encoder, self.conditioner = encoder, conditioner
        self._states: Recent[tuple[int, ...]] = Recent(cache_bytes)
        self._rows: Recent[PromptTokens] = Recent(cache_bytes)

    def tokens(self, segments: Sequence[Segment]) -> PromptTokens:
        """Tokenize segment by segment for both readers; no text becomes Qwen's padding token and T5's `</s>`."""
        qwen: list[int] = []
        t5: list[int] = []
        weights: list[float] = []
        for segment in segments:
            qwen += self.tokenizer(segment.text, add_special_tokens=False)["input_ids"]
            ids = self.t5_tokenizer(segment.text, truncation=False)["input_ids"][:-1]
            t5 += ids
            weights += [segment.weight] * len(ids)
        t5.append(self.t5_tokenizer.eos_token_id)
        weights.append(1.0)
        return PromptTokens(tuple(qwen) or (self.tokenizer.pad_token_id,), tuple(t5), tuple(weights))

    def rows(self, prompt: str) -> int:
        """Rows of the prompt's conditioning. Only prompts of equal rows share a forward pass."""
        return max(len(self.tokens(read_prompt(prompt)).t5), self.conditioner.config.min_sequence_length)

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that the conditioner cannot see, each once; see `anima.vocabulary`."""
        return unknown_words(read_prompt(prompt), self.t5_tokenizer.backend_tokenizer)

    def condition(self, caption: str) -> Tensor:
        """Conditioning of a caption, taken literally: (rows >= minimum, dim), on the encoder's device."""
        return self._condition(literal(caption))

    def condition_prompt(self, prompt: str) -> Tensor:
        """Conditioning of a prompt with ComfyUI's weights and escapes; else as `condition`. Raises ConfigError."""
        return self._condition(read_prompt(prompt))

    def forget_rows(self) -> None:
        """Run the conditioner anew for every text: its weights have changed."""
        self._rows.clear()

    def forget(self) -> None:
        """Run both models anew for every text: the encoder's weights, or both models', have changed."""
        self._states.clear()
        self._rows.clear()

    @torch.inference_mode()
    def _condition(self, segments: Sequence[Segment]) -> Tensor:
        tokens = self.tokens(segments)
        rows = self._rows.get(tokens, lambda: self._run_conditioner(tokens))
        missing = max(0, self.conditioner.config.min_sequence_length - rows.shape[0])
        return torch.nn.functional.pad(rows, (0, 0, 0, missing))

    def _run_conditioner(self, tokens: PromptTokens) -> Tensor:
        """(T5 tokens, dim): the rows that are not zero."""
        states = self._states.get(tokens.qwen, lambda: self._run_encoder(tokens.qwen))
        ids = torch.tensor([tokens.t5], device=states.device)
        rows = self.conditioner(states, ids)[0, : len(tokens.t5)]
        return rows * torch.tensor(tokens.weights, device=rows.device, dtype=rows.dtype).unsqueeze(1)

    def _run_encoder(self, ids: tuple[int, ...]) -> Tensor:
        """(1, Qwen tokens, dim)."""
        return self.encoder(input_ids=torch.tensor([ids], device=self.encoder.device)).last_hidden_state


def pad_rows(conditions: Sequence[Tensor]) -> Tensor:
    """Stack (rows_i, dim) conditionings into (B, max rows, dim) with zero rows below."""
    longest = max(c.shape[0] for c in conditions)
    return torch.stack([torch.nn.functional.pad(c, (0, 0, 0, longest - c.shape[0])) for c in conditions])
