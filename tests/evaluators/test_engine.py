"""The same cell is the same file: alone or in company, whoever merged what before; and no damaged adapter is drawn."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from anima.adapter_files import AdapterMetadata, write_adapter
from anima.base import POCKET, base_sha256
from anima.load import load_transformer
from anima.lora import adapter_state, inject
from evaluators.config import DrawingConfig
from evaluators.engine import Engine
from infra.volume import LocalVolume
from orchestrator.core.errors import AdapterError, VolumeError
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, ConstantAdapter, Drawing, Prompt, Sample
from orchestrator.record.reconcile import unrecorded_sample

PROMPT = Prompt("pair", "2girls, left side: kanachan, right side: koharu, white background", ("kanachan", "koharu"))
DRAWING = Drawing(steps=3, width=96, height=64)
BASE_SHA256 = base_sha256(POCKET)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, dict[int, str]]:
    """A study folder with two adapters that change pictures, and their hashes by epoch."""
    layout = Layout(tmp_path_factory.mktemp("study"))
    hashes = {}
    for epoch in (1, 2):
        transformer = load_transformer(POCKET / "transformer")
        adapter = inject(transformer, rank=2, alpha=2.0, seed=epoch)
        generator = torch.Generator().manual_seed(epoch)
        for parameter in adapter.parameters:
            parameter.data.normal_(0, 0.1, generator=generator)
        metadata = AdapterMetadata(2, 2.0, BASE_SHA256, "none", "main", epoch, 1, 1.0, ("koharu",), "test")
        file = write_adapter(layout.adapter("main", epoch), adapter_state(transformer), metadata)
        hashes[epoch] = file.sha256
    return layout, hashes


@pytest.fixture(scope="module")
def engine(study: tuple[Layout, dict[int, str]]) -> Engine:
    return Engine("pocket", str(study[0].root), threads=1, batch=3)


def cells(study: tuple[Layout, dict[int, str]], epoch: int, seeds: Sequence[int], weight: float = 1.0) -> list[Cell]:
    layout, hashes = study
    adapter = layout.relative(layout.adapter("main", epoch))
    return [Cell("main", epoch, adapter, hashes[epoch], weight, PROMPT, seed, DRAWING, BASE_SHA256) for seed in seeds]


def anew(engine: Engine, study: tuple[Layout, dict[int, str]], wanted: Sequence[Cell]) -> list[str]:
    """Hashes of the cells' files as they are drawn now: one that is there would be left as it is."""
    for cell in wanted:
        study[0].image(cell.trial, cell.epoch, cell.key).unlink(missing_ok=True)
    return [sample.sha256 for sample in engine.draw(wanted)]


def test_alone_or_in_company_before_or_after_others_it_is_the_same_file(
    engine: Engine, study: tuple[Layout, dict[int, str]]
) -> None:
    together = anew(engine, study, cells(study, 1, [1, 2, 3, 4]))
    other = anew(engine, study, cells(study, 2, [2]))
    alone = anew(engine, study, cells(study, 1, [2]))
    fresh = anew(Engine("pocket", str(study[0].root), threads=1, batch=3), study, cells(study, 1, [4]))
    assert (alone, fresh) == (together[1:2], together[3:])
    assert other[0] != together[1]
    assert len(set(together)) == 4


def test_weight_is_an_axis_and_zero_is_the_base(engine: Engine, study: tuple[Layout, dict[int, str]]) -> None:
    def drawn(epoch: int, weight: float) -> Sample:
        return engine.draw(cells(study, epoch, [5], weight))[0]

    assert drawn(1, 0.0).sha256 != drawn(1, 0.5).sha256 != drawn(1, 1.0).sha256
    paths = [study[0].resolve(drawn(epoch, 0.0).image) for epoch in (1, 2)]
    pictures = [Image.open(p).convert("RGB").tobytes() for p in paths]
    assert pictures[0] == pictures[1]


def test_the_sidecar_tells_everything_needed_to_draw_again(
    engine: Engine, study: tuple[Layout, dict[int, str]]
) -> None:
    [cell] = cells(study, 1, [9])
    [sample] = engine.draw([cell])
    path = study[0].resolve(sample.image)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert Cell.from_json(sidecar) == cell
    assert sidecar["cell_key"] == cell.key == sample.cell_key
    assert sidecar["image_sha256"] == sample.sha256
    assert len(sidecar["sigmas"]) == DRAWING.steps + 1
    assert "Seed: 9" in Image.open(path).text["parameters"]  # type: ignore[attr-defined]


