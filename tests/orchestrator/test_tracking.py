"""W&B records of a drawn study, read back from the files real W&B wrote."""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import wandb
from PIL import Image

from evaluators.rates import epoch_rates, wilson
from infra.config import VolumeConfig
from orchestrator.core.layout import Layout
from orchestrator.core.study import COUNTED_KINDS, EpochRate
from orchestrator.planning.config import StudyConfig, parse_config, to_data
from orchestrator.record.ledger import Event, read_events
from orchestrator.record.state import StudyState, replay
from orchestrator.tracking import Origin, Tracker
from orchestrator.tracking.identity import STUDY, study_run_id, trial_run_id
from orchestrator.tracking.live import LiveCurve, leader
from tests.orchestrator import scripted, wandb_log
from tests.orchestrator.drawn_study import BASE, DATASET, DrawnStudy, draw_samples, draw_study

ROOT = Path(__file__).parents[2]
KEY = "0123456789" * 4


@dataclass
class Warned:
    """Takes what the tracker complains about."""

    lines: list[str] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        self.lines.append(line)


def configured(study: DrawnStudy, **changes: Any) -> StudyConfig:
    """The study's configuration with other W&B settings."""
    data = to_data(study.config)
    return parse_config(data | {"wandb": data["wandb"] | changes})


def track(
    config: StudyConfig, layout: Layout, before: Sequence[Event], events: Sequence[Event], warn: Warned | None = None
) -> Warned:
    """One run of the driver: `before` is on the ledger already, `events` happen now."""
    warned = warn or Warned()
    state = replay(before)
    with warnings.catch_warnings():
        # The client leaves the folders of its artifacts to the garbage collector, whenever that comes.
        warnings.filterwarnings("ignore", "Implicitly cleaning up", ResourceWarning)
        tracker = Tracker.open(config, layout, origin=Origin(BASE, DATASET), warn=warned)
        for event in events:
            state.apply(event)
            tracker.record(event, state)
        tracker.finish(state)
        wandb.teardown()
        gc.collect()
    return warned


