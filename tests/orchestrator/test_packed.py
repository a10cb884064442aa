"""What is packed is a dictionary like any other, and small."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Iterator
from hashlib import sha256

import pytest

from evaluators.grid import cell_of
from orchestrator.core.study import Finding, Sample, Verdict
from orchestrator.planning.wanted import Target
from orchestrator.record.ledger import Event
from orchestrator.record.packed import Packed
from orchestrator.record.state import StudyState
from tests.orchestrator.scripted import JUDGE, checkpoint, target

Key = tuple[str, str, int]


def key(number: int) -> str:
    return sha256(str(number).encode()).hexdigest()[:16]


@pytest.mark.parametrize("seed", range(10))
def test_it_is_a_dictionary(seed: int) -> None:
    """Put in, changed, taken out and put in again, with keys of several judges and some that are no cell's at all."""
    rng, packed, plain = random.Random(seed), Packed[Key, int](4), dict[Key, int]()
    keys = [(key(n), judge, 1) for n in range(60) for judge in ("pixel", "person")]
    keys += [("by hand", "person", 1), ("0" * 16, "person", 2), ("F" * 16, "person", 1), ("0" * 17, "person", 1)]
    for step in range(600):
        one = rng.choice(keys)
        if rng.random() < 0.3:
            assert packed.pop(one, None) == plain.pop(one, None)
        else:
            packed[one] = plain[one] = step
        assert len(packed) == len(plain)
        assert packed.get(one) == plain.get(one)
        assert (one in packed) == (one in plain)
    assert packed == plain
    assert sorted(packed) == sorted(plain)
    assert dict(packed.items()) == plain
    assert all(packed[one] == plain[one] for one in rng.sample(list(plain), len(plain)))
    absent = next(one for one in keys if one not in plain)
    for lookup in (packed.__getitem__, packed.__delitem__):
        with pytest.raises(KeyError):
            lookup(absent)


def test_a_number_is_found_in_whichever_run_it_is() -> None:
    packed = Packed[str, int](2)
    for number in range(1000):
        packed[key(number)] = number
    assert [packed[key(number)] for number in range(1000)] == list(range(1000))
    assert key(1000) not in packed


def test_another_epoch_takes_a_fifth_of_the_memory() -> None:
    wanted = target(epochs=40, seeds=list(range(1, 51)))
    packed = StudyState(cells=Packed(32), samples=Packed(32), verdicts=Packed(32))
    plain = StudyState()
    assert 5 * growth(packed, wanted) < growth(plain, wanted)
    assert len(plain.verdicts) == 2000
    assert packed == plain


def growth(state: StudyState, wanted: Target) -> int:
    """Bytes that the second half of a study adds."""
    for epoch in range(1, 41):
        list(facts(wanted, epoch))  # What is remembered of prompts and keys has its full size from here on.
    sizes = []
    tracemalloc.start()
    try:
        for epoch in range(1, 41):
            for event in facts(wanted, epoch):
                state.apply(event)
            if epoch in (20, 40):
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    return sizes[1] - sizes[0]


def facts(wanted: Target, epoch: int) -> Iterator[Event]:
    """An epoch drawn and judged, in objects of its own as it comes from other processes."""
    for seed in wanted.grid.seeds:
        cell = cell_of(checkpoint("main", epoch), 1.0, wanted.grid.prompts[0], seed, wanted.grid, wanted.base_sha256)
        digest = sha256(cell.key.encode()).hexdigest()
        sample = Sample(cell.key, f"grid/main/epoch-{epoch}/{cell.key}.png", digest, 0.1 * seed)
        finding = Finding("missing", "kanachan", "hair", "brown", "red", confidence=seed / 1000)
        verdict = Verdict(cell.key, *JUDGE, "fail", (finding,), (f"red short hair, brown eyes, {seed}",))
        yield Event("sample_drawn", 1.0, {"cell": cell.to_json(), "sample": sample.to_json()})
        yield Event("verdict_given", 1.0, {"verdict": verdict.to_json()})