def test_schedule_and_noise_are_choices_of_the_grid(engine: Engine, study: tuple[Layout, dict[int, str]]) -> None:
    [plain] = cells(study, 1, [9])
    choices = [
        DrawingConfig(steps=3, width=96, height=64),
        DrawingConfig(steps=3, width=96, height=64, schedule="linspace"),
        DrawingConfig(steps=3, width=96, height=64, noise="comfyui"),
    ]
    drawn = [engine.draw([replace(plain, drawing=choice.drawing())])[0] for choice in choices]
    assert drawn[0].cell_key == plain.key
    assert len({sample.sha256 for sample in drawn}) == len({sample.cell_key for sample in drawn}) == 3
    path = study[0].resolve(drawn[1].image)
    assert "Schedule type: linspace" in Image.open(path).text["parameters"]  # type: ignore[attr-defined]
    assert json.loads(path.with_suffix(".json").read_text())["sigmas"] == [1.0, 0.85714286, 0.6, 0.0]


def test_adapters_of_others_are_merged_along(study: tuple[Layout, dict[int, str]]) -> None:
    """Epoch 1 with epoch 2 beside it, from outside the study, is epoch 2 with epoch 1 beside it; alone it is not."""
    layout, hashes = study
    elsewhere = {digest: str(layout.adapter("main", epoch)) for epoch, digest in hashes.items()}
    engine = Engine("pocket", str(layout.root), threads=1, batch=1, adapters=elsewhere, base_name="pocket")

    def drawn(epoch: int, beside: int | None) -> Sample:
        constant = (ConstantAdapter("turbo", hashes[beside], 0.5),) if beside else ()
        return engine.draw([replace(cells(study, epoch, [4], 0.5)[0], with_adapters=constant)])[0]

    alone, both, swapped = drawn(1, None), drawn(1, 2), drawn(2, 1)
    levels = [np.asarray(Image.open(layout.resolve(s.image)).convert("RGB"), int) for s in (alone, both, swapped)]
    assert abs(levels[0] - levels[1]).max() > 8
    assert abs(levels[1] - levels[2]).max() <= 1, "sums of floats in another order"
    sidecar = json.loads(layout.resolve(both.image).with_suffix(".json").read_text())
    assert [(a["name"], a["weight"]) for a in sidecar["adapters"]] == [("main-epoch1", 0.5), ("turbo", 0.5)]
    assert (sidecar["base"], sidecar["backend"], sidecar["threads"]) == ("pocket", "engine", 1)
    text = Image.open(layout.resolve(both.image)).text["parameters"]  # type: ignore[attr-defined]
    assert 'Lora weights: "main-epoch1: 0.5, turbo: 0.5"' in text
    base = replace(cells(study, 1, [4], 0.0)[0], trial="base", epoch=0, adapter="", adapter_sha256="", with_adapters=())
    bare, zero = engine.draw([base])[0], engine.draw([cells(study, 1, [4], 0.0)[0]])[0]
    assert layout.resolve(bare.image).parent.name == "epoch-0000"
    pictures = [Image.open(layout.resolve(s.image)).convert("RGB").tobytes() for s in (bare, zero)]
    assert pictures[0] == pictures[1]


def test_a_damaged_adapter_is_never_drawn(engine: Engine, study: tuple[Layout, dict[int, str]]) -> None:
    layout, _ = study
    path = layout.adapter("main", 2)
    whole = path.read_bytes()
    engine.draw(cells(study, 1, [1]))
    try:
        path.write_bytes(whole[:-8] + bytes(8))
        with pytest.raises(AdapterError, match=r"adapter\.safetensors"):
            engine.draw(cells(study, 2, [31]))
        assert not layout.image("main", 2, cells(study, 2, [31])[0].key).exists()
    finally:
        path.write_bytes(whole)


def test_alone_permuted_or_on_more_threads_it_is_the_same_file(study: tuple[Layout, dict[int, str]]) -> None:
    """Two prompts, two adapters, two weights, in one call and any order; on one thread and on three."""
    wanted = [
        replace(cell, prompt=prompt)
        for epoch, weight in ((1, 1.0), (2, 0.7))
        for prompt in (PROMPT, Prompt("solo", "koharu, 1girl", ("koharu",)))
        for cell in cells(study, epoch, [1, 2, 3], weight)
    ]
    engine = Engine("pocket", str(study[0].root), threads=1)
    drawn = dict(zip([cell.key for cell in wanted], anew(engine, study, wanted), strict=True))
    assert len(set(drawn.values())) == len(wanted)
    shuffled = Random(1).sample(wanted, len(wanted))
    beside = Engine("pocket", str(study[0].root), threads=3)
    assert anew(beside, study, shuffled) == [drawn[cell.key] for cell in shuffled]
    for cell in (wanted[0], wanted[-1], wanted[0]):
        assert anew(engine, study, [cell]) == [drawn[cell.key]]