def rows_with(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    return [row for row in rows if key in row]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> DrawnStudy:
    """A finished study, tracked offline from beginning to end."""
    drawn = draw_study(tmp_path_factory.mktemp("tracked"), epochs=6, seeds=4, confirm=4)
    warned = track(drawn.config, drawn.layout, [], list(read_events(drawn.layout.ledger)))
    assert warned.lines == []
    return drawn


def segments(study: DrawnStudy, key: str | None = None) -> list[Path]:
    """The segments of the trial's run, or of the run named by `key`."""
    key = study.trial if key is None else key
    wanted = study_run_id(study.config) if key == STUDY else trial_run_id(study.config, key)
    return [s for s in wandb_log.segments(study.layout.root) if s.stem == f"run-{wanted}"]


@pytest.fixture(scope="module")
def segment(study: DrawnStudy) -> Path:
    """What the trial's run holds."""
    (only,) = segments(study)
    return only


@pytest.fixture(scope="module")
def whole(study: DrawnStudy) -> Path:
    """What the study's own run holds."""
    (only,) = segments(study, STUDY)
    return only


@pytest.fixture
def fresh(tmp_path: Path) -> DrawnStudy:
    return draw_study(tmp_path, epochs=3, seeds=2, confirm=2)


def test_the_study_has_a_run_and_each_trial_has_one_in_its_group(study: DrawnStudy, segment: Path, whole: Path) -> None:
    assert all(path.parent.name.startswith("offline-run-") for path in (segment, whole))
    runs = [wandb_log.run_record(path) for path in (whole, segment)]
    assert [(run.project, run.run_group) for run in runs] == [("anima-studies", "drawn")] * 2
    assert [(run.run_id, run.display_name, run.job_type) for run in runs] == [
        (study_run_id(study.config), "drawn", "study"),
        (trial_run_id(study.config, study.trial), f"drawn {study.trial}", "trial"),
    ]
    of_study, of_trial = ({i.key: json.loads(i.value_json) for i in run.config.update} for run in runs)
    assert of_study["grid"]["seeds"] == of_trial["grid"]["seeds"] == [1, 2, 3, 4]
    assert of_trial["train"]["rank"] == 16
    assert (of_trial["base_sha256"], of_trial["dataset_sha256"]) == (BASE, DATASET)
    assert len(of_trial["code"]["sha256"]) == 64


def test_the_rate_curve_is_in_the_record(study: DrawnStudy, segment: Path) -> None:
    verdicts = {key: v for (key, _, _), v in study.state.verdicts.items()}
    curve = epoch_rates(study.state.cells.values(), verdicts)
    rows = rows_with(wandb_log.history(segment), "eval/rate")
    assert [row["epoch"] for row in rows] == [r.epoch for r in curve] == [1, 2, 3, 4, 5, 6]
    for row, rate in zip(rows, curve, strict=True):
        told = [row[f"eval/{name}"] for name in ("rate", "low", "high", "passes", "scored", "unscored")]
        assert told == pytest.approx([rate.rate, rate.low, rate.high, rate.passes, rate.scored, 0])
        mine = [c.key for c in study.state.cells.values() if c.epoch == rate.epoch and c.purpose == "select"]
        kinds = [f.kind for key in mine for f in verdicts[key].findings]
        assert [row[f"findings/{k}"] for k in COUNTED_KINDS] == [kinds.count(k) for k in COUNTED_KINDS]


def test_the_loss_of_every_step_is_in_the_record(study: DrawnStudy, segment: Path) -> None:
    facts = [json.loads(line) for line in study.layout.metrics(study.trial).read_text().splitlines()]
    rows = rows_with(wandb_log.history(segment), "train/loss")
    told = [(row["train/step"], row["train/epoch"], row["train/loss"], row["train/learning_rate"]) for row in rows]
    assert told == [(f["step"], f["epoch"], pytest.approx(f["loss"]), f["learning_rate"]) for f in facts]
    assert len(told) == 30
    epochs = rows_with(wandb_log.history(segment), "epochs/loss")
    losses = [study.state.checkpoints[study.trial, e].loss for e in range(1, 7)]
    assert [row["epochs/loss"] for row in epochs] == pytest.approx(losses)


def test_curves_have_axes_of_their_own_and_history_only_goes_forward(segment: Path) -> None:
    axes = wandb_log.metrics(segment)
    assert axes["eval/*"] == axes["epochs/*"] == "epoch"
    assert axes["train/*"] == "train/step"
    steps = [row["_step"] for row in wandb_log.history(segment)]
    assert steps == sorted(set(steps))


def test_the_best_and_worst_pictures_are_in_a_table_with_their_findings(study: DrawnStudy, whole: Path) -> None:
    choice = study.state.choice
    assert choice is not None
    rows, files = wandb_log.table(whole, "best_and_worst_cells")
    verdicts = {key: v for (key, _, _), v in study.state.verdicts.items()}
    by_place = {(c.epoch, c.seed): c for c in study.state.cells.values()}
    assert {r["group"] for r in rows} == {"best", "worst"}
    for row in rows:
        cell = by_place[row["epoch"], row["seed"]]
        verdict = verdicts[cell.key]
        assert row["verdict"] == verdict.outcome == ("pass" if row["group"] == "best" else "fail")
        assert row["findings"] == "; ".join(f.sentence() for f in verdict.findings)
        assert row["seen"] == " | ".join(verdict.seen)
        with (
            Image.open(files[row["image"]["path"]]) as shown,
            Image.open(study.layout.resolve(study.state.samples[cell.key].image)) as drawn,
        ):
            assert shown.convert("RGB").tobytes() == drawn.convert("RGB").tobytes()
    worst = [by_place[r["epoch"], r["seed"]].key for r in rows if r["group"] == "worst"]
    findings = [len(verdicts[key].findings) for key in worst]
    assert findings == sorted(findings, reverse=True)
    assert rows[0]["epoch"] == choice.epoch
    assert all(path.is_relative_to(study.layout.root) for path in files.values())


def test_the_choice_is_the_summary_and_the_curve_a_table(study: DrawnStudy, whole: Path) -> None:
    choice, told = study.state.choice, wandb_log.summary(whole)
    assert choice is not None
    facts = {
        name: told[f"choice/{name}"] for name in ("epoch", "weight", "first_try_rate", "low", "high", "n", "reason")
    }
    low, high = choice.interval
    assert facts == {
        "epoch": choice.epoch,
        "weight": choice.weight,
        "first_try_rate": pytest.approx(choice.first_try_rate),
        "low": pytest.approx(low),
        "high": pytest.approx(high),
        "n": 4,
        "reason": choice.reason,
    }
    assert [(r["epoch"], r["scored"]) for r in wandb_log.table(whole, "rates")[0]] == [(e, 4) for e in range(1, 7)]


def test_the_charts_of_the_report_are_there(whole: Path) -> None:
    (row,) = rows_with(wandb_log.history(whole), "figures/rate.path")
    assert {"figures/plateau.path", "figures/loss.path"} <= row.keys()
    with Image.open(whole.parent / "files" / row["figures/rate.path"]) as chart:
        assert chart.width > 400


def driver(config: StudyConfig, layout: Layout, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process that opens a tracker on the study's ledger, and finishes it."""
    program = (
        "import json, pathlib, sys; from orchestrator.planning.config import parse_config;"
        "from orchestrator.tracking import Tracker;"
        "from orchestrator.core.layout import Layout; from orchestrator.record.ledger import read_events;"
        "from orchestrator.record.state import replay; from orchestrator.tracking import writer; writer.INIT_S = 1.0;"
        "layout = Layout(pathlib.Path(sys.argv[1])); state = replay(read_events(layout.ledger));"
        "tracker = Tracker.open(parse_config(json.loads(sys.argv[2])), layout); tracker.step('other', 1, 1, 0.5, 1e-3);"
        "tracker.finish(state); print('wandb' in sys.modules)"
    )
    home.mkdir()
    command = [sys.executable, "-c", program, str(layout.root), json.dumps(to_data(config))]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "XDG_"))}
    own = {"HOME": str(home), "TMPDIR": str(home), "WANDB_API_KEY": KEY}
    done = subprocess.run(command, capture_output=True, text=True, env=kept | own | environment, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def files_with(folder: Path, secret: str) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]


