"""The HTTP interface of a running ComfyUI: what it can do, its queue, and the pictures that came of a workflow.

Every call has a deadline, every fault is one line that says what ComfyUI said. Names that it gives are sent back to it
and never become paths here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import requests

from orchestrator.core.errors import ConfigError, DrawingError, MissingError

TOKEN = "COMFYUI_TOKEN"
"""Environment variable with the token of a ComfyUI behind a login; sent as `Authorization: Bearer`."""
CONNECT_S, ANSWER_S = 10.0, 60.0
FIRST_LOOK_S, LONGEST_LOOK_S = 0.05, 1.0
LARGEST_PICTURE = 256 << 20
"""Bytes."""


class ComfyUI:
    """One running ComfyUI."""

    def __init__(
        self, url: str, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ):
        self.url = url
        self._clock, self._sleep = clock, sleep
        self._session = requests.Session()
        # Proxies and logins of other hosts are none of its business.
        self._session.trust_env = False
        if token := os.environ.get(TOKEN):
            self._session.headers["Authorization"] = f"Bearer {token}"

    def stats(self) -> Mapping[str, Any]:
        """What it runs on: `system` and `devices`."""
        return self._json("GET", "/system_stats")

    def node(self, kind: str) -> Mapping[str, Any] | None:
        """What a kind of node takes; None when it has no such node."""
        found = self._json("GET", f"/object_info/{quote(kind, safe='')}").get(kind)
        return found if isinstance(found, Mapping) else None

    def choices(self, kind: str, key: str) -> tuple[str, ...] | None:
        """What may stand in an input of a node, like the names of its adapters; None where anything may."""
        inputs = (self.node(kind) or {}).get("input", {})
        declared = {**inputs.get("optional", {}), **inputs.get("required", {})}.get(key)
        if not isinstance(declared, list) or not declared:
            return None
        # Older nodes list the choices themselves, newer ones say COMBO and list them among the options.
        listed = declared[1].get("options") if declared[0] == "COMBO" and len(declared) > 1 else declared[0]
        return tuple(map(str, listed)) if isinstance(listed, list) else None

    def forget_results(self) -> None:
        """Have it forget what it computed, so that the same workflow is drawn again."""
        self._request("POST", "/free", json={"free_memory": True})

    def submit(self, graph: Mapping[str, Any]) -> str:
        """Put a workflow into the queue; gives its id. Raises DrawingError with the first thing it has against it."""
        answer = self._request("POST", "/prompt", json={"prompt": graph, "client_id": "epochsweep"}, refusals=(400,))
        said = _parsed(answer, self.url)
        if answer.status_code == 400 or said.get("node_errors"):
            # With several outputs it queues a workflow for those that are sound.
            if prompt_id := said.get("prompt_id"):
                self.cancel(str(prompt_id))
            raise DrawingError(_refusal(said), where=self.url, fix="mend the workflow, or what its nodes need")
        return str(said["prompt_id"])

    def wait(self, prompt_id: str, timeout_s: float) -> Mapping[str, Any]:
        """The outputs of a workflow, by node, once it is done. The time in the queue behind others does not count.

        Raises DrawingError when it failed, was stopped or lost, and when it takes longer than `timeout_s`.
        """
        deadline, pause = self._clock() + timeout_s, FIRST_LOOK_S
        while True:
            if (done := self._json("GET", f"/history/{prompt_id}").get(prompt_id)) is not None:
                return _outputs(done, self.url)
            place = self._place(prompt_id)
            if place is None and prompt_id not in self._json("GET", f"/history/{prompt_id}"):
                raise DrawingError(
                    "lost a workflow: it is neither queued nor done", where=self.url, fix="was it restarted? run again"
                )
            if place:
                deadline = self._clock() + timeout_s
            if self._clock() >= deadline:
                self.cancel(prompt_id)
                raise DrawingError(
                    f"did not draw a picture within {timeout_s:g} s", where=self.url, fix="raise comfyui.timeout_s"
                )
            self._sleep(pause)
            pause = min(2 * pause, LONGEST_LOOK_S)

    def cancel(self, prompt_id: str) -> None:
        """Take a workflow out of the queue, or stop it; gone is success."""
        self._request("POST", "/queue", json={"delete": [prompt_id]})
        if self._place(prompt_id) == 0:
            self._request("POST", "/interrupt", json={"prompt_id": prompt_id})

    def picture(self, file: Mapping[str, Any]) -> bytes:
        """The bytes of a picture named in a node's outputs."""
        asked = {"filename": str(file["filename"]), "subfolder": str(file.get("subfolder", ""))}
        answer = self._request("GET", "/view", params={**asked, "type": str(file.get("type", "output"))})
        if len(answer.content) > LARGEST_PICTURE:
            raise DrawingError("sent a picture of more than 256 MiB", where=self.url)
        return answer.content

    def _place(self, prompt_id: str) -> int | None:
        """0 while it is drawn, else how many wait before it; None when it is not in the queue."""
        queue = self._json("GET", "/queue")
        if any(item[1] == prompt_id for item in queue.get("queue_running", ())):
            return 0
        waiting = sorted((item[0], item[1]) for item in queue.get("queue_pending", ()))
        return next((n for n, (_, own) in enumerate(waiting, 1) if own == prompt_id), None)

    def _json(self, method: str, path: str) -> dict[str, Any]:
        return _parsed(self._request(method, path), self.url)

    def _request(self, method: str, path: str, *, refusals: tuple[int, ...] = (), **more: Any) -> requests.Response:
        try:
            answer = self._session.request(
                method, self.url + path, timeout=(CONNECT_S, ANSWER_S), allow_redirects=False, **more
            )
        except requests.exceptions.ConnectionError as error:
            raise MissingError(
                "no ComfyUI answers there", where=self.url, fix="start it, or set comfyui.url to where it runs"
            ) from error
        except requests.exceptions.Timeout as error:
            raise DrawingError(f"did not answer within {ANSWER_S:g} s", where=self.url + path) from error
        if answer.status_code in (401, 403):
            raise MissingError("asks for a login", where=self.url, fix=f"put its token into {TOKEN}")
        if answer.status_code >= 300 and answer.status_code not in refusals:
            raise DrawingError(
                f"answered {answer.status_code} to {method} {path}", where=self.url, fix="is this a ComfyUI's address?"
            )
        return answer


