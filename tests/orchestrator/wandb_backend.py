"""A small W&B service on loopback: the GraphQL operations and the file stream that the real client uses.

It keeps what reaches it the way the service does: history lines at their offsets, configuration and summary of each
run, artifacts by digest with their aliases, uploaded files. `fault` makes it refuse, hang, or answer 403 or 500 to any
request.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote

Fault = Literal["", "refuse", "hang", "403", "500"]
ENTITY = "studio"
KEY = "0123456789" * 4


@dataclass(slots=True)
class Run:
    """A run as the service knows it."""

    name: str
    project: str
    display_name: str = ""
    group: str = ""
    job_type: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, str] = field(default_factory=dict)
    """History by offset; a line sent twice to one offset is one line."""
    complete: bool = False

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(self.lines[at]) for at in sorted(self.lines)]

    def rows(self, key: str) -> list[dict[str, Any]]:
        return [row for row in self.history if key in row]


@dataclass(slots=True)
class Artifact:
    """One version of an artifact. Its content counts once it is committed."""

    id: str
    collection: str
    type: str
    digest: str
    client_id: str
    metadata: dict[str, Any]
    aliases: set[str]
    manifest: dict[str, Any] = field(default_factory=dict)
    committed: bool = False


class Backend:
    """The service's memory. All of it is behind one lock; a hanging request holds nothing."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.manifests: dict[str, str] = {}
        self.uploads: list[str] = []
        """Paths of every file that was uploaded, in order; a file sent twice is there twice."""
        self.files: dict[str, bytes] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.keys: set[str] = set()
        self.fault: Callable[[str], Fault] = lambda _: ""
        self.url = ""
        self._lock = threading.Lock()
        self._released = threading.Event()

    def run(self, name: str) -> Run:
        return self.runs[name]

    def version(self, alias: str, collection: str) -> Artifact:
        """The version of a collection that bears an alias."""
        (found,) = [a for a in self.artifacts.values() if a.collection == collection and alias in a.aliases]
        return found

    def release(self) -> None:
        """Let hanging requests go."""
        self._released.set()

    def heard(self, request: str, body: bytes) -> tuple[Fault, Any]:
        """Take in one request: what to do with it, and the answer."""
        with self._lock:
            self.requests.append(request)
            fault = self.fault(request)
            if fault:
                return fault, None
            return "", self._answer(request, body)

    def hang(self) -> None:
        self._released.wait(120)

    def _answer(self, request: str, body: bytes) -> Any:
        method, _, path = request.partition(" ")
        if method == "GRAPHQL":
            asked = json.loads(body)
            return getattr(self, f"_{path}", self._unknown)(asked.get("variables") or {})
        if method == "PUT":
            name = unquote(path).removeprefix("/upload/")
            self.uploads.append(name)
            self.files[name] = body
        elif stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
            self._stream(self.runs[stream[1]], json.loads(body))
        return {}

    def _unknown(self, _: dict[str, Any]) -> Any:
        return {}

    def _stream(self, run: Run, data: dict[str, Any]) -> None:
        files = data.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            run.lines |= {history["offset"] + i: line for i, line in enumerate(history["content"])}
        if summary := files.get("wandb-summary.json"):
            run.summary = json.loads(summary["content"][-1])
        run.complete = run.complete or bool(data.get("complete"))

    def _Viewer(self, _: dict[str, Any]) -> Any:
        return {"viewer": {"id": "1", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}}

    def _ServerFeaturesQuery(self, _: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}

    def _RunResumeStatus(self, asked: dict[str, Any]) -> Any:
        run = self.runs.get(asked["name"])
        if run is None:
            return {"model": None}
        bucket = {
            "id": run.name,
            "name": run.name,
            "displayName": run.display_name,
            "summaryMetrics": json.dumps(run.summary),
            "config": json.dumps(run.config),
            "historyTail": json.dumps([run.lines[at] for at in sorted(run.lines)][-1:]),
            "eventsTail": "[]",
            "historyLineCount": max(run.lines, default=-1) + 1,
            "eventsLineCount": 0,
            "logLineCount": 0,
            "tags": [],
            # The client takes a run that has this key for one that was begun.
            "wandbConfig": json.dumps({"t": 1}),
        }
        return {"model": {"id": "1", "name": run.project, "entity": {"id": "1", "name": ENTITY}, "bucket": bucket}}

    def _UpsertBucket(self, asked: dict[str, Any]) -> Any:
        inserted = asked["name"] not in self.runs
        run = self.runs.setdefault(asked["name"], Run(asked["name"], asked["project"]))
        run.display_name = asked.get("displayName") or run.display_name
        run.group, run.job_type = asked.get("groupName") or run.group, asked.get("jobType") or run.job_type
        run.config |= json.loads(asked.get("config") or "{}")
        bucket = {
            "id": run.name,
            "name": run.name,
            "displayName": run.display_name,
            "config": json.dumps(run.config),
            "project": {"id": "1", "name": run.project, "entity": {"id": "1", "name": ENTITY}},
            "historyLineCount": max(run.lines, default=-1) + 1,
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _CreateRunFiles(self, asked: dict[str, Any]) -> Any:
        files = [{"name": n, "uploadUrl": f"{self.url}/upload/{asked['run']}/{n}"} for n in asked["files"]]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}

    def _ArtifactType(self, _: dict[str, Any]) -> Any:
        return {"project": None}

    def _CreateArtifact(self, asked: dict[str, Any]) -> Any:
        """A content that is there already is the same version; only its aliases are new."""
        said = asked["input"]
        collection, aliases = said["artifactCollectionName"], {a["alias"] for a in said["aliases"]}
        same = (a for a in self.artifacts.values() if (a.collection, a.digest) == (collection, said["digest"]))
        known = next((a for a in same if a.committed and said["enableDigestDeduplication"]), None)
        for other in self.artifacts.values():
            if other.collection == collection:
                other.aliases -= aliases
        if known is None:
            known = Artifact(
                f"artifact-{len(self.artifacts)}",
                collection,
                said["artifactTypeName"],
                said["digest"],
                said["clientID"],
                json.loads(said["metadata"] or "{}"),
                set(),
            )
            self.artifacts[known.id] = known
        known.aliases |= aliases
        state = "COMMITTED" if known.committed else "PENDING"
        shown = {"id": known.id, "state": state, "artifactSequence": {"id": collection, "latestArtifact": None}}
        return {"createArtifact": {"artifact": shown}}

    def _CreateArtifactManifest(self, asked: dict[str, Any]) -> Any:
        manifest = f"manifest-{len(self.manifests)}"
        self.manifests[manifest] = asked["artifactID"]
        return {"createArtifactManifest": {"artifactManifest": self._manifest(manifest)}}

    def _UpdateArtifactManifest(self, asked: dict[str, Any]) -> Any:
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(asked["artifactManifestID"])}}

    def _manifest(self, name: str) -> dict[str, Any]:
        address = f"{self.url}/upload/{self.manifests[name]}/{name}"
        return {"id": name, "file": {"id": name, "uploadUrl": address, "uploadHeaders": []}}

    def _CreateArtifactFiles(self, asked: dict[str, Any]) -> Any:
        def node(file: dict[str, Any]) -> dict[str, Any]:
            address = f"{self.url}/upload/{file['artifactID']}/{file['name']}"
            place = {"storagePath": file["name"], "uploadUrl": address, "uploadHeaders": []}
            return {"node": place | {"uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}}}

        edges = [node(file) for file in asked["input"]["artifactFiles"]]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, asked: dict[str, Any]) -> Any:
        artifact = self.artifacts[asked["artifactID"]]
        artifact.committed = True
        manifests = [m for m, of in self.manifests.items() if of == artifact.id and f"{of}/{m}" in self.files]
        artifact.manifest = json.loads(self.files[f"{artifact.id}/{manifests[-1]}"]) if manifests else {}
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def _View(self, asked: dict[str, Any]) -> Any:
        found = [{"node": {"id": view["id"]}} for name, view in self.views.items() if name == asked["view"]]
        return {"project": {"allViews": {"edges": found}}}

    def _upsertView(self, asked: dict[str, Any]) -> Any:
        name = asked["name"]
        inserted = name not in self.views
        self.views[name] = {**asked, "id": f"view-{name}"}
        project = {"id": "1", "name": asked["projectName"], "entityName": asked["entityName"]}
        view = {**self.views[name], "project": project, "updatedAt": "2026-01-01T00:00:00Z"}
        return {"upsertView": {"view": view, "inserted": inserted}}


class _Handler(BaseHTTPRequestHandler):
    """Speaks HTTP for the backend of its server."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        self._handle(f"GET {self.path}", b"")

    def do_PUT(self) -> None:
        body = self._body()
        if (wanted := self.headers.get("Content-MD5")) and base64.b64encode(
            hashlib.md5(body).digest()
        ).decode() != wanted:
            self.send_error(400)
            return
        self._handle(f"PUT {self.path}", body)

    def do_POST(self) -> None:
        body = self._body()
        if self.path.startswith("/graphql"):
            named = re.search(r"(?:query|mutation)\s+(\w+)", json.loads(body)["query"])
            self._handle(f"GRAPHQL {named[1] if named else ''}", body)
        else:
            self._handle(f"POST {self.path}", body)

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _handle(self, request: str, body: bytes) -> None:
        backend: Backend = self.server.backend  # type: ignore[attr-defined]
        if credentials := self.headers.get("Authorization"):
            backend.keys.add(credentials)
        fault, answer = backend.heard(request, body)
        if fault == "hang":
            backend.hang()
        if fault in ("refuse", "hang"):
            self.close_connection = True
            return
        said = json.dumps({"data": answer} if request.startswith("GRAPHQL") else answer).encode()
        self.send_response(int(fault or 200))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


class _Server(ThreadingHTTPServer):
    """Clients that leave in the middle are ordinary here."""

    daemon_threads = True
    request_queue_size = 128  # five, the default, are soon in line on a busy machine, and the rest wait for seconds
    backend: Backend

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Said nowhere."""


@contextmanager
def serving(port: int = 0) -> Iterator[Backend]:
    """A backend on a loopback port, gone at the end of the block."""
    server = _Server(("127.0.0.1", port), _Handler)
    server.backend = backend = Backend()
    backend.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield backend
    finally:
        backend.release()
        with suppress(OSError):
            server.shutdown()
        server.server_close()
