"""`verify`: every kind of damage is found and named; repaired, and the study comes to what it came to before."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.__main__ import main
from orchestrator.core.layout import Layout
from orchestrator.core.lock import sole_driver
from orchestrator.keeping.keeping import kept
from orchestrator.keeping.restoring import STATE_FILE
from orchestrator.planning.config import StudyConfig
from orchestrator.record.ledger import read_events
from orchestrator.record.state import StudyState, replay
from orchestrator.run import drive, prepare
from tests.orchestrator.test_run import scripted, study_config


def config_at(root: Path, *, mounted: bool = False) -> StudyConfig:
    """A study; `mounted`: kept in a second folder too, as on a mounted volume."""
    config = study_config(root)
    if not mounted:
        return config
    volume = {"folder": config.volume.folder, "mount": str(root / "mounted"), "seal_every_s": 0.01}
    return config.model_copy(update={"volume": type(config.volume).model_validate(volume)})


def run(root: Path, *, mounted: bool = False) -> Layout:
    config = config_at(root, mounted=mounted)
    with kept(config, lambda _: None) as keeping:
        assert drive(prepare(config), Console(file=io.StringIO()), hire=scripted, keeping=keeping) == 0
    return config.layout()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    run(root)
    return root


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Layout:
    """A copy of a finished study, to do harm to."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    return config_at(tmp_path).layout()


def state_of(layout: Layout) -> StudyState:
    return replay(read_events(layout.ledger))


def results(layout: Layout) -> tuple[object, ...]:
    state = state_of(layout)
    return state.checkpoints, {key: sample.sha256 for key, sample in state.samples.items()}, state.choice


def picture(layout: Layout) -> Path:
    return layout.root / next(iter(state_of(layout).samples.values())).image


def adapter(layout: Layout) -> Path:
    return layout.root / next(iter(state_of(layout).checkpoints.values())).adapter


def flip(path: Path, at: int = 5) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def damaged_line(layout: Layout) -> None:
    lines = layout.ledger.read_bytes().splitlines(keepends=True)
    number = next(n for n, line in enumerate(lines) if b"sample_drawn" in line)
    lines[number] = lines[number][:40] + b"\x00" + lines[number][41:]
    layout.ledger.write_bytes(b"".join(lines))


def torn_state(layout: Layout) -> None:
    (trial,) = state_of(layout).trials
    file = layout.states(trial) / "epoch-0003" / STATE_FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(b"torn")


