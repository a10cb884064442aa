"""The published comparison trains the real thing on every side, and its arithmetic is right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.merge import Size
from benchmarks.train import (
    LATENT,
    POCKET_TRAIN,
    REAL_TRAIN,
    TEXT_ROWS,
    TOKENS,
    Measured,
    cache_seconds,
    count_memory,
    count_pocket,
    count_real,
    main,
    measure,
    peak_tflops,
    pocket_work,
    table,
)
from benchmarks.training_sides import Plain, Work, ours
from trainer.config import TrainConfig

TRAIN = POCKET_TRAIN.model_copy(update={"rank": 4, "grad_accum": 2})


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    torch.set_num_threads(1)
    return pocket_work(tmp_path_factory.mktemp("train"), 2, TRAIN)


def test_both_sides_train_the_same_layers_on_the_same_numbers(work: Work) -> None:
    plain = Plain(work, cached=True)
    assert plain.layers == 60
    assert sum(p.numel() for p in plain.parameters) == 4 * 6 * (160 * 2 * 6 + (160 + 128) * 2 + (160 + 640) * 2)
    again = Plain(work, cached=False)
    assert plain.step() == pytest.approx(again.step(), rel=1e-4), "what is cached is what would be encoded"


def test_caches_are_made_from_nothing(work: Work, tmp_path: Path) -> None:
    assert cache_seconds(work, tmp_path) > 0
    # Latents of two pictures; their captions and the empty one.
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2 + len(
        {""} | {f.read_text() for f in work.pictures.glob("*.txt")}
    )


def test_sides_take_turns_and_every_timed_step_counts(work: Work) -> None:
    order: list[str] = []

    def side(name: str):
        def step() -> float:
            order.append(name)
            return 0.5

        return lambda: step

    results = measure({"a": side("a"), "b": side("b")}, rounds=3, warm_up=1, cuda=False)
    assert [len(result.seconds) for result in results] == [3, 3]
    assert sorted(order[2:4]) == ["a", "b"]
    assert order[0] != order[2], "nobody always comes first"
    (mine,) = measure({"ours": lambda: ours(work)}, rounds=2, warm_up=0, cuda=False)
    assert 0 < mine.loss < 3
    assert min(mine.seconds) > 0


def test_ratios_and_shares_follow_from_the_median_step() -> None:
    fast, slow = Measured("fast", [0.5, 0.5, 9.0], 20.0, 0.25), Measured("slow", [1.0], None, 0.5)
    rows = table([fast, slow], pictures=4, flops=10 * 10**12, peak=160.0).splitlines()[2:]
    assert rows == ["| fast | 8.00 | 1.00 | 50.0% | 20.0 GB | 0.250 |", "| slow | 4.00 | 2.00 | 25.0% | – | 0.500 |"]
    assert (peak_tflops("NVIDIA H200"), peak_tflops("NVIDIA GeForce RTX 4090"), peak_tflops("abacus")) == (
        989.0,
        165.2,
        None,
    )


def products(blocks: int, width: int, text: int, rank: int, tokens: int, rows: int) -> int:
    """Multiply-adds, times two, of one forward pass through the blocks' linear layers, adapters and attention."""
    square = tokens * width * width
    linear = 6 * square + 2 * 4 * square + 2 * rows * text * width
    inputs_and_outputs = tokens * (6 * 2 * width + 2 * 5 * width) + rows * 2 * (text + width)
    attention = 2 * tokens * (tokens + rows) * width
    return 2 * blocks * (linear + rank * inputs_and_outputs + attention)


def test_the_count_of_a_real_step_is_what_the_sizes_say() -> None:
    plain = products(2, 2048, 1024, 256, TOKENS, TEXT_ROWS)
    base = products(2, 2048, 1024, 0, TOKENS, TEXT_ROWS)
    # Backwards the base's layers make one product each, adapters and attention two.
    adapters = plain - base
    attention = 2 * 2 * 2 * TOKENS * (TOKENS + TEXT_ROWS) * 2048
    expected = plain + base + 2 * adapters + attention
    assert LATENT == 1024 // 8
    assert count_real(size=Size(blocks=2)) == pytest.approx(expected, rel=0.05)


def test_computing_activations_again_costs_a_forward_pass_more() -> None:
    off, on = (
        count_pocket(TrainConfig.model_validate(TRAIN.model_dump() | {"checkpointing": c})) for c in ("off", "on")
    )
    assert 1.2 * off < on < 1.6 * off


def test_without_a_gpu_the_real_sizes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["--real"]) == 3
    assert "on a GPU" in capsys.readouterr().err


def test_checkpointing_trades_what_blocks_keep_for_their_inputs() -> None:
    memory = count_memory(REAL_TRAIN.model_copy(update={"rank": 8}), Size(blocks=3, heads=1, text=64, modulation=16), 8)
    width, tokens, rows = 128, 16, TEXT_ROWS
    ins_and_outs = 3 * (8 * (6 * 2 * width + 2 * 5 * width + 2 * (64 + width)))
    assert memory.adapter == ins_and_outs * 18
    assert memory.boundary == tokens * width * 2
    assert (
        memory.total(checkpointing=False) - memory.total(checkpointing=True) == 2 * memory.block - 3 * memory.boundary
    )
    # Per token at least: the MLP's inside twice, before and after its activation, and queries of both attentions.
    assert memory.block > tokens * width * 2 * (2 * 4 + 2) + rows * width * 2 * 2
