"""A disk that is full, for real: a small file system, filled up. One clear line, nothing torn, and then it goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra.folder import FolderStore
from infra.volume import Volume
from orchestrator.core.errors import VolumeError
from orchestrator.core.layout import Layout
from orchestrator.keeping.verify import check
from orchestrator.record.ledger import read_events
from orchestrator.record.state import replay
from tests.orchestrator.test_run import study_config

IN_SMALL = """
set -e
mount -t tmpfs -o size=6m none "$1"
"$2" -c "$3" "$1"
cp -r "$1/." "$4"
"""
STUDY = """
import sys
from pathlib import Path
import orchestrator.run
from orchestrator.__main__ import main
from orchestrator.planning.config import to_yaml
from tests.orchestrator.test_run import scripted, study_config

root = Path(sys.argv[1])
orchestrator.run.hire_crew = scripted
config = study_config(root)
conf = root / "study.yaml"
conf.write_text(to_yaml(config))
orchestrator.run.prepare(config)  # The dataset is drawn while there is room.
with (root / "ballast").open("wb", buffering=0) as ballast:
    try:
        while ballast.write(bytes(4096)) == 4096:
            pass
    except OSError:
        pass
    size = ballast.tell()
for room in (0, 8192, 16384, 40960, 81920):
    with (root / "ballast").open("r+b") as ballast:
        ballast.truncate(size - room)
    code = main(["run", str(conf)])
    parts = [path.name for path in root.rglob(".*.part")]
    print("room", room, "code", code, "left", parts, flush=True)
    if code == 0:
        break
(root / "ballast").unlink()
print("at last", main(["run", str(conf)]))
"""
VOLUME = """
import sys
from pathlib import Path
from infra.folder import FolderStore
from infra.volume import Volume
from orchestrator.core.errors import VolumeError

root = Path(sys.argv[1])
volume = Volume(FolderStore(root / "volume"))
volume.put("small", b"small")
big = Path("/dev/shm") / root.name
big.write_bytes(bytes(8 * 2**20))
try:
    volume.put("adapter.safetensors", big)
except VolumeError as error:
    print(error)
finally:
    big.unlink()
print(volume.find("adapter.safetensors"), volume.verify("small"), [p.name for p in root.rglob(".*.part")])
"""


def in_small(tmp_path: Path, code: str) -> tuple[str, Path]:
    """Run code with a folder on a file system of 6 MB of its own; returns what it said and a copy of the folder."""
    small, after = tmp_path / "small", tmp_path / "after"
    small.mkdir()
    after.mkdir()
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(small)], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system of their own")
    command = ["unshare", "-rm", "sh", "-c", IN_SMALL, "sh", str(small), sys.executable, code, str(after)]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stdout + child.stderr
    return child.stdout + child.stderr, after


def test_a_study_on_a_full_disk_stops_with_a_clear_line_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    said, after = in_small(tmp_path, STUDY)
    assert "Traceback" not in said
    assert "room 0 code 4 left []" in said
    assert "No space left on device" in said
    assert all(" left []" in line for line in said.splitlines() if line.startswith("room ")), said
    assert "at last 0" in said
    layout = Layout(after / "runs" / "quickstart")
    checked, state = check(layout)
    assert checked.faults == []
    assert len(state.checkpoints) == 3
    assert len(state.samples) == len(study_config(after).grid.seeds) * 3
    assert replay(read_events(layout.ledger)).finished_at is not None


def test_a_volume_that_is_full_publishes_nothing_by_halves(tmp_path: Path) -> None:
    said, after = in_small(tmp_path, VOLUME)
    lines = said.splitlines()
    assert "the disk refuses: No space left on device" in lines[0]
    assert "the same command goes on" in lines[0]
    assert lines[1] == "None whole []"
    volume = Volume(FolderStore(after / "volume"))
    assert list(volume.keys()) == ["small"]
    with pytest.raises(VolumeError):
        volume.read("adapter.safetensors")
