"""The plan: the numbers of the real study, early warnings, and that planning needs neither models nor patience."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.planning import audit
from orchestrator.planning.config import load_config
from orchestrator.planning.plan import make_plan, render
from trainer.config import DatasetConfig

TRIO = Path("conf/trio_v2.yaml")
QUICK = Path("conf/quickstart.yaml")


def printed(path: Path, *overrides: str, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(render(make_plan(load_config(path, overrides))))
    return stream.getvalue()


def test_the_real_study_in_numbers() -> None:
    plan = make_plan(load_config(TRIO))
    (trial,) = plan.trials
    assert plan.images == 294
    assert plan.repeats == 2
    assert trial.steps_per_epoch == 147
    assert trial.exposures_per_image == 300
    assert trial.steps == 22_050
    assert trial.saved == 150
    assert trial.pictures == 150 * 6
    assert plan.pictures == 150 * 6 + 86, "no fresh pictures: nothing is adopted without a judge"
    assert "datasets/trio_v2 is not here" in plan.counted


def test_hours_and_dollars_match_what_it_took_by_hand() -> None:
    pods = {pod.offer.name: pod for pod in make_plan(load_config(TRIO)).pods}
    by_hand = pods["RTX 5090"]
    assert by_hand.training_hours == pytest.approx(14, abs=0.5)
    assert by_hand.dollars == pytest.approx(14, abs=1)
    assert by_hand.hours == by_hand.training_hours + by_hand.drawing_hours
    assert 0.2 < by_hand.drawing_hours < 0.5


def test_guidance_doubles_drawing_and_smaller_pictures_take_less() -> None:
    base = make_plan(load_config(TRIO)).pods[0]
    guided = make_plan(load_config(TRIO, ["grid.drawing.cfg=4"])).pods[0]
    small = make_plan(load_config(TRIO, ["grid.drawing.width=512", "train.resolution=[512, 1024]"])).pods[0]
    assert guided.drawing_hours == pytest.approx(2 * base.drawing_hours)
    assert small.drawing_hours == pytest.approx(base.drawing_hours / 2)
    assert small.training_hours == pytest.approx(base.training_hours / 2)


def test_epochs_that_are_saved_and_drawn() -> None:
    plan = make_plan(load_config(TRIO, ["train.save_every=4", "grid.epochs={every: 4, first: 20}"]))
    assert plan.trials[0].saved == 38, "37 multiples of 4, and 150"
    assert plan.trials[0].pictures == (38 - 4) * 6


def test_trials_are_counted_each() -> None:
    plan = make_plan(load_config(QUICK, ["train.epochs=12", "trials={a: {}, b: {epochs: 3}}"]))
    assert [t.pictures for t in plan.trials] == [12 * 8, 3 * 8]
    assert plan.pictures == 15 * 8 + 20


def test_the_quickstart_is_counted_before_it_is_drawn() -> None:
    plan = make_plan(load_config(QUICK, ["dataset.drawn={solo: 16, pair: 8, trio: 12}"]))
    assert plan.images == 3 * 16 + 3 * 8 + 12
    assert plan.pods == ()


def test_the_table_reads_well_in_80_columns_without_colours() -> None:
    text = printed(TRIO)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "\x1b" not in text
    for words in ("steps per epoch        147", "exposures per image    300", "RTX 5090", "dollars"):
        assert words in text
    assert "~" in text
    assert "not measured" in text, "what ~ means is said"


def folder(root: Path, captions: dict[str, str]) -> Path:
    root.mkdir()
    for name, caption in captions.items():
        (root / f"{name}.txt").write_text(caption)
    return root


def test_captions_are_audited_where_the_dataset_is(tmp_path: Path) -> None:
    """The most expensive mistake by hand: one character described, the others not."""
    captions = {f"a{i}": "kanachan, 1girl, brown hair, side ponytail" for i in range(5)}
    captions |= {f"b{i}": "keichan, 1girl, white shirt" for i in range(5)}
    captions |= {f"c{i}": "koharu, 1girl, white shirt" for i in range(2)}
    root = folder(tmp_path / "set", captions)
    plan = make_plan(load_config(TRIO, [f"dataset.root={root}"]))
    assert plan.images == 12
    assert any("hair or eyes: kanachan 5 of 5, keichan 0 of 5, koharu 0 of 2" in w for w in plan.warnings)
    assert any("uneven (kanachan 5, keichan 5, koharu 2)" in w for w in plan.warnings)
    assert any("dataset.expect declares 294" in w for w in plan.warnings)


def test_even_captions_are_not_warned_about() -> None:
    captions = [(("a",), "a, brown hair"), (("b",), "b, blue eyes"), (("a", "b"), "a and b")]
    assert audit.audit_captions(captions, ["a", "b"]) == []
    assert audit.audit_captions([(("a",), "a, chair, eyewear"), (("b",), "b")], ["a", "b"]) == [], "whole words only"


def test_prompts_that_write_looks_are_warned_about() -> None:
    plan = make_plan(
        load_config(QUICK, ["grid.prompts.0.text=3girls, kanachan with brown hair and ahoge, keichan, koharu"])
    )
    assert any("'brown hair', 'ahoge', the looks of kanachan" in w for w in plan.warnings)
    assert not make_plan(load_config(QUICK)).warnings


def test_words_the_text_conditioner_cannot_see_are_warned_about() -> None:
    plan = make_plan(load_config(QUICK, ["grid.prompts.0.text=3girls, kanachan, keichan, koharu, (naïve:1.2)"]))
    (warning,) = plan.warnings
    assert "prompt 'trio' has 'naïve': T5 has no token for it" in warning


def test_other_early_warnings() -> None:
    def warnings(path: Path, *overrides: str) -> str:
        return " / ".join(make_plan(load_config(path, overrides)).warnings)

    assert "trial 'main' does not save: 7" in warnings(QUICK, "train.save_every=2", "grid.epochs=[2, 7]")
    assert "drawn world only" in warnings(TRIO, "judge.name=pixel")
    solo = "grid.prompts.0={name: solo, text: kanachan, cast: [kanachan]}"
    drawn = "dataset.drawn={solo: 16, pair: 8, trio: 12}"
    assert "43% of the pictures show several characters" in warnings(QUICK, solo, drawn)


def test_a_dataset_nobody_counted_is_said_to_be_unknown() -> None:
    config = load_config(TRIO)
    plan = make_plan(config.model_copy(update={"dataset": DatasetConfig(root="nowhere")}))
    assert plan.images == 0
    assert plan.warnings == ("how many pictures there are is not known: give dataset.expect",)


HYGIENE = """
import json, sys, time
from orchestrator.__main__ import main
code = main(sys.argv[1:])
heavy = [m for m in ("torch", "ray", "scipy", "numpy", "wandb", "diffusers", "transformers") if m in sys.modules]
print(json.dumps([code, heavy, time.process_time()]))
"""


@pytest.mark.parametrize("arguments", [["plan", "conf/trio_v2.yaml"], ["plan", "conf/quickstart.yaml"]])
def test_planning_loads_no_models_and_takes_under_a_second(arguments: list[str]) -> None:
    """Seconds of computing, start of Python included: what a clock on the wall shows depends on the neighbours."""
    done = subprocess.run([sys.executable, "-c", HYGIENE, *arguments], capture_output=True, text=True, check=True)
    code, heavy, seconds = json.loads(done.stdout.splitlines()[-1])
    assert (code, heavy) == (0, [])
    assert seconds < 1
