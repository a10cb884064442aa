"""Training that ends because the best epoch is behind: recorded, acted on, resumed, and told with what it saves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from evaluators.config import DecideConfig
from infra.volume import LocalVolume
from orchestrator.controller import Controller
from orchestrator.core.errors import ConfigError
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Finding, Sample, Verdict
from orchestrator.crew.work import InlineCrew, Slice
from orchestrator.planning.config import parse_config
from orchestrator.planning.wanted import Target
from orchestrator.record.ledger import Ledger, read_events
from orchestrator.record.state import StudyState, replay
from orchestrator.watching.status import status_lines, study_status
from orchestrator.watching.watch import PlainLines
from tests.orchestrator.drawn_study import study_config
from tests.orchestrator.scripted import JUDGE, ScriptedCritic, ScriptedTrainer, ScriptedWorkers, target
from trainer.checkpoints import published_checkpoints

TRIAL = "main-00000001"
EPOCHS = 20


class FallingCritic(ScriptedCritic):
    """Epochs 4 to 9 pass every seed, those after them none."""

    def judge(self, cells: Sequence[Cell], samples: Sequence[Sample]) -> list[Verdict]:
        assert [s.cell_key for s in samples] == [c.key for c in cells]
        drift = (Finding("drift", "a", "hair", "brown", "orange"),)
        good = [4 <= c.epoch <= 9 or c.purpose == "confirm" for c in cells]
        return [
            Verdict(c.key, *JUDGE, *(("pass",) if g else ("fail", drift))) for c, g in zip(cells, good, strict=True)
        ]


class PatientTrainer(ScriptedTrainer):
    """Saves an epoch every eighth turn, so that the verdicts on one are there before the next."""

    turns = 0

    def advance(self, turn_s: float) -> Slice:
        self.turns += 1
        return Slice() if self.turns % 8 else super().advance(turn_s)


@dataclass(frozen=True)
class FallingWorkers(ScriptedWorkers):
    def trainer(self, trial: str, attempt: int = 0) -> ScriptedTrainer:  # noqa: ARG002
        return PatientTrainer(self, trial)

    def critic(self) -> ScriptedCritic:
        return FallingCritic()


def wanted(stop: object = "on", **decide_by: object) -> Target:
    config = DecideConfig.model_validate({"stop": stop, "confirm_seeds": 5, **decide_by})
    return replace(target(epochs=EPOCHS, seeds=(1, 2, 3, 4)), decide=config, dollars_per_hour=3.6)


def run(root: Path, study: Target, said: StringIO | None = None) -> StudyState:
    """One run of the real controller; scripted workers of which training saves an epoch a turn."""
    layout, state = Layout(root), replay(read_events(Layout(root).ledger))
    console = Console(file=said or StringIO(), width=200)
    with closing(Ledger(layout.ledger)) as ledger, closing(InlineCrew(FallingWorkers(root, EPOCHS))) as crew:
        watchers = [PlainLines(console, study, state)]
        controller = Controller(
            study,
            LocalVolume(layout),
            ledger,
            state,
            published=lambda trial: published_checkpoints(layout, trial),
            watchers=watchers,
        )
        controller.reconcile()
        controller.open("scripted", {}, base_sha256="b" * 64, dataset_sha256="d" * 64)
        controller.run(crew)
    assert vars_of(state) == vars_of(replay(read_events(layout.ledger))), "the ledger knows all of it"
    return state


def vars_of(state: StudyState) -> list[object]:
    return [getattr(state, name) for name in state.__slots__ if name != "follower"]


def saved(state: StudyState) -> list[int]:
    return sorted(epoch for _, epoch in state.checkpoints)


@pytest.mark.parametrize("policy", ["full", "adaptive"])
def test_training_ends_once_the_best_is_behind_and_the_study_goes_on_with_what_is_there(
    tmp_path: Path, policy: str
) -> None:
    said = StringIO()
    state = run(tmp_path / "study", wanted(policy=policy), said)
    trial = state.trials[TRIAL]
    assert trial.stopped
    assert trial.advice is not None
    last = saved(state)[-1]
    assert 11 < last < EPOCHS, "three bad epochs must be seen first"
    assert trial.advice.epoch in (last, last - 1), "a turn under way may save one more"
    assert 4 <= trial.advice.best_epoch <= 9
    assert trial.advice.epochs_left == EPOCHS - trial.advice.epoch
    assert trial.advice.hours == pytest.approx(0.5 * trial.advice.epochs_left / 3600, abs=1e-4), "half a second each"
    assert trial.advice.dollars == pytest.approx(3.6 * trial.advice.hours, abs=0.01)
    assert state.choice is not None
    assert 4 <= state.choice.epoch <= 9
    assert state.finished_at is not None
    assert f"trial stopped | trial={TRIAL}" in said.getvalue()
    assert "training ended" in said.getvalue()
    told = "\n".join(status_lines(study_status(Layout(tmp_path / "study"), wanted(policy=policy))))
    assert f"{last} of {last} epochs saved" in told
    assert "stopped, saving" in told


def test_a_stop_holds_for_the_next_run_and_not_for_one_that_does_not_stop(tmp_path: Path) -> None:
    root = tmp_path / "study"
    first = saved(run(root, wanted()))
    assert saved(run(root, wanted())) == first, "nothing is trained again"
    assert saved(run(root, wanted("off"))) == list(range(1, EPOCHS + 1))


def test_an_epoch_lost_after_the_stop_is_made_again_and_no_more_than_that(tmp_path: Path) -> None:
    root = tmp_path / "study"
    before = run(root, wanted())
    Layout(root).adapter(TRIAL, 6).write_bytes(b"torn")
    after = run(root, wanted())
    assert saved(after) == saved(before)
    assert after.trials[TRIAL].stopped
    trained = ScriptedWorkers(root, EPOCHS).calls()
    assert trained.count(f"train {TRIAL} 6") == 2


def test_advice_is_given_once_and_training_goes_on(tmp_path: Path) -> None:
    said = StringIO()
    state = run(tmp_path / "study", wanted("advise"), said)
    assert saved(state) == list(range(1, EPOCHS + 1))
    assert said.getvalue().count("stopping advised") == 1
    assert not state.trials[TRIAL].stopped
    told = "\n".join(status_lines(study_status(Layout(tmp_path / "study"), wanted("advise"))))
    assert "stopping would have saved" in told


def test_neither_before_enough_exposures_nor_when_switched_off(tmp_path: Path) -> None:
    late = run(tmp_path / "late", wanted(stop_exposures=18))
    assert saved(late)[-1] in (18, 19), "an epoch is one exposure"
    never = run(tmp_path / "never", wanted("off"))
    assert saved(never)[-1] == EPOCHS
    assert never.trials[TRIAL].advice is None


def test_yaml_s_bare_on_and_off_are_read_as_the_words() -> None:
    assert DecideConfig.model_validate({"stop": True}).stop == "on"
    assert DecideConfig.model_validate({"stop": False}).stop == "off"


def test_an_hour_is_priced_by_number_or_by_the_rate_table(tmp_path: Path) -> None:
    config = study_config(tmp_path, epochs=2, seeds=2, confirm=1).model_dump(mode="json")

    def priced(price: object) -> object:
        return parse_config(config | {"cluster": {"dollars_per_hour": price}}).cluster.dollars_per_hour

    assert priced(0.5) == 0.5
    assert priced("RTX 5090") == "RTX 5090"
    with pytest.raises(ConfigError, match="one of: RTX 4090"):
        priced("RTX 9999")