def test_a_prompt_too_long_for_a_pass_changes_no_other(engine: Engine, study: tuple[Layout, dict[int, str]]) -> None:
    longer = Prompt("long", ", ".join(["blue ribbon"] * 60), ("koharu",))
    short, other = cells(study, 1, [51, 52])
    mixed = anew(engine, study, [short, replace(short, prompt=longer), other])
    assert anew(engine, study, [short, other]) == [mixed[0], mixed[2]]
    assert mixed[0] != mixed[1]


def test_two_calls_at_once_draw_what_each_would_alone(engine: Engine, study: tuple[Layout, dict[int, str]]) -> None:
    asked = [cells(study, epoch, [61, 62, 63, 64]) for epoch in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda wanted: anew(engine, study, wanted), asked))
    assert together == [anew(engine, study, wanted) for wanted in asked]
    assert len({*together[0], *together[1]}) == 8


def test_an_adapter_of_another_base_is_refused_by_the_shape_that_does_not_fit(
    engine: Engine, study: tuple[Layout, dict[int, str]]
) -> None:
    """What was asked for before it is drawn all the same, and the engine goes on."""
    layout, _ = study
    name = "diffusion_model.blocks.0.self_attn.q_proj"
    state = {f"{name}.lora_A.weight": torch.ones(2, 2048), f"{name}.lora_B.weight": torch.ones(2048, 2)}
    metadata = AdapterMetadata(2, 2.0, "other", "none", "main", 3, 1, 1.0, ("koharu",), "test")
    file = write_adapter(layout.adapter("main", 3), state, metadata)
    [good], [after] = cells(study, 1, [71]), cells(study, 2, [71])
    bad = replace(good, epoch=3, adapter=layout.relative(layout.adapter("main", 3)), adapter_sha256=file.sha256)
    said = r"epoch-0003/adapter\.safetensors: does not fit .*self_attn\.q_proj \(2048, 2048\) on \(160, 160\)"
    with pytest.raises(AdapterError, match=said):
        engine.draw([good, bad, after])
    assert layout.image("main", 1, good.key).exists()
    assert not layout.image("main", 3, bad.key).exists()
    assert engine.draw([after])[0].sha256


def test_a_full_disk_is_one_clear_error_and_what_was_written_counts(
    study: tuple[Layout, dict[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, _ = study
    monkeypatch.setattr("orchestrator.core.files.secrets.token_hex", lambda _: "known")
    wanted = cells(study, 1, range(81, 87))
    path = layout.image("main", 1, wanted[2].key)
    # The device that is always full stands where the third picture is written aside.
    aside = path.with_name(f".{path.name}.known.part")
    aside.parent.mkdir(parents=True, exist_ok=True)
    aside.symlink_to("/dev/full")
    engine = Engine("pocket", str(layout.root), threads=1, batch=2)
    with pytest.raises(VolumeError, match=rf"{path.name}: cannot write: No space left on device"):
        engine.draw(wanted)
    assert not path.exists()
    assert not aside.is_symlink(), "nothing stays aside"
    assert all(layout.image("main", 1, cell.key).exists() for cell in wanted[:2])
    assert len(engine.draw(wanted)) == len(wanted), "with room again, the same call succeeds"


DRAWER = """
import sys
from pathlib import Path
from evaluators.engine import Engine
from orchestrator.core.study import Cell
import json

wanted = [Cell.from_json(facts) for facts in json.load(sys.stdin)]
Engine("pocket", sys.argv[1], threads=1, batch=2).draw(wanted)
"""


def test_killed_in_the_middle_of_a_batch_only_unfinished_cells_are_drawn_again(
    study: tuple[Layout, dict[int, str]], tmp_path: Path
) -> None:
    """A process is killed as soon as its first picture is there; what it left counts, the rest comes out the same."""
    layout = Layout(tmp_path)
    shutil.copytree(study[0].trial("main"), layout.trial("main"))
    wanted = cells(study, 1, range(91, 103))
    folder = layout.image("main", 1, wanted[0].key).parent
    with subprocess.Popen([sys.executable, "-c", DRAWER, str(tmp_path)], stdin=subprocess.PIPE, text=True) as drawer:
        assert drawer.stdin is not None
        json.dump([cell.to_json() for cell in wanted], drawer.stdin)
        drawer.stdin.close()
        while not list(folder.glob("*.png")):
            assert drawer.poll() is None, "it draws"
        drawer.kill()
    volume = LocalVolume(layout)
    left = {cell.key: sample for cell in wanted if (sample := unrecorded_sample(cell, volume))}
    assert 1 <= len(left) < len(wanted)
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    missing = [cell for cell in wanted if cell.key not in left]
    rest = {s.cell_key: s for s in Engine("pocket", str(tmp_path), threads=1, batch=2).draw(missing)}
    undisturbed = Engine("pocket", str(study[0].root), threads=1, batch=2).draw(wanted)
    assert [(left | rest)[s.cell_key].sha256 for s in undisturbed] == [s.sha256 for s in undisturbed]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items()), "finished cells are left alone"