def test_a_sound_study_is_said_to_be(study: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in study.root.rglob("*"))
    assert main(["verify", str(study.root), "--local"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"looked at {len(list(read_events(study.ledger)))} facts, 3 adapters, 6 pictures"
    assert said[-1] == "sound"
    assert sorted((p, p.stat().st_mtime_ns) for p in study.root.rglob("*")) == before, "nothing was touched"


@pytest.mark.parametrize(
    ("kind", "harm"),
    [
        ("adapter", lambda s: flip(adapter(s))),
        ("adapter", lambda s: adapter(s).unlink()),
        ("picture", lambda s: picture(s).unlink()),
        ("picture", lambda s: flip(picture(s))),
        ("sidecar", lambda s: picture(s).with_suffix(".json").unlink()),
        ("sidecar", lambda s: picture(s).with_suffix(".json").write_text("{}")),
        ("marker", lambda s: adapter(s).with_suffix(".json").write_text("{}")),
        ("state", torn_state),
        ("ledger", damaged_line),
        ("ledger", lambda s: s.ledger.write_bytes(s.ledger.read_bytes() + b'{"v": 1, "t": 1')),
        ("ledger", lambda s: s.ledger.write_bytes(s.ledger.read_bytes() + b'{"v":1,"t":1,"kind":"trial_finished"}\n')),
    ],
)
def test_damage_is_found_named_and_mended(
    study: Layout, capsys: pytest.CaptureFixture[str], kind: str, harm: Callable[[Layout], None]
) -> None:
    """Without a volume: what is damaged is set apart, and the study's next run makes it again."""
    before = results(study)
    harm(study)
    assert main(["verify", str(study.root), "--local", "--json"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert not told["sound"]
    assert [fault["kind"] for fault in told["faults"]] == [kind]
    assert main(["verify", str(study.root), "--local"]) == 4
    assert "--repair mends them" in capsys.readouterr().out
    assert main(["verify", str(study.root), "--local", "--repair"]) == 0
    assert "mended" in capsys.readouterr().out
    assert main(["verify", str(study.root), "--local"]) == 0
    run(study.root.parent.parent)
    assert results(study) == before
    assert main(["verify", str(study.root)]) == 0


@pytest.mark.parametrize("gone", [adapter, picture])
def test_with_a_volume_it_is_fetched_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gone: Callable[[Layout], Path]
) -> None:
    study = run(tmp_path, mounted=True)
    path, ledger = gone(study), study.ledger.read_bytes()
    whole = path.read_bytes()
    flip(path)
    assert main(["verify", str(study.root)]) == 4
    assert main(["verify", str(study.root), "--repair"]) == 0
    assert "fetched again" in capsys.readouterr().out
    assert path.read_bytes() == whole
    assert study.ledger.read_bytes() == ledger, "nothing had to be forgotten"


def test_a_damaged_ledger_is_mended_from_the_volume(tmp_path: Path) -> None:
    study = run(tmp_path, mounted=True)
    ledger = study.ledger.read_bytes()
    damaged_line(study)
    assert main(["verify", str(study.root)]) == 4
    assert main(["verify", str(study.root), "--repair"]) == 0
    assert study.ledger.read_bytes() == ledger
    assert main(["verify", str(study.root)]) == 0
    assert len(list(study.quarantine.glob("ledger.jsonl.*"))) == 2, "as it was, and without the line"


def test_what_the_volume_has_lost_is_found_and_sent_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = run(tmp_path, mounted=True)
    kept_at = tmp_path / "mounted" / "quickstart" / "published"
    key = layout.relative(picture(layout))
    flip(kept_at / key, -1)
    (kept_at / layout.relative(adapter(layout))).unlink()
    assert main(["verify", str(layout.root), "--local"]) == 0
    assert main(["verify", str(layout.root)]) == 4
    said = capsys.readouterr().out
    assert f"volume   {key}: the content is not what was published" in said
    assert f"volume   {layout.relative(adapter(layout))}: is not there" in said
    assert main(["verify", str(layout.root), "--repair"]) == 0
    assert main(["verify", str(layout.root), "--deep"]) == 0


def test_a_study_that_runs_is_not_repaired_but_may_be_looked_at(
    study: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    with sole_driver(study.lock):
        assert main(["verify", str(study.root), "--local"]) == 0
        assert main(["verify", str(study.root), "--local", "--repair"]) == 5
    assert "is running this study" in capsys.readouterr().err


def test_a_picture_that_was_drawn_twice_for_good_is_noticed(study: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """An invariant of the history: the second one would have to be set apart first."""
    line = next(line for line in study.ledger.read_text().splitlines() if '"sample_drawn"' in line)
    data = json.loads(line)
    data["sample"]["sha256"] = "0" * 64
    lines = [json.dumps(data), line]
    study.ledger.write_text(study.ledger.read_text() + "\n".join(lines) + "\n")
    assert main(["verify", str(study.root), "--local"]) == 4
    assert capsys.readouterr().out.count("was made twice, and came out differently") == 2


def test_what_a_killed_process_left_aside_is_found(study: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    part = picture(study).with_name(".x.png.123.part")
    part.write_bytes(b"half")
    assert main(["verify", str(study.root), "--local", "--repair"]) == 4, "it may be a process's that still writes"
    os.utime(part, (1, 1))
    assert main(["verify", str(study.root), "--local", "--repair"]) == 0
    assert not part.exists()
    assert "leftover" in capsys.readouterr().out
