"""Policies: what they ask for, in which order, within which bounds; and that adaptive drawing pays."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from benchmarks.decide import SPACE, adaptively, answered, ask_for, by_hand, streamed
from benchmarks.worlds import EPOCHS, Setting, World
from evaluators.decide.adaptive import CONTROL_EVERY, FIRST_LOOKS, LOOKS, adaptive
from evaluators.decide.choice import decide
from evaluators.decide.curve import estimate
from evaluators.decide.grids import coarse_to_fine, full
from evaluators.decide.situation import Ask, Situation, Space
from evaluators.decide.table import Context
from evaluators.grid import FINALISTS

SMALL = Space(planned=tuple(range(1, 13)), seeds=(1, 2), weights=(0.8, 1.0), contexts=(Context("a"), Context("b")))


def saved(space: Space, epochs: int, **facts: object) -> Situation:
    return replace(Situation(space, space.planned[:epochs]), **facts)  # type: ignore[arg-type]


def after(policy: object, world: World, situation: Situation, rounds: int, batch: int = 8) -> Situation:
    """The situation after so many rounds of asking and answering."""
    for _ in range(rounds):
        asks = policy(situation, batch)  # type: ignore[operator]
        situation = answered(world, situation, getattr(asks, "asks", asks))
    return situation


def test_full_asks_for_the_whole_grid_newest_first_and_each_picture_once() -> None:
    situation = saved(SMALL, 2)
    first = full(situation, 5)
    assert [a.epoch for a in first] == [2] * 5
    everything = full(situation, 1000)
    assert len(set(everything)) == 2 * 2 * 2 * 2
    assert full(replace(situation, asked=frozenset(everything)), 10) == ()


def test_a_budget_holds_for_every_policy() -> None:
    world = World(Setting(), 1)
    for policy in (full, coarse_to_fine, lambda s, n: adaptive(s, n).asks):
        end = after(policy, world, Situation(SPACE, SPACE.planned, budget=37), rounds=40)
        assert len(end.asked) == 37


def test_coarse_to_fine_draws_every_fourth_then_three_finalists_on_ten_other_seeds() -> None:
    end = ask_for(World(Setting(), 2), coarse_to_fine, 1000)
    first = [a for a in end.asked if a.seed in SPACE.seeds]
    again = [a for a in end.asked if a.seed not in SPACE.seeds]
    assert {a.epoch for a in first} == {*range(4, 151, 4), 150}
    assert len(first) == 38 * 6
    assert len({a.epoch for a in again}) == FINALISTS
    assert len(again) == FINALISTS * 10
    assert len({a.seed for a in again}) == 10, "the same for all finalists"
    assert by_hand(end) in {a.epoch for a in again}


def test_the_finalists_wait_for_training_and_for_late_verdicts() -> None:
    world, policy = World(Setting(), 2), partial(coarse_to_fine, stride=50)
    early = after(policy, world, Situation(SPACE, SPACE.planned[:120]), rounds=9)
    assert {a.epoch for a in early.asked} == {50, 100}
    done = after(policy, world, replace(early, saved=SPACE.planned), rounds=1)
    late = next(a for a in sorted(done.asked) if a.epoch == 150)
    waiting = replace(done, pending=frozenset({late}))
    assert policy(waiting, 8) == ()
    assert len(policy(replace(waiting, pending=frozenset()), 8)) == 8


def test_a_verdict_that_never_comes_holds_nobody_up() -> None:
    world, policy = World(Setting(), 2), partial(coarse_to_fine, stride=50)
    done = after(policy, world, Situation(SPACE, SPACE.planned), rounds=3)
    lost = replace(done, rows=done.rows[3:])
    asks = policy(lost, 100)
    assert len(asks) == 30
    assert not set(asks) & lost.asked


def test_adaptive_looks_everywhere_first() -> None:
    world = World(Setting(), 3)
    asks = adaptive(Situation(SPACE, SPACE.planned), FIRST_LOOKS * LOOKS, control=False).asks
    epochs = sorted({a.epoch for a in asks})
    assert len(epochs) == FIRST_LOOKS
    assert max(np.diff(epochs)) <= EPOCHS / FIRST_LOOKS + 1
    assert len({a.seed for a in asks}) == len(asks), "every picture on a seed of its own"
    situation = answered(world, Situation(SPACE, SPACE.planned), asks)
    assert adaptive(situation, 8, control=False).process is not None


def test_adaptive_never_asks_twice_and_is_a_function_of_the_situation() -> None:
    world = World(Setting(1.5), 4)
    situation = after(lambda s, n: adaptive(s, n), world, Situation(SPACE, SPACE.planned), rounds=12)
    assert len(situation.asked) == 96
    again = replace(situation, rows=tuple(reversed(situation.rows)))
    assert adaptive(situation, 8).asks == adaptive(again, 8).asks
    assert not set(adaptive(situation, 40).asks) & situation.asked


def test_adaptive_keeps_a_share_for_the_control_on_seeds_that_are_shared() -> None:
    world = World(Setting(), 5)
    situation = after(adaptive, world, Situation(SPACE, SPACE.planned), rounds=12)
    controls = [a for a in situation.asked if a.weight == 0]
    assert len(controls) == 96 // CONTROL_EVERY
    drawn = {a.seed for a in situation.asked if a.weight != 0}
    assert {a.seed for a in controls} <= drawn
    assert len(situation.table().control) == len(controls)


def test_adaptive_spends_at_its_pace_while_training_goes_on() -> None:
    world = World(Setting(), 6)
    half = after(adaptive, world, saved(SPACE, 75, budget=200), rounds=30)
    assert len(half.asked) == 50
    assert {a.epoch for a in half.asked if a.weight} <= set(range(1, 76))
    done = after(adaptive, world, replace(half, saved=SPACE.planned), rounds=30)
    assert len(done.asked) == 200


def test_adaptive_has_nothing_to_ask_before_an_epoch_is_there() -> None:
    assert adaptive(Situation(SPACE, ()), 8).asks == ()


def test_adaptive_spreads_over_weights_and_prompts() -> None:
    space = replace(SPACE, weights=(0.8, 1.0), contexts=(Context("a"), Context("b")))
    world = World(Setting(), 7)
    situation = after(adaptive, world, Situation(space, space.planned), rounds=8)
    assert {(a.weight, a.context.prompt) for a in situation.asked if a.weight} == {
        (w, p) for w in (0.8, 1.0) for p in ("a", "b")
    }


def test_prompts_that_do_not_count_are_hardly_drawn() -> None:
    space = replace(SPACE, contexts=(Context("a"), Context("b")), prompt_weights=(("b", 0.0),))
    situation = after(adaptive, World(Setting(), 7), Situation(space, space.planned), rounds=12)
    compared = [a for a in situation.asked if a.weight and a.epoch]
    assert sum(a.context.prompt == "b" for a in compared) <= FIRST_LOOKS * LOOKS


def test_adaptive_gathers_where_the_curve_is_high() -> None:
    world = World(Setting(), 8)
    situation = after(adaptive, world, Situation(SPACE, SPACE.planned), rounds=20)
    good = set(np.flatnonzero(world.rates > world.rates.max() - 0.1) + 1)
    late = [row for row in situation.rows[60:] if row.weight]
    assert sum(row.epoch in good for row in late) / len(late) > 0.7


def test_where_seeds_differ_the_telling_ones_are_drawn_again() -> None:
    world = World(Setting(2.5), 9)
    situation = after(adaptive, world, Situation(SPACE, SPACE.planned), rounds=22)
    outcomes: dict[str, list[bool]] = {}
    for row in situation.rows:
        if row.weight:
            outcomes.setdefault(row.seed, []).append(row.outcome == "pass")
    often = [seed for seed, said in outcomes.items() if len(said) >= 6]
    assert often, "contrasts share seeds"
    mixed = [seed for seed in often if 0 < sum(outcomes[seed]) < len(outcomes[seed])]
    assert len(mixed) >= 0.6 * len(often), "a seed that all pass or none teaches little"


@pytest.mark.parametrize("seed_sd", [0.0, 1.5])
def test_adaptive_finds_good_epochs_at_a_ninth_of_the_full_grids_pictures(seed_sd: float) -> None:
    """A few of the simulated studies of `python -m benchmarks.decide`, whose bounds hold over hundreds."""
    regrets = []
    for number in range(8):
        world = World(Setting(seed_sd), number)
        (situation,) = adaptively(world, (102,))
        assert len(situation.asked) == 102
        regrets.append(world.regret(decide(estimate(situation.table(), draws=500), 0.05).chosen.epoch))
    assert np.mean(regrets) < 0.075


def test_a_stream_with_late_and_lost_verdicts_ends_with_a_choice() -> None:
    world = World(Setting(1.0), 11)
    end = streamed(world, 120)
    assert len(end.asked) == 120
    assert len(end.rows) < 120, "some verdicts never came"
    assert not end.pending
    assert world.regret(decide(estimate(end.table(), draws=500), 0.05).chosen.epoch) < 0.15


def test_a_simulated_world_answers_the_same_whoever_asks() -> None:
    ask = Ask(80, 1.0, SPACE.contexts[0], 5)
    one, other = World(Setting(1.5), 3), World(Setting(1.5), 3)
    other.row(replace_seed(ask, 9))
    assert one.row(ask) == other.row(ask)


def replace_seed(ask: Ask, seed: int) -> Ask:
    return ask._replace(seed=seed)
