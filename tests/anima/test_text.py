"""Texts reach the transformer as ComfyUI sends them: literally, whole, weighted, and padded with zero rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from anima.base import POCKET
from anima.load import load_text
from anima.prompt import literal, read_prompt
from anima.text import TextEncoder, pad_rows

TRIO = "3girls, left side: kanachan, center: keichan, right side: koharu, white background"


@pytest.fixture(scope="module")
def shared() -> TextEncoder:
    return load_text(POCKET)


@pytest.fixture
def text(shared: TextEncoder) -> TextEncoder:
    """With empty caches."""
    shared.forget()
    return shared


class Calls:
    """How often each model ran."""

    def __init__(self, text: TextEncoder) -> None:
        self.encoder = self.conditioner = 0
        self._hooks = [
            text.encoder.register_forward_hook(self._saw_encoder),
            text.conditioner.register_forward_hook(self._saw_conditioner),
        ]

    def _saw_encoder(self, *_: object) -> None:
        self.encoder += 1

    def _saw_conditioner(self, *_: object) -> None:
        self.conditioner += 1

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


@pytest.fixture
def calls(text: TextEncoder) -> Iterator[Calls]:
    counted = Calls(text)
    yield counted
    counted.close()


def test_the_empty_text_is_one_padding_token_and_one_end(text: TextEncoder) -> None:
    for empty in (literal(""), read_prompt(""), read_prompt("()")):
        tokens = text.tokens(empty)
        assert tokens.qwen == (text.tokenizer.pad_token_id,)
        assert tokens.t5 == (text.t5_tokenizer.eos_token_id,)
        assert tokens.weights == (1.0,)


def test_the_empty_text_has_the_padding_tokens_ordinary_state(text: TextEncoder) -> None:
    """No mask and no zeros: one key attends to itself whatever a mask of the padding says."""
    with torch.no_grad():
        ids = torch.tensor([[text.tokenizer.pad_token_id]])
        states = text.encoder(input_ids=ids).last_hidden_state
        expected = text.conditioner(states, torch.tensor([[text.t5_tokenizer.eos_token_id]]))[0]
    assert states.abs().max() > 0
    assert torch.equal(text.condition_prompt(""), expected)


def test_commas_are_kept_and_the_end_token_closes(text: TextEncoder) -> None:
    tokens = text.tokens(literal("1girl, long hair"))
    comma = text.t5_tokenizer.convert_tokens_to_ids(",")
    assert tokens.t5.count(comma) == 1
    assert tokens.t5[-1] == text.t5_tokenizer.eos_token_id


def test_nothing_is_truncated(text: TextEncoder) -> None:
    long = ", ".join(["blue ribbon"] * 400)
    tokens = text.tokens(literal(long))
    assert len(tokens.t5) > 1000
    assert text.condition(long).shape[0] == len(tokens.t5)


def test_rows_beyond_the_text_are_zero_up_to_the_minimum(text: TextEncoder) -> None:
    rows = text.condition(TRIO)
    used = len(text.tokens(literal(TRIO)).t5)
    assert rows.shape[0] == text.conditioner.config.min_sequence_length
    assert rows[:used].abs().amax(dim=1).min() > 0
    assert rows[used:].abs().max() == 0


def test_segments_are_tokenized_one_by_one_with_one_end(text: TextEncoder) -> None:
    segments = read_prompt("1girl, (blue hair:1.3), white shirt")
    tokens = text.tokens(segments)
    parts = [text.t5_tokenizer(s.text)["input_ids"][:-1] for s in segments]
    assert tokens.t5 == (*parts[0], *parts[1], *parts[2], text.t5_tokenizer.eos_token_id)
    assert tokens.weights == (*[1.0] * len(parts[0]), *[1.3] * len(parts[1]), *[1.0] * (len(parts[2]) + 1))
    qwen = [i for s in segments for i in text.tokenizer(s.text)["input_ids"]]
    assert list(tokens.qwen) == qwen, "Qwen reads the words, not the parentheses"


def test_weights_multiply_the_conditioners_rows_and_nothing_else(text: TextEncoder) -> None:
    def rows(weight: float) -> torch.Tensor:
        return text.condition_prompt(f"1girl, (blue hair:{weight}), white shirt")

    factors = torch.tensor(text.tokens(read_prompt("1girl, (blue hair:2), white shirt")).weights).unsqueeze(1)
    assert set(factors.flatten().tolist()) == {1.0, 2.0}
    used = factors.shape[0]
    assert torch.equal(rows(2.0)[:used], rows(1.0)[:used] * factors)
    assert rows(2.0)[used:].abs().max() == 0
    assert rows(0.0)[:used][factors.flatten() == 2].abs().max() == 0


def test_a_prompt_without_parentheses_is_its_own_caption(text: TextEncoder) -> None:
    assert torch.equal(text.condition_prompt(TRIO), text.condition(TRIO))
    assert torch.equal(text.condition_prompt("koharu \\(1girl\\)"), text.condition("koharu (1girl)"))
    assert not torch.equal(text.condition_prompt("koharu (1girl)"), text.condition("koharu (1girl)"))


def test_every_trigger_and_every_word_of_the_trio_prompt_is_known(text: TextEncoder) -> None:
    assert text.unknown_words(TRIO) == []
    assert text.unknown_words("koharu, é") == ["é"]
    assert text.unknown_words("(é, é:1.2), koharu, ü") == ["é", "ü"]


def test_each_model_runs_once_for_a_text(text: TextEncoder, calls: Calls) -> None:
    first = text.condition_prompt(TRIO)
    assert torch.equal(text.condition_prompt(TRIO), first)
    assert torch.equal(text.condition(TRIO), first)
    assert (calls.encoder, calls.conditioner) == (1, 1)


def test_other_weights_on_the_same_words_reuse_the_encoders_states(text: TextEncoder, calls: Calls) -> None:
    for weight in (0.8, 1.0, 1.2):
        text.condition_prompt(f"koharu, (blue ribbon:{weight})")
    assert (calls.encoder, calls.conditioner) == (1, 3)


def test_a_changed_conditioner_is_run_anew_on_the_states_that_are_kept(text: TextEncoder, calls: Calls) -> None:
    before = text.condition_prompt(TRIO)
    layer = text.conditioner.blocks[0].cross_attn.q_proj
    assert isinstance(layer, nn.Linear)
    pristine = layer.weight.detach().clone()
    try:
        with torch.no_grad():
            layer.weight += 0.1
        text.forget_rows()
        merged = text.condition_prompt(TRIO)
        assert not torch.equal(merged, before)
        assert (calls.encoder, calls.conditioner) == (1, 2)
    finally:
        with torch.no_grad():
            layer.weight.copy_(pristine)
        text.forget_rows()
    assert torch.equal(text.condition_prompt(TRIO), before)
    assert (calls.encoder, calls.conditioner) == (1, 3)


def test_the_caches_have_a_size(shared: TextEncoder) -> None:
    small = TextEncoder(
        shared.tokenizer, shared.t5_tokenizer, shared.encoder, shared.conditioner, cache_bytes=64 * 1024
    )
    for number in range(40):
        small.condition(f"{TRIO}, {number}")
        assert small._states.size_bytes <= 64 * 1024
        assert small._rows.size_bytes <= 64 * 1024
    assert 0 < len(small._rows) < 40
    assert torch.equal(small.condition(f"{TRIO}, 0"), shared.condition(f"{TRIO}, 0"))


def test_nobody_can_write_into_the_cache(text: TextEncoder) -> None:
    rows = text.condition(TRIO)
    expected = rows.clone()
    with torch.inference_mode():
        rows.zero_()
    assert torch.equal(text.condition(TRIO), expected)


def test_padding_stacks_conditionings_of_different_length() -> None:
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
