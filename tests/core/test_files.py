"""A file is written whole, or what was there stays and nothing else does: also on a disk that is full."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.core.errors import VolumeError
from orchestrator.core.files import write_whole

CAPPED = """
import resource, signal, sys
from pathlib import Path
from orchestrator.core.errors import VolumeError
from orchestrator.core.files import write_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    write_whole(Path(sys.argv[1]), bytes(100_000))
except VolumeError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_leaves_the_old_file_and_nothing_aside(tmp_path: Path) -> None:
    """A process whose files may not grow beyond 4 KiB: the kernel refuses in the middle of the file."""
    path = tmp_path / "adapter.json"
    write_whole(path, "old")
    child = subprocess.run([sys.executable, "-c", CAPPED, str(path)], capture_output=True, text=True, check=True)
    assert child.stdout.startswith(f"{path}: cannot write: {os.strerror(errno.EFBIG)} — look after space")
    assert child.stdout.count("\n") == 1
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


def test_a_name_that_cannot_be_taken_leaves_nothing_aside(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(VolumeError, match="taken: cannot write: Is a directory"):
        write_whole(tmp_path / "taken", "data")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