def test_nothing_reaches_the_terminal_or_leaves_the_study_folder(fresh: DrawnStudy, tmp_path: Path) -> None:
    done = driver(fresh.config, fresh.layout, tmp_path / "home")
    assert (done.stdout, done.stderr) == ("True\n", "")
    assert [p for p in (tmp_path / "home").rglob("*") if p.is_file()] == []
    (segment,) = segments(fresh)
    assert len(rows_with(wandb_log.history(segment), "eval/rate")) == 3
    assert files_with(tmp_path, KEY) == []


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's list of sockets")
def test_no_socket_of_wandb_reaches_beyond_this_machine(fresh: DrawnStudy) -> None:
    tracker = Tracker.open(fresh.config, fresh.layout, warn=Warned())
    tracker.finish(fresh.state)
    ours = [p for p in _descendants(os.getpid()) if "wandb" in Path(f"/proc/{p}/cmdline").read_text()]
    assert ours
    outside = _sockets_beyond_loopback()
    for process in [os.getpid(), *ours]:
        held = {str(fd.readlink()) for fd in Path(f"/proc/{process}/fd").iterdir() if fd.is_symlink()}
        assert not held & outside
    wandb.teardown()


def _sockets_beyond_loopback() -> set[str]:
    """TCP and UDP sockets with an end that is not on this machine, as /proc names them."""
    loopback = {"0100007F", "00000000000000000000000001000000"}
    found = set()
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            local, remote, inode = (line.split()[i] for i in (1, 2, 9))
            ends = {local.partition(":")[0]} | ({remote.partition(":")[0]} if not remote.endswith(":0000") else set())
            if ends - loopback:
                found.add(f"socket:[{inode}]")
    return found


def _descendants(process: int) -> list[int]:
    children = {int(p.name): int(p.joinpath("stat").read_text().rpartition(")")[2].split()[1]) for p in _processes()}
    found = [process]
    for parent in found:
        found += [child for child, of in children.items() if of == parent]
    return found[1:]


