"""Adapter files: the way through disk changes nothing, diffusers reads them, and damage never goes unnoticed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import AnimaModularPipeline, CosmosTransformer3DModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from anima.adapter_files import AdapterMetadata, read_adapter, write_adapter
from anima.lora import Merger, adapter_state, inject
from orchestrator.core.errors import AdapterError, VolumeError
from orchestrator.core.identity import file_sha256
from tests.anima.tiny_transformer import forward, tiny_transformer

METADATA = AdapterMetadata(
    rank=4,
    alpha=2.0,
    base_sha256="b" * 64,
    dataset_sha256="d" * 64,
    trial="trio",
    epoch=7,
    step=91,
    exposures_per_image=14.5,
    trigger_words=("kanachan", "keichan", "小春"),
    project_version="0.1.0",
)


@pytest.fixture(scope="module")
def injected() -> CosmosTransformer3DModel:
    model = tiny_transformer()
    adapter = inject(model, 4, 2.0, seed=1)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for b in adapter.parameters[1::2]:
            b.copy_(0.1 * torch.randn(b.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def state(injected: CosmosTransformer3DModel) -> dict[str, Tensor]:
    return adapter_state(injected)


@pytest.fixture
def path(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    return write_adapter(tmp_path / "epoch-0007" / "adapter.safetensors", state, METADATA).path


def test_reading_gives_what_was_written(tmp_path: Path, state: dict[str, Tensor]) -> None:
    written = write_adapter(tmp_path / "adapter.safetensors", state, METADATA)
    assert written.sha256 == file_sha256(written.path)
    assert written.size_bytes == written.path.stat().st_size
    adapter = read_adapter(written.path, sha256=written.sha256)
    assert adapter.file == written
    assert adapter.metadata == METADATA
    assert adapter.state.keys() == state.keys()
    assert all(torch.equal(adapter.state[key], state[key]) for key in state)


def test_a_file_merges_to_the_drawing_of_the_trained_model(injected: CosmosTransformer3DModel, path: Path) -> None:
    model = tiny_transformer()
    base = forward(model)
    merger = Merger(model)
    assert merger.merge(read_adapter(path).state) == 20
    torch.testing.assert_close(forward(model), forward(injected), rtol=1e-4, atol=2e-6)
    assert (forward(model) - base).abs().max() > 0.05
    merger.restore()
    assert torch.equal(forward(model), base)


def test_diffusers_own_pipeline_reads_the_file(injected: CosmosTransformer3DModel, path: Path) -> None:
    pipeline = AnimaModularPipeline()
    pipeline.update_components(transformer=tiny_transformer())
    pipeline.load_lora_weights(str(path), local_files_only=True)
    layers = {name: m for name, m in pipeline.transformer.named_modules() if isinstance(m, LoraLayer)}
    ours = {name for name, module in injected.named_modules() if isinstance(module, LoraLayer)}
    assert layers.keys() == ours
    assert {scale for layer in layers.values() for scale in layer.scaling.values()} == {1.0}
    torch.testing.assert_close(forward(pipeline.transformer), forward(injected), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_halves_the_file(
    tmp_path: Path, path: Path, state: dict[str, Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    half = write_adapter(tmp_path / "half.safetensors", state, METADATA, dtype=dtype)
    read = read_adapter(half.path).state
    assert {tensor.dtype for tensor in read.values()} == {dtype}
    assert half.size_bytes < 0.6 * path.stat().st_size
    for key in state:
        torch.testing.assert_close(read[key].float(), state[key], rtol=tolerance, atol=1e-7)
    assert Merger(tiny_transformer()).merge(read) == 20


def test_the_same_adapter_is_the_same_bytes_whoever_writes_it(path: Path, tmp_path: Path) -> None:
    # The safetensors library orders metadata by a hash that is new for every write.
    adapter = read_adapter(path)
    assert adapter.metadata is not None
    reversed_state = dict(reversed(adapter.state.items()))
    again = [write_adapter(tmp_path / f"{i}.safetensors", reversed_state, adapter.metadata) for i in range(8)]
    assert {file.sha256 for file in again} == {file_sha256(path)}
    library = {safetensors.torch.save(adapter.state, adapter.metadata.to_strings()) for _ in range(8)}
    assert len(library) > 1


def test_files_of_other_programs_have_no_metadata(tmp_path: Path, state: dict[str, Tensor]) -> None:
    foreign = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file(state, foreign, metadata={"format": "pt"})
    assert read_adapter(foreign).metadata is None
    safetensors.torch.save_file(state, foreign)
    assert read_adapter(foreign).metadata is None


def test_writing_replaces_whole_and_leaves_nothing_aside(path: Path, state: dict[str, Tensor]) -> None:
    write_adapter(path, state, replace(METADATA, epoch=8))
    found = read_adapter(path).metadata
    assert found is not None
    assert found.epoch == 8
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_alone(
    path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(VolumeError, match="No space left"):
        write_adapter(path, state, replace(METADATA, epoch=8))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_tensors_that_are_not_finite_are_neither_written_nor_read(tmp_path: Path, state: dict[str, Tensor]) -> None:
    key = next(iter(state))
    target = tmp_path / "adapter.safetensors"
    with pytest.raises(AdapterError, match=f"NaN or infinite .* in {key}"):
        write_adapter(target, {**state, key: torch.full_like(state[key], float("nan"))}, METADATA)
    huge = {**state, key: torch.full_like(state[key], 1e6)}
    with pytest.raises(AdapterError, match="float16"):
        write_adapter(target, huge, METADATA, dtype=torch.float16)
    assert not target.exists()
    safetensors.torch.save_file({**state, key: torch.full_like(state[key], float("inf"))}, target)
    with pytest.raises(AdapterError, match=f"NaN or infinite .* in {key}"):
        read_adapter(target)


def test_keys_of_another_kind_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    target = tmp_path / "adapter.safetensors"
    alpha = {**state, "diffusion_model.blocks.0.self_attn.q_proj.alpha": torch.tensor(4.0)}
    with pytest.raises(AdapterError, match="keys other than"):
        write_adapter(target, alpha, METADATA)
    assert not target.exists()
    bias = {**state, "diffusion_model.blocks.0.self_attn.q_proj.bias": torch.ones(128)}
    safetensors.torch.save_file(bias, target)
    with pytest.raises(AdapterError, match=r"adapter\.safetensors: has keys other than .*self_attn\.q_proj\.bias"):
        read_adapter(target)
    safetensors.torch.save_file({}, target)
    with pytest.raises(AdapterError, match="no LoRA tensors"):
        read_adapter(target)


def test_whole_numbers_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    target = tmp_path / "adapter.safetensors"
    safetensors.torch.save_file({key: tensor.int() for key, tensor in state.items()}, target)
    with pytest.raises(AdapterError, match=r"torch\.int32"):
        read_adapter(target)


@pytest.mark.parametrize("kept", [0, 5, 8, 100, 3000, -1000, -1])
def test_a_truncated_file_is_named_and_said_to_be_short(path: Path, kept: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    with pytest.raises(AdapterError, match="cut short") as refusal:
        read_adapter(path)
    assert str(refusal.value).startswith(f"{path}: ")


def test_trailing_bytes_are_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 16)
    with pytest.raises(AdapterError, match="corrupt"):
        read_adapter(path)


def test_a_flipped_bit_anywhere_is_noticed(path: Path, state: dict[str, Tensor]) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length].rstrip(b" ")
    generator = torch.Generator().manual_seed(0)
    spots = [*range(8), *range(8, 8 + len(header), 97)]
    spots += (8 + length + torch.randint(len(content) - 8 - length, (40,), generator=generator)).tolist()
    unseen = 0
    for spot in spots:
        damaged = bytearray(content)
        damaged[spot] ^= 1 << (spot % 8)
        path.write_bytes(damaged)
        with contextlib.suppress(AdapterError):
            adapter = read_adapter(path)
            # Only what nobody uses may change unseen, as the field "format" or a blank in the header.
            assert adapter.metadata == METADATA, spot
            assert all(torch.equal(adapter.state[key], state[key]) for key in state), spot
            unseen += 1
    assert unseen <= 4


def test_other_bytes_than_the_recorded_ones_are_refused(path: Path, state: dict[str, Tensor]) -> None:
    recorded = file_sha256(path)
    write_adapter(path, {key: tensor * 0.5 for key, tensor in state.items()}, METADATA)
    assert read_adapter(path).metadata == METADATA
    with pytest.raises(AdapterError, match="is not the recorded file"):
        read_adapter(path, sha256=recorded)


@pytest.mark.parametrize("name", ["adapter.pt", "adapter.bin", "adapter.CKPT", "adapter.pth"])
def test_pickles_are_refused_by_their_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(AdapterError, match="pickle"):
        read_adapter(tmp_path / name)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_in_disguise_are_refused_unopened(tmp_path: Path, state: dict[str, Tensor], zipped: bool) -> None:
    disguised = tmp_path / "adapter.safetensors"
    torch.save(state, disguised, _use_new_zipfile_serialization=zipped)
    with pytest.raises(AdapterError, match="is a pickle"):
        read_adapter(disguised)


def test_a_header_that_begins_like_a_pickle_is_read(tmp_path: Path, state: dict[str, Tensor]) -> None:
    target = tmp_path / "adapter.safetensors"
    name = "diffusion_model.blocks.0.mlp.layer1"
    pair = {key: tensor for key, tensor in state.items() if key.startswith(name + ".lora_")}
    plain = len(safetensors.torch.save(pair, {"note": ""})) - sum(4 * t.numel() for t in pair.values()) - 8
    safetensors.torch.save_file(pair, target, metadata={"note": "x" * (640 - plain)})
    assert target.read_bytes()[:2] == b"\x80\x02"
    assert read_adapter(target).state.keys() == pair.keys()


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="cannot be read") as refusal:
        read_adapter(tmp_path / "adapter.safetensors")
    assert "\n" not in str(refusal.value)
    with pytest.raises(AdapterError, match=r"not named \.safetensors"):
        read_adapter(tmp_path / "adapter.png")


@pytest.mark.parametrize(
    "header",
    [b"not json", b"[]", b'{"a": 3}', b'{"a": {"data_offsets": []}}', b'{"__metadata__": {"epoch": 3}}', b"\xff\xfe"],
)
def test_headers_that_are_no_headers_are_refused(tmp_path: Path, header: bytes) -> None:
    target = tmp_path / "adapter.safetensors"
    target.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(AdapterError, match=r"header|metadata"):
        read_adapter(target)


def test_metadata_of_a_newer_kind_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    target = tmp_path / "adapter.safetensors"
    strings = METADATA.to_strings()
    assert json.loads(strings["adapter.trigger_words"]) == list(METADATA.trigger_words)
    safetensors.torch.save_file(state, target, metadata={**strings, "adapter.flavour": '"new"'})
    with pytest.raises(AdapterError, match="flavour"):
        read_adapter(target)
    safetensors.torch.save_file(state, target, metadata={"adapter.rank": "4"})
    with pytest.raises(AdapterError, match="metadata"):
        read_adapter(target)


def test_the_recorded_sha256_is_of_the_bytes_on_disk(path: Path) -> None:
    assert read_adapter(path).file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