def _parsed(answer: requests.Response, url: str) -> dict[str, Any]:
    try:
        said = answer.json()
    except ValueError as error:
        raise ConfigError("what answers there is no ComfyUI", where=url, fix="correct comfyui.url") from error
    if not isinstance(said, dict):
        raise ConfigError("what answers there is no ComfyUI", where=url, fix="correct comfyui.url")
    return said


def _refusal(said: Mapping[str, Any]) -> str:
    """The first thing it has against a workflow, in one line, with the node it is about."""
    for node, about in dict(said.get("node_errors") or {}).items():
        for fault in about.get("errors", ()):
            details = f": {fault['details']}" if fault.get("details") else ""
            return _line(f"node {node} ({about.get('class_type', '?')}): {fault.get('message', '?')}{details}")
    error = said.get("error")
    if isinstance(error, Mapping):
        details = f": {error['details']}" if error.get("details") else ""
        return _line(f"{error.get('message', 'it refused the workflow')}{details}")
    return _line(str(error or "it refused the workflow"))


def _outputs(done: Mapping[str, Any], url: str) -> Mapping[str, Any]:
    status = done.get("status") or {}
    for kind, about in status.get("messages", ()):
        if kind == "execution_error":
            node = f"node {about.get('node_id', '?')} ({about.get('node_type', '?')})"
            reason = f"{about.get('exception_type', '')}: {about.get('exception_message', '')}"
            raise DrawingError(_line(f"{node} failed: {reason}"), where=url, fix="ComfyUI's own log has all of it")
        if kind == "execution_interrupted":
            raise DrawingError("somebody stopped a workflow there", where=url, fix="the same command goes on")
    if status.get("status_str") == "error":
        raise DrawingError("a workflow failed without a reason", where=url, fix="see ComfyUI's own log")
    return dict(done.get("outputs") or {})


def _line(text: str) -> str:
    shown = " ".join(text.split())
    return shown if len(shown) <= 300 else f"{shown[:299]}…"
