"""A TCP proxy on loopback that cuts, stalls or slows the connections through it when it is told to."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

BUFFER = 65536


@dataclass(eq=False)
class Fault:
    """What happens to a connection once `after` bytes went `towards` one side since the fault was set.

    With `match`, only after the client sent these bytes. `times` connections suffer; then all is well again. When it is
    `lasting`, all other connections suffer too from the first strike on.
    """

    kind: Literal["cut", "stall", "trickle", "slow"]
    towards: Literal["client", "server"] = "client"
    after: int = 0
    match: bytes = b""
    times: int = 1_000_000
    lasting: bool = False
    rate: int = 0
    """Of a `slow` line: bytes a second, of all connections together, in either direction; nothing else befalls it."""


class Proxy:
    """Passes connections on to a port of this machine, and does to them what `set` says."""

    def __init__(self, upstream: int, buffer: int = BUFFER) -> None:
        """`buffer`: about how many bytes of a connection wait here, instead of with the sender."""
        self.upstream, self.buffer = upstream, buffer
        self.suffered = 0
        """Connections that suffered the present fault."""
        self.to_client = 0
        """Bytes that reached clients since `set`."""
        self._fault: Fault | None = None
        self._free_at = 0.0
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        if buffer != BUFFER:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._open: set[socket.socket] = set()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def set(self, fault: Fault | None) -> None:
        """From now on, this happens; None lets everything pass."""
        with self._lock:
            self._fault, self.suffered, self.to_client = fault, 0, 0

    def close(self) -> None:
        self._closing.set()
        _shut(self._listener)
        self._accepting.join()
        for sock in self._open:
            _shut(sock)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                continue
            self._open.add(client)
            try:
                server = socket.create_connection(("127.0.0.1", self.upstream))
            except OSError:
                _shut(client)
                continue
            self._open.add(server)
            flow = _Flow(self, client, server)
            threading.Thread(target=flow.pump, args=(client, server, "server"), daemon=True).start()
            threading.Thread(target=flow.pump, args=(server, client, "client"), daemon=True).start()

    def takes(self, flow: _Flow) -> bool:
        """Whether this connection is one that suffers the present fault."""
        with self._lock:
            if self._fault is None or (flow.suffering is not self._fault and self.suffered >= self._fault.times):
                return False
            if flow.suffering is not self._fault:
                flow.suffering, self.suffered = self._fault, self.suffered + 1
            return True

    def count(self, size: int) -> None:
        with self._lock:
            self.to_client += size

    def let_through(self, size: int, fault: Fault) -> None:
        """Wait until the slow line has carried so many bytes more."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + size / fault.rate
            due = self._free_at
        while self.current is fault and (left := due - time.monotonic()) > 0 and not self.wait(min(left, 0.1)):
            pass

    @property
    def current(self) -> Fault | None:
        with self._lock:
            return self._fault

    def wait(self, seconds: float) -> bool:
        """Whether the proxy was closed meanwhile."""
        return self._closing.wait(seconds)


class _Flow:
    """One connection, both ways."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy, self.ends = proxy, (client, server)
        self.seen: Fault | None = None
        self.suffering: Fault | None = None
        self.passed = {"client": 0, "server": 0}
        self.matched = False

    def pump(self, source: socket.socket, target: socket.socket, towards: Literal["client", "server"]) -> None:
        try:
            while data := source.recv(self.proxy.buffer):
                if (line := self.proxy.current) is not None and line.kind == "slow":
                    self.proxy.let_through(len(data), line)
                fault = self._look(data, towards)
                if fault is not None:
                    before = max(0, fault.after - self.passed[towards])
                    target.sendall(data[:before])
                    self._strike(fault, target, data[before:])
                    return
                self.passed[towards] += len(data)
                if towards == "client":
                    self.proxy.count(len(data))
                target.sendall(data)
        except OSError:
            pass
        finally:
            for end in self.ends:
                _shut(end)

    def _look(self, data: bytes, towards: str) -> Fault | None:
        """The fault that strikes with this piece of data, if one does."""
        fault = self.proxy.current
        if fault is not self.seen:
            self.seen, self.passed, self.matched = fault, {"client": 0, "server": 0}, False
        if fault is None or fault.kind == "slow":
            return None
        if towards == "server":
            self.matched = bool(fault.match) and (self.matched or fault.match in data)
        due = fault.towards == towards and self.passed[towards] + len(data) > fault.after
        due = due and (self.matched or not fault.match)
        if fault.lasting and self.proxy.suffered:
            due, self.passed[towards] = True, fault.after
        return fault if due and self.proxy.takes(self) else None

    def _strike(self, fault: Fault, target: socket.socket, data: bytes) -> None:
        if fault.kind == "trickle":
            for i in range(len(data)):
                if self.proxy.current is not fault or self.proxy.wait(0.05):
                    return
                target.sendall(data[i : i + 1])
        while fault.kind == "stall" and self.proxy.current is fault and not self.proxy.wait(0.05):
            pass


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


@contextmanager
def proxied(upstream: int, buffer: int = BUFFER) -> Iterator[Proxy]:
    """A proxy in front of a port, gone when the block ends."""
    proxy = Proxy(upstream, buffer)
    try:
        yield proxy
    finally:
        proxy.close()
