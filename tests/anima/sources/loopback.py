"""A web server on this machine that serves bytes well or badly; to boto3 it is an S3 store, as far as reading goes."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, Literal


@dataclass
class Site:
    """What is served under each path, and how."""

    files: dict[str, bytes]
    ranges: bool = True
    versions: bool = True
    """Whether answers carry an ETag."""
    lengths: Literal["told", "chunked", "closing"] = "told"
    cuts: list[int] = field(default_factory=list)
    """Of the next answers with content, how many bytes each gives before its connection breaks."""
    statuses: list[int] = field(default_factory=list)
    """Of the next answers."""
    edition: str = "1"
    """The ETag of every file that has none of its own."""
    etags: dict[str, str] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)
    """Headers of every answer."""
    refusals: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    """Status and headers of paths that are always refused."""
    asked: list[str] = field(default_factory=list)
    """`METHOD path range` of every request."""
    headers: list[dict[str, str]] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    """Where else some paths are."""
    address: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def content_asked(self) -> list[str]:
        """Requests for more than a look."""
        return [line for line in self.asked if not line.endswith("bytes=0-0") and not line.startswith("HEAD")]


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve it on a loopback port until the end of the block."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves early is what some tests are about; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: ClassVar[Site]

    def do_HEAD(self) -> None:
        self._answer(content=False)

    def do_GET(self) -> None:
        self._answer(content=True)

    def log_message(self, *_: object) -> None:
        """Tests look at `asked`."""

    def _answer(self, *, content: bool) -> None:
        site, path = self.site, self.path.partition("?")[0]
        wanted = self.headers.get("Range", "")
        with site.lock:
            site.asked.append(f"{self.command} {self.path} {wanted}".strip())
            site.headers.append(dict(self.headers))
            status = site.statuses.pop(0) if site.statuses else 200
        if path in site.redirects:
            self._begin(302)
            self.send_header("Location", site.redirects[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = site.files.get(path)
        status, headers = site.refusals.get(path, (status, {}))
        if status != 200 or data is None:
            self._begin(status if status != 200 else 404)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted) if site.ranges else None
        start, stop = (int(found[1]), min(int(found[2]) + 1, len(data))) if found else (0, len(data))
        if found and start >= len(data):
            self._begin(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._begin(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        if site.versions:
            self.send_header("ETag", f'"{site.etags.get(path, site.edition)}"')
        if site.lengths == "told":
            self.send_header("Content-Length", str(stop - start))
        elif site.lengths == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if content:
            self._send(data[start:stop])

    def _begin(self, status: int) -> None:
        self.send_response(status)
        for name, value in self.site.extra.items():
            self.send_header(name, value)

    def _send(self, data: bytes) -> None:
        with self.site.lock:
            # A look at the first byte is no content.
            limit = self.site.cuts.pop(0) if self.site.cuts and len(data) > 1 else len(data)
        chunked = self.site.lengths == "chunked"
        try:
            if chunked:
                self.wfile.write(b"%x\r\n" % len(data))
            self.wfile.write(data[:limit])
            if chunked and limit == len(data):
                self.wfile.write(b"\r\n0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            limit = -1
        if limit < len(data):
            self.close_connection = True
