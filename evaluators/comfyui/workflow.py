"""A ComfyUI workflow as a template: its slots are filled for a cell, its adapter node is repeated or taken out. Pure.

A workflow is what ComfyUI exports as API format: node id -> `{class_type, inputs}`, where an input is a value or a link
`[node id, output]`. A slot is an input whose whole value is `$name`. The node with `$adapter` stands for all adapters
of a cell: with several it is repeated, one after the other; with none it is taken out and its neighbours are joined.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anima.settings import nearest
from evaluators.comfyui.config import ComfyUIConfig
from orchestrator.core.errors import ConfigError
from orchestrator.core.identity import digest
from orchestrator.core.study import Cell

Graph = dict[str, dict[str, Any]]
SHIPPED = Path(__file__).with_name("anima.json")
_MODELS = {"transformer": ("1", "unet_name"), "text_encoder": ("2", "clip_name"), "vae": ("3", "vae_name")}

SETTINGS = ("width", "height", "steps", "cfg", "sampler", "schedule", "shift")
"""Slots of a grid's drawing. Those a workflow lacks are the workflow's own, and a sidecar says so."""
SLOTS = ("prompt", "negative", "seed", "adapter", "weight", *SETTINGS)
_THROUGH = {0: "model", 1: "clip"}
"""Outputs of a node that loads an adapter, and the inputs they pass on."""


@dataclass(frozen=True, slots=True)
class Workflow:
    """A template. `slots` says where each is: (node id, input)."""

    graph: Graph
    slots: Mapping[str, tuple[tuple[str, str], ...]]
    name: str

    @property
    def identity(self) -> str:
        """What stands for the base in the keys of cells: the content of the template, with the models it names."""
        bare = {node: {key: part for key, part in body.items() if key != "_meta"} for node, body in self.graph.items()}
        return digest(
            {"comfyui": bare, "slots": {name: list(map(list, at)) for name, at in self.slots.items()}}, length=64
        )

    @property
    def own_settings(self) -> tuple[str, ...]:
        """Settings of a drawing that have no slot: the template's values stand."""
        return tuple(name for name in SETTINGS if name not in self.slots)

    @property
    def classes(self) -> dict[str, str]:
        """Kinds of nodes it needs, each with the id of one."""
        return {body["class_type"]: node for node, body in sorted(self.graph.items(), reverse=True)}

    def fits(self, cell: Cell) -> None:
        """Raises ConfigError where a cell asks for something the template has no slot for."""
        needed = {"negative"} if cell.prompt.negative and cell.drawing.cfg != 1 else set()
        needed |= {"adapter", "weight"} if cell.adapter or cell.with_adapters else set()
        if lacking := sorted(needed - self.slots.keys()):
            raise ConfigError(
                f"the workflow has no slot for {lacking[0]!r}",
                where=self.name,
                fix=f"write ${lacking[0]} into an input of it, or name the place under comfyui.slots",
            )
        if "schedule" in self.slots and cell.drawing.schedule != "simple":
            raise ConfigError(
                f"ComfyUI has no schedule {cell.drawing.schedule!r}", where="grid.drawing.schedule", fix="use simple"
            )

    def filled(self, cell: Cell, adapters: Sequence[tuple[str, float]]) -> Graph:
        """The workflow of one cell. `adapters`: their names in ComfyUI with their weights, in the order of the sum."""
        drawing = cell.drawing
        values: dict[str, Any] = {
            "prompt": cell.prompt.text,
            "negative": cell.prompt.negative,
            "seed": cell.seed,
            **{name: getattr(drawing, name) for name in SETTINGS},
        }
        graph = deepcopy(self.graph)
        for name, places in self.slots.items():
            for node, key in places if name in values else ():
                graph[node]["inputs"][key] = values[name]
        if "adapter" in self.slots:
            self._load(graph, adapters)
        return graph

    def _load(self, graph: Graph, adapters: Sequence[tuple[str, float]]) -> None:
        """Put the adapters where the node with `$adapter` is."""
        ((node, name_key), *_), weights = self.slots["adapter"], self.slots.get("weight", ())
        loader = graph[node]
        if not adapters:
            del graph[node]
            for body in graph.values():
                for key, value in body["inputs"].items():
                    if _is_link(value) and value[0] == node:
                        body["inputs"][key] = loader["inputs"][_THROUGH.get(value[1], "model")]
            return
        before: str | None = None
        for number, (adapter, weight) in enumerate(adapters):
            own = deepcopy(loader)
            own["inputs"] |= {name_key: adapter, **{key: weight for at, key in weights if at == node}}
            if before is not None:
                passed = {key: [before, out] for out, key in _THROUGH.items() if key in own["inputs"]}
                own["inputs"] |= passed
            last = number == len(adapters) - 1
            before = node if last else f"{node}:{number + 1}"
            graph[before] = own


