"""The tests' own walls: no way out of this machine, and no way into the home of whoever runs them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

# From the range reserved for documentation: nobody's machine.
ELSEWHERE = ("192.0.2.1", 443)


def test_a_connection_to_another_machine_is_refused() -> None:
    with socket.socket() as sock, pytest.raises(AssertionError, match=r"connects to 192\.0\.2\.1:443"):
        sock.connect(ELSEWHERE)
    with socket.socket() as sock, pytest.raises(AssertionError, match="tests are offline"):
        sock.connect_ex(("example.org", 80))


def test_a_connection_to_this_machine_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            client.sendall(b"x")
            assert accepted.recv(1) == b"x"


def test_child_processes_are_held_to_it_too() -> None:
    code = f"import socket; socket.create_connection({ELSEWHERE!r}, timeout=1)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.returncode == 1
    assert "NetworkUsed: tests are offline" in child.stderr


def test_home_is_not_the_persons() -> None:
    import pwd

    assert Path.home() != Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert Path.home().is_dir()
