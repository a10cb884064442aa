"""A workflow's slots are filled for a cell; its adapter node is repeated, or taken out where there is no adapter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluators.comfyui.config import ComfyUIConfig
from evaluators.comfyui.workflow import Workflow, read_workflow
from orchestrator.core.errors import ConfigError
from orchestrator.core.study import Cell, ConstantAdapter, Drawing, Prompt

CELL = Cell(
    "kei",
    3,
    "kei-3.safetensors",
    "a" * 64,
    0.8,
    Prompt("solo", "keichan waves", ("keichan",), "blurry"),
    42,
    Drawing(steps=9, cfg=2.0, width=832, height=1216),
    "b" * 64,
)
XL: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "xl.safetensors"}},
    "2": {
        "class_type": "LoraLoader",
        "inputs": {
            "model": ["1", 0],
            "clip": ["1", 1],
            "lora_name": "$adapter",
            "strength_model": "$weight",
            "strength_clip": "$weight",
        },
    },
    "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 1], "text": "$prompt"}, "_meta": {"title": "good"}},
    "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 1], "text": "ugly"}, "_meta": {"title": "bad"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 832, "height": 1216, "batch_size": 1}},
    "6": {
        "class_type": "KSampler",
        "inputs": {
            **{"model": ["2", 0], "positive": ["3", 0], "negative": ["4", 0], "latent_image": ["5", 0]},
            **{"seed": 1, "steps": 25, "cfg": 6.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0},
        },
    },
    "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["1", 2]}},
    "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "grid"}},
}


def workflow(tmp_path: Path, graph: object, **more: Any) -> Workflow:
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(graph))
    return read_workflow(ComfyUIConfig(workflow=str(file), **more))


def test_the_shipped_workflow_takes_everything_a_grid_says() -> None:
    shipped = read_workflow(ComfyUIConfig())
    graph = shipped.filled(CELL, [("kei-3.safetensors", 0.8)])
    assert "$" not in json.dumps(graph)
    sampler = graph["9"]["inputs"]
    assert (sampler["seed"], sampler["steps"], sampler["cfg"]) == (42, 9, 2.0)
    assert (sampler["sampler_name"], sampler["scheduler"]) == ("er_sde", "simple")
    assert graph["8"]["inputs"] == {"width": 832, "height": 1216, "batch_size": 1}
    assert [graph[n]["inputs"]["text"] for n in "67"] == ["keichan waves", "blurry"]
    assert graph["5"]["inputs"]["shift"] == 3.0
    assert graph["4"]["inputs"] == {"model": ["1", 0], "lora_name": "kei-3.safetensors", "strength_model": 0.8}
    assert shipped.own_settings == ()


def test_several_adapters_follow_one_another() -> None:
    graph = read_workflow(ComfyUIConfig()).filled(CELL, [("kei.safetensors", 0.8), ("turbo.safetensors", 1.0)])
    assert graph["4:1"]["inputs"] == {"model": ["1", 0], "lora_name": "kei.safetensors", "strength_model": 0.8}
    assert graph["4"]["inputs"] == {"model": ["4:1", 0], "lora_name": "turbo.safetensors", "strength_model": 1.0}
    assert graph["5"]["inputs"]["model"] == ["4", 0]


def test_without_an_adapter_its_node_is_taken_out() -> None:
    graph = read_workflow(ComfyUIConfig()).filled(CELL, [])
    assert "4" not in graph
    assert graph["5"]["inputs"]["model"] == ["1", 0]


def test_another_family_keeps_its_own_settings_and_both_outputs_of_the_adapter(tmp_path: Path) -> None:
    xl = workflow(tmp_path, XL, slots={"seed": "6.seed"})
    assert xl.own_settings == ("width", "height", "steps", "cfg", "sampler", "schedule", "shift")
    two = xl.filled(CELL, [("a.safetensors", 0.5), ("b.safetensors", 1.0)])
    assert two["2:1"]["inputs"]["strength_clip"] == two["2:1"]["inputs"]["strength_model"] == 0.5
    assert (two["2"]["inputs"]["model"], two["2"]["inputs"]["clip"]) == (["2:1", 0], ["2:1", 1])
    assert two["6"]["inputs"]["seed"] == 42
    assert two["6"]["inputs"]["steps"] == 25
    none = xl.filled(CELL, [])
    assert (none["3"]["inputs"]["clip"], none["6"]["inputs"]["model"]) == (["1", 1], ["1", 0])


def test_slots_may_be_named_by_the_title_of_a_node(tmp_path: Path) -> None:
    xl = workflow(tmp_path, XL, slots={"seed": "6.seed", "negative": "bad.text"})
    assert xl.filled(CELL, [])["4"]["inputs"]["text"] == "blurry"


def test_another_template_or_model_is_another_base(tmp_path: Path) -> None:
    slots = {"seed": "6.seed"}
    first = workflow(tmp_path, XL, slots=slots).identity
    retitled = json.loads(json.dumps(XL)) | {"3": XL["3"] | {"_meta": {"title": "other"}}}
    assert workflow(tmp_path, retitled, slots=slots).identity == first
    other = json.loads(json.dumps(XL))
    other["6"]["inputs"]["steps"] = 30
    shipped = [ComfyUIConfig(), ComfyUIConfig(models={"transformer": "anima-turbo-v1.0.safetensors"})]
    found = {first, workflow(tmp_path, other, slots=slots).identity, *(read_workflow(c).identity for c in shipped)}
    assert len(found) == 4


@pytest.mark.parametrize(
    ("graph", "more", "said"),
    [
        ({"nodes": [], "links": []}, {}, "is a workflow of the editor"),
        ([1], {}, "is no workflow in API format"),
        (XL, {}, "has no slot for 'seed'"),
        (XL, {"slots": {"sed": "6.seed"}}, "unknown slot \\$sed.*did you mean 'seed'"),
        (XL, {"slots": {"seed": "99.seed"}}, "no node '99'"),
        (XL, {"slots": {"seed": "6.sed"}}, "node '6' has no input 'sed' — did you mean 'seed'"),
        (XL, {"slots": {"seed": "6.seed"}, "models": {"vae": "x"}}, "these go with the shipped workflow"),
        ({"1": {"class_type": "X", "inputs": {"a": "$promt"}}}, {}, "unknown slot \\$promt.*did you mean 'prompt'"),
    ],
)
def test_a_bad_workflow_is_one_line(tmp_path: Path, graph: object, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        workflow(tmp_path, graph, **more)
    assert "\n" not in str(caught.value)


def test_a_cell_that_asks_for_more_than_the_workflow_has_is_refused(tmp_path: Path) -> None:
    plain = {node: body for node, body in XL.items() if node != "2"}
    bare = workflow(tmp_path, plain, slots={"seed": "6.seed"})
    with pytest.raises(ConfigError, match="no slot for 'adapter'"):
        bare.fits(replace(CELL, prompt=replace(CELL.prompt, negative="")))
    with pytest.raises(ConfigError, match="no slot for 'negative'"):
        workflow(tmp_path, XL, slots={"seed": "6.seed"}).fits(CELL)
    alone = replace(CELL, adapter="", drawing=replace(CELL.drawing, cfg=1.0))
    bare.fits(alone)
    with pytest.raises(ConfigError, match="no slot for 'adapter'"):
        bare.fits(replace(alone, with_adapters=(ConstantAdapter("turbo", "c" * 64),)))
    with pytest.raises(ConfigError, match="no schedule 'linspace'"):
        read_workflow(ComfyUIConfig()).fits(replace(CELL, drawing=replace(CELL.drawing, schedule="linspace")))


@pytest.mark.parametrize("url", ["127.0.0.1:8188", "ftp://h", "http://user:pw@h", "http://h?token=x"])
def test_an_address_without_secrets(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        ComfyUIConfig(url=url)