def _processes() -> list[Path]:
    return [p for p in Path("/proc").iterdir() if p.name.isdigit() and p.joinpath("stat").exists()]


def test_a_resumed_study_continues_the_run_without_telling_anything_twice(fresh: DrawnStudy) -> None:
    events = list(read_events(fresh.layout.ledger))
    second_epoch = [i for i, e in enumerate(events) if e.kind == "checkpoint_saved"][1]
    for before, now in ((0, second_epoch + 2), (second_epoch + 2, len(events)), (len(events), len(events))):
        assert track(fresh.config, fresh.layout, events[:before], events[before:now]).lines == []
    told = segments(fresh)
    assert len(told) == 2, "a run of the driver that has nothing to tell of a trial begins no segment of it"
    assert len(segments(fresh, STUDY)) == 3
    histories = [wandb_log.history(s) for s in told]
    for rows in histories:
        assert [row["_step"] for row in rows] == sorted({row["_step"] for row in rows})
    all_rows = [row for rows in histories for row in rows]
    assert [row["epoch"] for row in rows_with(all_rows, "eval/rate")] == [1, 2, 3]
    assert [row["epoch"] for row in rows_with(all_rows, "epochs/loss")] == [1, 2, 3]
    assert [row["train/step"] for row in rows_with(all_rows, "train/loss")] == list(range(1, 16))
    of_study = [row for path in segments(fresh, STUDY) for row in wandb_log.history(path)]
    assert len(rows_with(of_study, "rates.path")) == 1
    assert wandb_log.history(segments(fresh, STUDY)[2]) == []


