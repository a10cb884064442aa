"""Cells drawn by a ComfyUI on loopback: same sidecars, whole pictures, and every fault in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluators.comfyui.backend import ComfyUIArtist, ComfyUIBackend
from evaluators.comfyui.client import ComfyUI
from evaluators.comfyui.config import ComfyUIConfig
from orchestrator.core.errors import AdapterError, ConfigError, DrawingError, MissingError, StudyError
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, ConstantAdapter, Drawing, Prompt
from tests.evaluators.comfyui.server import FakeComfyUI, serving
from tests.evaluators.comfyui.test_workflow import XL

PROMPT = Prompt("solo", "keichan waves, ünïcode", ("keichan",))


@pytest.fixture
def comfyui() -> FakeComfyUI:
    return FakeComfyUI(["styles\\kei-3.safetensors", "turbo.safetensors"])


@pytest.fixture
def url(comfyui: FakeComfyUI) -> Iterator[str]:
    with serving(comfyui) as address:
        yield address


@pytest.fixture
def adapters(tmp_path: Path) -> dict[str, Path]:
    """Two files by their hash; what is in them does not matter here."""
    found = {}
    for name in ("kei-3", "turbo"):
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(name.encode())
        found[file_sha256(file)] = file
    return found


def cells(adapters: dict[str, Path], backend: ComfyUIBackend, count: int = 1) -> list[Cell]:
    drawing = Drawing(width=96, height=64, steps=4)
    sha256 = next(iter(adapters))
    name = adapters[sha256].name
    return [Cell("kei", 3, name, sha256, 0.8, PROMPT, seed, drawing, backend.identity) for seed in range(1, count + 1)]


def opened(
    url: str, tmp_path: Path, adapters: dict[str, Path], **more: Any
) -> tuple[ComfyUIBackend, ComfyUIArtist, Layout]:
    backend = ComfyUIBackend.of(ComfyUIConfig(url=url, **more), {})
    layout = Layout(tmp_path / "study")
    return backend, backend.open(layout.root, adapters), layout


def test_pictures_come_back_in_order_with_sidecar_and_text(
    url: str, comfyui: FakeComfyUI, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    backend, artist, layout = opened(url, tmp_path, adapters)
    asked = cells(adapters, backend, 5)
    samples = artist.draw(asked)
    assert [s.cell_key for s in samples] == [c.key for c in asked]
    assert [g["9"]["inputs"]["seed"] for g in comfyui.asked] == [1, 2, 3, 4, 5]
    for cell, sample in zip(asked, samples, strict=True):
        path = layout.resolve(sample.image)
        assert file_sha256(path) == sample.sha256
        sidecar = json.loads(path.with_suffix(".json").read_text())
        assert Cell.from_json(sidecar) == cell
        assert sidecar["backend"] == "comfyui"
        assert sidecar["device"] == "cuda:0 Some GPU"
        assert sidecar["versions"]["comfyui"] == "0.9.1"
        assert sidecar["workflow"]["4"]["inputs"]["lora_name"] == "styles\\kei-3.safetensors", "found in a folder"
        assert sidecar["own_settings"] == []
        with Image.open(path) as image:
            assert image.size == (96, 64)
            text = dict(image.text)  # type: ignore[attr-defined]
        assert json.loads(text["prompt"]) == sidecar["workflow"], "ComfyUI opens its own workflow from the picture"
        assert text["parameters"].startswith("keichan waves, ünïcode\n")
        assert f"Seed: {cell.seed}" in text["parameters"]
    assert len({s.sha256 for s in samples}) == 5


def test_adapters_are_linked_into_its_folder_and_named_by_content(
    url: str, comfyui: FakeComfyUI, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    comfyui.loras, comfyui.folder = [], tmp_path / "loras"
    comfyui.folder.mkdir()
    backend, artist, _ = opened(url, tmp_path, adapters, loras=str(comfyui.folder))
    judged, turbo = adapters
    along = (ConstantAdapter("turbo", turbo, 0.5),)
    artist.draw([replace(cells(adapters, backend)[0], with_adapters=along)])
    (graph,) = comfyui.asked
    assert graph["4:1"]["inputs"]["lora_name"] == f"epochsweep/{judged[:16]}.safetensors"
    assert graph["4"]["inputs"] == {
        "model": ["4:1", 0],
        "lora_name": f"epochsweep/{turbo[:16]}.safetensors",
        "strength_model": 0.5,
    }
    (comfyui.folder / "epochsweep" / f"{judged[:16]}.safetensors").unlink()
    adapters[judged].write_bytes(b"another content")
    _, artist, _ = opened(url, tmp_path, adapters, loras=str(comfyui.folder))
    with pytest.raises(AdapterError, match="is not the file that was recorded"):
        artist.draw(cells(adapters, backend))


def test_the_base_alone_is_drawn_without_the_adapters_node(
    url: str, comfyui: FakeComfyUI, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    backend, artist, _ = opened(url, tmp_path, adapters)
    artist.draw([replace(cells(adapters, backend)[0], adapter="", adapter_sha256="", weight=0.0)])
    assert "4" not in comfyui.asked[0]


def test_another_family_is_drawn_by_its_own_workflow(url: str, tmp_path: Path, adapters: dict[str, Path]) -> None:
    file = tmp_path / "xl.json"
    file.write_text(json.dumps(XL))
    backend, artist, layout = opened(url, tmp_path, adapters, workflow=str(file), slots={"seed": "6.seed"})
    (cell,) = cells(adapters, backend)
    cell = replace(cell, drawing=replace(cell.drawing, width=832, height=1216))
    (sample,) = artist.draw([cell])
    sidecar = json.loads(layout.resolve(sample.image).with_suffix(".json").read_text())
    assert sidecar["own_settings"] == ["width", "height", "steps", "cfg", "sampler", "schedule", "shift"]
    assert sidecar["base"] == "xl.json"
    assert sidecar["workflow"]["6"]["inputs"]["steps"] == 25


def test_what_it_computed_before_is_computed_again(
    url: str, comfyui: FakeComfyUI, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    for _ in range(2):
        backend, artist, _ = opened(url, tmp_path, adapters)
        artist.draw(cells(adapters, backend))
    assert len(comfyui.drawn) == 2


def test_it_never_waits_for_us(url: str, comfyui: FakeComfyUI, tmp_path: Path, adapters: dict[str, Path]) -> None:
    backend, artist, _ = opened(url, tmp_path, adapters, ahead=3)
    comfyui.requests.clear()
    artist.draw(cells(adapters, backend, 4))
    sent = [line for line in comfyui.requests if line in ("POST /prompt", "GET /view")]
    assert sent[:4] == ["POST /prompt"] * 3 + ["GET /view"], "three are queued before the first is taken"


def fault(url: str, tmp_path: Path, adapters: dict[str, Path], **more: Any) -> StudyError:
    def draw() -> None:
        backend, artist, _ = opened(url, tmp_path, adapters, **more)
        artist.draw(cells(adapters, backend, 2))

    with pytest.raises(StudyError) as caught:
        draw()
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "study").rglob("*.png"))
    return caught.value


def test_nobody_answers(tmp_path: Path, adapters: dict[str, Path]) -> None:
    with serving(FakeComfyUI([])) as url:
        pass
    error = fault(url, tmp_path, adapters)
    assert isinstance(error, MissingError)
    assert "no ComfyUI answers there" in str(error)


def test_a_node_it_does_not_have_is_named(
    url: str, comfyui: FakeComfyUI, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    comfyui.lacks = {"ModelSamplingAuraFlow"}
    error = fault(url, tmp_path, adapters)
    assert isinstance(error, MissingError)
    assert "it has no node 'ModelSamplingAuraFlow' (node 5 of the shipped workflow)" in str(error)


def test_an_adapter_it_does_not_have_is_named(
    url: str, comfyui: FakeComfyUI, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    comfyui.loras = ["other.safetensors"]
    error = fault(url, tmp_path, adapters)
    assert isinstance(error, AdapterError)
    assert "it has no adapter 'kei-3.safetensors'" in str(error)


def test_what_a_node_has_against_a_workflow_is_told(url: str, tmp_path: Path, adapters: dict[str, Path]) -> None:
    error = fault(url, tmp_path, adapters, models={"vae": "none.safetensors"})
    assert isinstance(error, DrawingError)
    said = "node 3 (VAELoader): Value not in list: vae_name: 'none.safetensors' not in ['qwen_image_vae.safetensors']"
    assert said in str(error)


def test_a_workflow_that_is_only_half_sound_is_taken_out_again(
    url: str, comfyui: FakeComfyUI, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    comfyui.half = comfyui.silent = True
    assert "Value not in list" in str(fault(url, tmp_path, adapters, models={"vae": "none.safetensors"}))
    assert comfyui.queue() == {"queue_running": [], "queue_pending": []}


def test_a_node_that_fails_is_told_and_nothing_is_left_in_its_queue(
    url: str, comfyui: FakeComfyUI, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    comfyui.fails_on = "KSampler"
    error = fault(url, tmp_path, adapters)
    assert isinstance(error, DrawingError)
    assert "node 9 (KSampler) failed: torch.OutOfMemoryError: CUDA out of memory" in str(error)
    assert comfyui.queue() == {"queue_running": [], "queue_pending": []}


def test_a_picture_that_takes_too_long_is_stopped(
    url: str, comfyui: FakeComfyUI, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    comfyui.silent = True
    error = fault(url, tmp_path, adapters, timeout_s=0.01)
    assert "did not draw a picture within 0.01 s" in str(error)
    assert len(comfyui.cancelled) >= 2, "the one that was late, and the one behind it"
    assert comfyui.queue() == {"queue_running": [], "queue_pending": []}


def test_time_behind_others_does_not_count(comfyui: FakeComfyUI) -> None:
    comfyui.silent = True
    moments = iter(range(0, 10_000, 60))
    with serving(comfyui) as url:
        client = ComfyUI(url, clock=lambda: next(moments), sleep=lambda _: None)
        graph = {"1": {"class_type": "UNETLoader", "inputs": {"unet_name": "anima-base-v1.0.safetensors"}}}
        graph["1"]["inputs"]["weight_dtype"] = "default"  # type: ignore[index]
        first, second = client.submit(graph), client.submit(graph)
        looks = 0

        def pause(_: float) -> None:
            nonlocal looks
            looks += 1
            if looks == 20:
                comfyui.cancel([first])

        client._sleep = pause
        with pytest.raises(DrawingError, match="did not draw a picture within 300 s"):
            client.wait(second, 300)
    assert looks > 20, "20 minutes behind the first one are no fault of the second"


def test_a_workflow_that_is_lost_is_told(
    url: str, comfyui: FakeComfyUI, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    comfyui.forgets_queue = True
    assert "it is neither queued nor done" in str(fault(url, tmp_path, adapters))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "JPEG"}, "sent a JPEG, not a PNG"),
        ({"size": (64, 64)}, "drew 64x64 instead of 96x64"),
        ({"pictures": 2}, "made 2 pictures of a workflow that should make one"),
        ({"pictures": 0}, "made 0 pictures"),
    ],
)
def test_a_picture_that_is_not_what_was_asked_for_is_refused(
    url: str, comfyui: FakeComfyUI, tmp_path: Path, adapters: dict[str, Path], changes: dict[str, Any], said: str
) -> None:
    for name, value in changes.items():
        setattr(comfyui, name, value)
    assert said in str(fault(url, tmp_path, adapters))


def test_a_token_comes_from_the_environment_and_is_written_nowhere(
    url: str, comfyui: FakeComfyUI, tmp_path: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    comfyui.token = "s3cret-canary"
    error = fault(url, tmp_path, adapters)
    assert "put its token into COMFYUI_TOKEN" in str(error)
    monkeypatch.setenv("COMFYUI_TOKEN", comfyui.token)
    backend, artist, layout = opened(url, tmp_path, adapters)
    artist.draw(cells(adapters, backend))
    files = [path for path in layout.root.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert not [path for path in files if b"s3cret-canary" in path.read_bytes()]


def test_what_is_no_comfyui_is_told() -> None:
    class Other(FakeComfyUI):
        def node(self, kind: str) -> dict[str, Any]:  # noqa: ARG002
            return ["something"]  # type: ignore[return-value]

    with serving(Other([])) as url, pytest.raises(ConfigError, match="what answers there is no ComfyUI"):
        ComfyUI(url).node("KSampler")
