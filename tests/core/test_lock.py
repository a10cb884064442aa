"""Who runs a study: named to others, told from a process that took over its id, and asked to leave by a takeover."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.core.errors import BusyError
from orchestrator.core.lock import Holder, holder_of, sole_driver

HOLD = """
import signal, sys
from pathlib import Path
from orchestrator.core.lock import sole_driver
if "deaf" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
with sole_driver(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(lock: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(lock), *more]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_one_hears_who_it_is_where_and_since_when(tmp_path: Path) -> None:
    lock = tmp_path / "driver.lock"
    with held(lock) as process:
        holder = holder_of(lock)
        assert holder is not None
        assert (holder.pid, holder.host, holder.is_alive) == (process.pid, socket.gethostname(), True)
        said = rf"process {process.pid} is running this study on {socket.gethostname()} since 20\d\d-.* UTC"
        with pytest.raises(BusyError, match=said) as error, sole_driver(lock):
            pass
        assert "--takeover" in error.value.fix
    assert holder_of(lock) is None
    assert not holder.is_alive


@pytest.mark.parametrize("manner", ["", "deaf"])
def test_a_takeover_asks_and_then_insists(tmp_path: Path, manner: str) -> None:
    lock = tmp_path / "driver.lock"
    with held(lock, manner) as process:
        with sole_driver(lock, takeover=True, stop_s=0.3 if manner else 60) as me:
            assert me.pid == os.getpid()
            assert holder_of(lock) == me
        process.wait(timeout=60)
        assert process.returncode == (-signal.SIGKILL if manner else -signal.SIGTERM)


def test_a_process_that_was_given_the_id_of_another_is_left_alone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        me = Holder.me()
        other = replace(me, pid=process.pid, started=me.started + 12345)
        assert not other.is_alive
        other.send(signal.SIGKILL)
        assert process.poll() is None
        process.communicate(b"\n")
        assert process.returncode == 0


def test_who_is_on_another_machine_is_not_signalled(tmp_path: Path) -> None:
    lock = tmp_path / "driver.lock"
    with held(lock) as process:
        holder = holder_of(lock)
        assert holder is not None
        lock.write_text(replace(holder, host="elsewhere").to_text())
        with pytest.raises(BusyError, match="on elsewhere since") as error, sole_driver(lock, takeover=True):
            pass
        assert "stop it on elsewhere" in error.value.fix
        assert process.poll() is None


def test_a_lock_file_of_an_older_program_names_nobody(tmp_path: Path) -> None:
    lock = tmp_path / "driver.lock"
    lock.write_text("12345\n")
    assert holder_of(lock) is None
    with sole_driver(lock):
        assert Holder.from_text(lock.read_text()) is not None