def test_steps_told_live_are_not_told_again_even_when_they_are_trained_again(fresh: DrawnStudy) -> None:
    events = list(read_events(fresh.layout.ledger))
    first_epoch = next(i for i, e in enumerate(events) if e.kind == "checkpoint_saved")
    state, tracker = StudyState(), Tracker.open(fresh.config, fresh.layout, warn=Warned())
    for step in range(1, 8):
        tracker.step(fresh.trial, (step + 4) // 5, step, 1 / step, 1e-3)
    for event in events[: first_epoch + 1]:
        state.apply(event)
        tracker.record(event, state)
    tracker.finish(state)
    track(fresh.config, fresh.layout, events[: first_epoch + 1], events[first_epoch + 1 :])
    first, second = (rows_with(wandb_log.history(s), "train/loss") for s in segments(fresh))
    assert [(r["train/step"], r["train/loss"]) for r in first] == [(s, pytest.approx(1 / s)) for s in range(1, 8)]
    assert [r["train/step"] for r in second] == list(range(8, 16))


def test_more_seeds_continue_the_run_and_other_training_begins_another(study: DrawnStudy) -> None:
    data = to_data(study.config)
    data["grid"]["seeds"] = [1, 2, 3, 4, 5]
    assert study_run_id(parse_config(data)) == study_run_id(study.config)
    data["trials"]["main"]["learning_rate"] = 0.5
    assert study_run_id(parse_config(data)) != study_run_id(study.config)


def test_an_epoch_is_told_once_all_its_pictures_are_judged(fresh: DrawnStudy) -> None:
    events = list(read_events(fresh.layout.ledger))
    last_select = [i for i, e in enumerate(events) if e.kind == "verdict_given"][5]
    track(fresh.config, fresh.layout, [], events[:last_select])
    (segment,) = segments(fresh)
    assert [r["epoch"] for r in rows_with(wandb_log.history(segment), "eval/rate")] == [1, 2]


def test_a_grid_drawn_in_part_shows_its_curve_as_it_stands_and_in_the_end_all_of_it(fresh: DrawnStudy) -> None:
    """Of seeds that the policy asked for, although they are not in `grid.seeds`, too."""
    data = to_data(fresh.config)
    sparse = {"grid": data["grid"] | {"seeds": [1]}, "decide": data["decide"] | {"policy": "adaptive"}}
    config = parse_config(data | sparse)
    events = list(read_events(fresh.layout.ledger))
    fifth = [i for i, e in enumerate(events) if e.kind == "verdict_given"][4] + 1
    for before, now in ((0, fifth), (fifth, len(events)), (len(events), len(events))):
        assert track(config, fresh.layout, events[:before], events[before:now]).lines == []
    first, second = segments(fresh)
    (early,) = rows_with(wandb_log.history(first), "live_rates.path")
    assert rows_with(wandb_log.history(first), "eval/rate") == [], "no epoch is done before the policy is"
    assert early["live_rates.nrows"] == 2
    rows, _ = wandb_log.table(first, "live_rates")
    judged = epoch_rates(fresh.state.cells.values(), {key: v for (key, *_), v in fresh.state.verdicts.items()})
    names = ("weight", "epoch", "passes", "rate", "low", "high", "unscored")
    told = [{name: getattr(rate, name) for name in names} | {"n": rate.scored} for rate in judged]
    assert rows == [pytest.approx(one) for one in told[:2]]
    series, _ = wandb_log.table(first, "live_curve_table")
    assert [(row["epoch"], row["line"]) for row in series] == [(e, w) for e in (1, 2) for w in ("rate", "low", "high")]
    rows, _ = wandb_log.table(second, "live_rates")
    assert rows == [pytest.approx(one) for one in told]
    done = rows_with(wandb_log.history(second), "eval/rate")
    assert [(row["epoch"], row["eval/scored"]) for row in done] == [(1, 2), (2, 2), (3, 2)]


def test_a_curve_as_it_stands_is_told_ever_more_rarely_and_one_lucky_picture_does_not_lead() -> None:
    live = LiveCurve(scripted.target())
    told = [n for n in range(1, 1001) if live.one_more("trial")]
    assert told[:3] == [4, 8, 12]
    assert len(told) < 50
    assert told[-1] > 900
    lucky = EpochRate("trial", 9, 1.0, 1, 1, 0, 1.0, *wilson(1, 1))
    solid = EpochRate("trial", 5, 1.0, 8, 9, 0, 8 / 9, *wilson(8, 9))
    assert leader([solid, lucky]) == solid


def test_several_weights_have_curves_of_their_own(tmp_path: Path) -> None:
    study = draw_study(tmp_path, epochs=2, seeds=2, confirm=1, weights=(0.8, 1.0))
    track(study.config, study.layout, [], list(read_events(study.layout.ledger)))
    (segment,) = segments(study)
    for weight in ("0.8", "1"):
        rows = rows_with(wandb_log.history(segment), f"eval/rate/weight {weight}")
        assert [r["epoch"] for r in rows] == [1, 2]


def test_adapters_are_uploaded_told_by_address_or_left_out_by_choice(tmp_path: Path) -> None:
    study = draw_study(tmp_path, epochs=2, seeds=2, confirm=1)
    events, checkpoint = list(read_events(study.layout.ledger)), study.state.checkpoints[study.trial, 2]
    bucket = {"volume": VolumeConfig.model_validate("s3://bucket/mine?endpoint=https://s3.example.org")}
    ways: dict[str, dict[str, Any]] = {"upload": {}, "reference": bucket, "none": {}}
    for way, changes in ways.items():
        config = configured(study, adapters=way).model_copy(update={"study": way, **changes})
        track(config, study.layout, [], events)
    found = {way: _models(study.layout, trial_run_id_of(study, way)) for way in ways}
    aliases = [{alias for model in models for alias in model.aliases} for models in found.values()]
    assert aliases == [{"epoch-1", "epoch-2", "candidate", "best", "latest"}] * 2 + [set()]
    sent, told = (_contents(found[way], "epoch-2") for way in ("upload", "reference"))
    assert Path(sent["adapter.safetensors"].local_path) == study.layout.resolve(checkpoint.adapter)
    assert told["adapter.safetensors"].ref == f"s3://bucket/mine/reference/{checkpoint.adapter}"
    referred = told["adapter.safetensors"]
    assert (referred.digest, referred.size) == (checkpoint.sha256, checkpoint.size_bytes)
    assert [(item.key, json.loads(item.value_json)) for item in referred.extra] == [("sha256", checkpoint.sha256)]
    described = json.loads(Path(told["adapter.json"].local_path).read_text())
    assert (described["sha256"], described["epoch"]) == (checkpoint.sha256, 2)


def _contents(models: list[Any], alias: str) -> dict[str, Any]:
    (model,) = [m for m in models if alias in m.aliases]
    return {entry.path: entry for entry in model.manifest.contents}


def trial_run_id_of(study: DrawnStudy, name: str) -> str:
    return trial_run_id(study.config.model_copy(update={"study": name}), study.trial)


def _models(layout: Layout, run: str) -> list[Any]:
    paths = [s for s in wandb_log.segments(layout.root) if s.stem == f"run-{run}"]
    records = [r for path in paths for r in wandb_log.records(path) if r.WhichOneof("record_type") == "artifact"]
    return [r.artifact for r in records if r.artifact.type == "model"]


def test_disabled_does_nothing_at_all(fresh: DrawnStudy, tmp_path: Path) -> None:
    done = driver(configured(fresh, mode="disabled"), fresh.layout, tmp_path / "home")
    assert (done.stdout, done.stderr) == ("False\n", "")
    assert not (fresh.layout.root / "wandb").exists()


def test_wandb_that_cannot_write_costs_one_line_and_nothing_else(fresh: DrawnStudy) -> None:
    (fresh.layout.root / "wandb").write_text("a file where W&B wants its folder")
    warned = track(fresh.config, fresh.layout, [], list(read_events(fresh.layout.ledger)))
    assert len(warned.lines) == 1
    assert warned.lines[0].startswith("W&B gave up, the study goes on without it | ")
    assert "\n" not in warned.lines[0]


def test_a_server_that_is_not_there_leaves_a_local_run_and_no_key(fresh: DrawnStudy, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"http://127.0.0.1:{server.getsockname()[1]}"
    done = driver(configured(fresh, mode="online"), fresh.layout, tmp_path / "home", WANDB_BASE_URL=nobody)
    (warning,) = done.stderr.splitlines()
    assert warning.startswith("W&B cannot be reached, records stay in ")
    assert done.stdout == "True\n"
    (segment,) = segments(fresh)
    assert segment.parent.name.startswith("offline-")
    assert [r["epoch"] for r in rows_with(wandb_log.history(segment), "eval/rate")] == [1, 2, 3]
    assert files_with(tmp_path, KEY) == []


def test_what_training_drew_is_told_once_its_epoch_is_over(fresh: DrawnStudy) -> None:
    events = list(read_events(fresh.layout.ledger))
    saved = [number for number, event in enumerate(events) if event.kind == "checkpoint_saved"]
    draw_samples(fresh, (0, 1, 2))
    assert track(fresh.config, fresh.layout, [], events[: saved[1] + 1]).lines == []
    (first,) = segments(fresh)
    rows = rows_with(wandb_log.history(first), "samples/kanachan-1girl.count")
    assert [row["epoch"] for row in rows] == [0, 1], "those of epoch 2 may still be drawn"
    assert {row["samples/koharu-reads-a-book-1-2.count"] for row in rows} == {2}, "one for each seed"
    assert wandb_log.metrics(first)["samples/*"] == "epoch"
    draw_samples(fresh, (3,))
    track(fresh.config, fresh.layout, events[: saved[1] + 1], events[saved[1] + 1 :])
    second = next(path for path in segments(fresh) if path != first)
    rows = rows_with(wandb_log.history(second), "samples/kanachan-1girl.count")
    assert [row["epoch"] for row in rows] == [2, 3]
    captions = rows[0]["samples/kanachan-1girl.captions"]
    assert captions == ["seed 42: kanachan, 1girl", "seed 43: kanachan, 1girl"]
    files = [second.parent / "files" / name for name in rows[0]["samples/kanachan-1girl.filenames"]]
    with (
        Image.open(files[0]) as shown,
        Image.open(fresh.layout.samples(fresh.trial, 2) / "kanachan-1girl-42-0123abcd.png") as drawn,
    ):
        assert shown.convert("RGB").tobytes() == drawn.convert("RGB").tobytes()