def read_workflow(config: ComfyUIConfig) -> Workflow:
    """The template a configuration names. Raises ConfigError for what is no API-format workflow, or lacks a slot."""
    path = Path(config.workflow).expanduser() if config.workflow else SHIPPED
    where = str(path) if config.workflow else "the shipped workflow"
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", where=where, fix="correct comfyui.workflow") from error
    except ValueError as error:
        raise ConfigError("not readable as JSON", where=where, fix="export it from ComfyUI as API format") from error
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        raise ConfigError("is a workflow of the editor", where=where, fix="export it by Workflow, Export (API)")
    if not isinstance(graph, dict) or not graph or not all(_is_node(body) for body in graph.values()):
        raise ConfigError("is no workflow in API format", where=where, fix="in ComfyUI: Workflow, Export (API)")
    if not config.workflow:
        for part, file in config.models.items():
            if part not in _MODELS:
                raise ConfigError(f"unknown model {part!r}", where="comfyui.models", fix=nearest(part, _MODELS))
            node, key = _MODELS[part]
            graph[node]["inputs"][key] = file
    elif config.models:
        raise ConfigError("these go with the shipped workflow", where="comfyui.models", fix=f"write them into {where}")
    slots = _slots(graph, config.slots, where)
    for needed in ("prompt", "seed"):
        if needed not in slots:
            raise ConfigError(
                f"the workflow has no slot for {needed!r}",
                where=where,
                fix=f"write ${needed} into an input of it, or name the place under comfyui.slots",
            )
    return Workflow(graph, slots, where)


def _slots(graph: Graph, given: Mapping[str, str], where: str) -> dict[str, tuple[tuple[str, str], ...]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for node, key, value in _inputs(graph):
        if isinstance(value, str) and value.startswith("$") and value[1:].isidentifier():
            found.setdefault(_known(value[1:], f"{where}: node {node}"), []).append((node, key))
    for name, place in given.items():
        found.setdefault(_known(name, "comfyui.slots"), []).append(_place(graph, place))
    return {name: tuple(places) for name, places in found.items()}


def _known(name: str, where: str) -> str:
    if name not in SLOTS:
        raise ConfigError(f"unknown slot ${name}", where=where, fix=nearest(name, SLOTS))
    return name


def _place(graph: Graph, place: str) -> tuple[str, str]:
    """`node.input` with the node's id or title, as (id, input)."""
    node, _, key = place.rpartition(".")
    titled = [own for own, body in graph.items() if node in (own, body.get("_meta", {}).get("title"))]
    if len(titled) != 1:
        what = "no node" if not titled else f"{len(titled)} nodes"
        raise ConfigError(
            f"{what} {node!r} in the workflow", where="comfyui.slots", fix="write node.input by the number"
        )
    known: Collection[str] = graph[titled[0]]["inputs"]
    if key not in known:
        raise ConfigError(f"node {node!r} has no input {key!r}", where="comfyui.slots", fix=nearest(key, known))
    return titled[0], key


def _inputs(graph: Graph) -> Iterator[tuple[str, str, Any]]:
    for node, body in graph.items():
        for key, value in body["inputs"].items():
            yield node, key, value


def _is_node(body: Any) -> bool:
    return isinstance(body, dict) and isinstance(body.get("class_type"), str) and isinstance(body.get("inputs"), dict)


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)
