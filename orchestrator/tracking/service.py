"""A few short questions to the W&B service itself, with a deadline: is it there, how far is a run, is a view saved.

The client library answers none of them within seconds: a start against a service that is down takes it about 20 s.
The key comes from WANDB_API_KEY or ~/.netrc, goes into a header, and is in no message.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from orchestrator.core.errors import StudyError

PATIENCE_S = 5.0
"""How long the service may take to answer one question, unless the caller has more time."""


class Unreachable(StudyError):
    """The service cannot be had now, or not with this key."""

    exit_code = 9


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the service's record of a run is: lines of history, and the last of its steps (-1: none)."""

    lines: int
    last_step: int


def base_url() -> str:
    """The service that the client library would talk to."""
    from wandb.sdk import wandb_setup

    return str(wandb_setup.singleton().settings.base_url).rstrip("/")


def entity(*, within_s: float | None = None) -> str:
    """Whose key it is. Raises Unreachable within seconds when nobody answers."""
    viewer = _ask("query Viewer { viewer { entity } }", {}, within_s).get("viewer")
    if not viewer:
        raise Unreachable("W&B knows no account for this key", fix="set WANDB_API_KEY, or run `wandb login`")
    return str(viewer["entity"])


def progress(run_id: str, *, project: str, owner: str | None, within_s: float | None = None) -> Progress:
    """How much of a run's history the service holds."""
    query = (
        "query RunResumeStatus($project: String, $entity: String, $name: String!) {"
        " model(name: $project, entityName: $entity) {"
        " bucket(name: $name, missingOk: true) { historyLineCount historyTail } } }"
    )
    model = _ask(query, {"project": project, "entity": owner, "name": run_id}, within_s).get("model") or {}
    bucket = model.get("bucket") or {}
    tail = json.loads(bucket.get("historyTail") or "[]")
    last = int(json.loads(tail[-1]).get("_step", -1)) if tail else -1
    return Progress(int(bucket.get("historyLineCount") or 0), last)


def save_view(name: str, title: str, spec: Mapping[str, Any], *, project: str, owner: str) -> str:
    """Save a workspace view of this name unless there is one, which may have been arranged since; its address."""
    query = (
        "query View($entity: String, $project: String, $view: String) {"
        " project(name: $project, entityName: $entity) {"
        ' allViews(viewType: "project-view", viewName: $view) { edges { node { id } } } } }'
    )
    found = _ask(query, {"entity": owner, "project": project, "view": f"nw-{name}-v"}).get("project") or {}
    if not (found.get("allViews") or {}).get("edges"):
        mutation = (
            "mutation upsertView($entityName: String, $projectName: String, $type: String, $name: String,"
            " $displayName: String, $spec: String) { upsertView(input: {entityName: $entityName,"
            " projectName: $projectName, type: $type, name: $name, displayName: $displayName, spec: $spec,"
            " createdUsing: WANDB_SDK}) { view { id name } inserted } }"
        )
        about = {"entityName": owner, "projectName": project, "type": "project-view", "name": f"nw-{name}-v"}
        _ask(mutation, about | {"displayName": title, "spec": json.dumps(spec)})
    return f"{base_url()}/{quote(owner)}/{quote(project)}?nw={name}"


def _ask(query: str, variables: Mapping[str, Any], within_s: float | None = None) -> dict[str, Any]:
    import requests

    key = os.environ.get("WANDB_API_KEY")
    try:
        answer = requests.post(
            f"{base_url()}/graphql",
            json={"query": query, "variables": dict(variables)},
            auth=("api", key) if key else None,  # None: requests itself looks into ~/.netrc
            timeout=within_s or PATIENCE_S,
        )
        answer.raise_for_status()
        said = answer.json()
    except (requests.RequestException, ValueError) as error:
        fix = "look after the network; the same command goes on"
        raise Unreachable(f"W&B does not answer: {_short(error)}", where=_host(), fix=fix) from None
    if said.get("errors"):
        raise Unreachable(f"W&B refuses: {str(said['errors'][0].get('message'))[:200]}", where=_host())
    return dict(said.get("data") or {})


def _host() -> str:
    return base_url().partition("://")[2].rpartition("@")[2]


def _short(error: Exception) -> str:
    """What went wrong, without the address that was asked."""
    response = getattr(error, "response", None)
    return f"status {response.status_code}" if response is not None else type(error).__name__
