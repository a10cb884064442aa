"""Prompts reach the transformer as ComfyUI sends them: literally, whole, and padded with zero rows."""

from __future__ import annotations

import pytest
import torch

from anima.base import POCKET
from anima.load import load_text
from anima.text import TextEncoder, pad_rows

TRIO = "3girls, left side: kanachan, center: keichan, right side: koharu, white background"


@pytest.fixture(scope="module")
def text() -> TextEncoder:
    return load_text(POCKET)


def test_the_empty_prompt_is_one_padding_token_and_one_end(text: TextEncoder) -> None:
    tokens = text.tokens("")
    assert tokens.qwen == (text.tokenizer.pad_token_id,)
    assert tokens.t5 == (text.t5_tokenizer.eos_token_id,)


def test_commas_are_kept_and_the_end_token_closes(text: TextEncoder) -> None:
    tokens = text.tokens("1girl, long hair")
    comma = text.t5_tokenizer.convert_tokens_to_ids(",")
    assert tokens.t5.count(comma) == 1
    assert tokens.t5[-1] == text.t5_tokenizer.eos_token_id


def test_nothing_is_truncated(text: TextEncoder) -> None:
    long = ", ".join(["blue ribbon"] * 400)
    assert len(text.tokens(long).t5) > 1000
    assert text.condition(long).shape[0] == len(text.tokens(long).t5)


def test_rows_beyond_the_prompt_are_zero_up_to_the_minimum(text: TextEncoder) -> None:
    rows = text.condition(TRIO)
    used = len(text.tokens(TRIO).t5)
    assert rows.shape[0] == text.conditioner.config.min_sequence_length
    assert rows[:used].abs().amax(dim=1).min() > 0
    assert rows[used:].abs().max() == 0


def test_every_trigger_and_every_word_of_the_trio_prompt_is_known(text: TextEncoder) -> None:
    assert text.unknown_words(TRIO) == []
    assert text.unknown_words("koharu, é") == ["é"]


def test_padding_stacks_prompts_of_different_length() -> None:
    stacked = pad_rows([torch.ones(2, 3), torch.ones(4, 3)])
    assert stacked.shape == (2, 4, 3)
    assert stacked[0, 2:].abs().max() == 0


def test_training_in_padded_batches_saw_the_same_conditioning(text: TextEncoder) -> None:
    from anima.pocket.train_base import Miniature

    miniature = Miniature(POCKET)
    miniature.encoder.load_state_dict(text.encoder.state_dict())
    miniature.conditioner.load_state_dict(text.conditioner.state_dict())
    prompts = [TRIO, "", "koharu, 1girl, solo"]
    with torch.no_grad():
        batch = miniature.eval().condition(prompts)
    for row, prompt in zip(batch, prompts, strict=True):
        torch.testing.assert_close(row, text.condition(prompt), rtol=1e-4, atol=1e-5)
