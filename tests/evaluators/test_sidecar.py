"""What goes with a picture says everything, to this program, to A1111's readers and to ComfyUI."""

from __future__ import annotations

import json

from evaluators.sidecar import comfyui_text, png_text, sidecar_of
from orchestrator.core.study import Cell, ConstantAdapter, Drawing, Prompt

CELL = Cell(
    "trio-1a2b3c4d",
    143,
    "trials/trio-1a2b3c4d/epoch-0143/adapter.safetensors",
    "a" * 64,
    1.0,
    Prompt("trio", "three girls, left: kanachan", ("kanachan",), "blurry"),
    42,
    Drawing(),
    "b" * 64,
    with_adapters=(ConstantAdapter("turbo", "c" * 64, 0.8),),
)


def test_a_sidecar_is_the_cell_and_who_drew_it() -> None:
    said = sidecar_of(CELL, image_sha256="d", seconds=1.5, drawn_by={"backend": "x", "versions": {"torch": "2"}})
    assert Cell.from_json(json.loads(json.dumps(said))) == CELL
    assert said["cell_key"] == CELL.key
    assert said["adapters"] == [
        {"name": "trio-1a2b3c4d-epoch143", "sha256": "a" * 64, "weight": 1.0},
        {"name": "turbo", "sha256": "c" * 64, "weight": 0.8},
    ]
    assert set(said["versions"]) == {"epochsweep", "torch"}
    assert (said["backend"], said["image_sha256"], said["seconds"]) == ("x", "d", 1.5)


def test_the_settings_stand_in_the_picture_as_people_read_them() -> None:
    prompt, negative, settings = png_text(CELL, "hf://circlestone-labs/Anima")["parameters"].splitlines()
    assert prompt == "three girls, left: kanachan"
    assert negative == "Negative prompt: blurry"
    for pair in ("Steps: 8", "Seed: 42", "Size: 1024x1024", 'Model: "hf://circlestone-labs/Anima"', "Epoch: 143"):
        assert pair in settings
    assert 'Lora weights: "trio-1a2b3c4d-epoch143: 1, turbo: 0.8"' in settings


def test_comfyui_opens_the_picture_as_a_workflow() -> None:
    graph = json.loads(comfyui_text(CELL, "anima-v2.safetensors")["prompt"])
    assert graph["1"]["inputs"]["unet_name"] == "anima-v2.safetensors"
    assert graph["4:1"]["inputs"]["lora_name"] == "trio-1a2b3c4d-epoch143.safetensors"
    assert graph["4"]["inputs"]["lora_name"] == "turbo.safetensors"
    assert graph["9"]["inputs"]["seed"] == 42
    assert "$" not in json.dumps(graph)
    assert comfyui_text(CELL, "hf://circlestone-labs/Anima")["prompt"]
    assert comfyui_text(CELL, "pocket") == {}, "ComfyUI does not read the miniature"
