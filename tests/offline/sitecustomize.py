"""No connection leaves this machine: any Python process with this folder on PYTHONPATH refuses one, loudly.

Python imports `sitecustomize` at start-up, so child processes of the tests (drivers, Ray workers) are held to it too.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex


class NetworkUsed(AssertionError):
    """A test, or a process it started, tried to reach another machine."""


def is_local(family: int, kind: int, address: Any) -> bool:
    """Whether connecting there stays on this machine.

    A datagram socket counts as local: its connect sends nothing, and is a common way to ask for one's own address.
    """
    if family not in (socket.AF_INET, socket.AF_INET6) or kind & socket.SOCK_DGRAM:
        return True
    host = str(address[0])
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "")


def _refuse_remote(sock: socket.socket, address: Any) -> None:
    if not is_local(sock.family, sock.type, address):
        raise NetworkUsed(f"tests are offline, but something connects to {address[0]}:{address[1]}")


def guard() -> None:
    """Replace the connect methods of Python's sockets; doing it again changes nothing."""

    def connect(self: socket.socket, address: Any) -> None:
        _refuse_remote(self, address)
        _connect(self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        _refuse_remote(self, address)
        return _connect_ex(self, address)

    socket.socket.connect = connect  # type: ignore[method-assign, assignment]
    socket.socket.connect_ex = connect_ex  # type: ignore[method-assign, assignment]


guard()
