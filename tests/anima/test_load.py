"""A base loads to the same tensors from every form it is published in, and not at all when anything about it is off."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import CosmosTransformer3DModel
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn
from transformers import Qwen3Model, T5TokenizerFast

from anima.base import POCKET
from anima.draw import Request, draw
from anima.load import Base, load_base, load_text, load_transformer, load_vae
from anima.match import inspect_base, match_part
from anima.sources.config import BaseSources
from anima.sources.obtain import obtain_base
from anima.sources.store import WeightStore
from orchestrator.core.errors import MissingError, StudyError, WeightsError
from orchestrator.core.study import Drawing
from tests.anima.single_files import SingleFiles, write_single_files
from tests.anima.tiny_transformer import forward, tiny_transformer


def tensors(base: Base) -> dict[str, Tensor]:
    """All weights and tables of a base, by component and name."""
    modules: dict[str, nn.Module] = {
        "transformer": base.transformer,
        "vae": base.codec.vae,
        "encoder": base.text.encoder,
        "conditioner": base.text.conditioner,
    }
    return {
        f"{part}.{name}": tensor
        for part, module in modules.items()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    }


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


def sources(files: SingleFiles, **more: str) -> BaseSources:
    """The mapping a study would write for pocket Anima in single files."""
    named = {"transformer": str(files.transformer), "text_encoder": str(files.text_encoder), "vae": str(files.vae)}
    return BaseSources.model_validate({**named, "tokenizers": "pocket", "configs": str(POCKET), **more})


def obtain(base: BaseSources, tmp_path: Path) -> Path:
    return obtain_base(base, store=WeightStore(tmp_path / "cache"))


@pytest.fixture(scope="module")
def pocket() -> Base:
    return load_base(POCKET)


def test_a_folder_loads_to_the_numbers_in_its_files(pocket: Base) -> None:
    """fp16 on the disk, fp32 in memory: exact."""
    loaded = tensors(pocket)
    for part, folder in (("encoder", "text_encoder"), ("conditioner", "text_conditioner"), ("transformer",) * 2):
        (file,) = (POCKET / folder).glob("*.safetensors")
        for name, tensor in load_file(file).items():
            assert torch.equal(loaded[f"{part}.{name}"], tensor.float()), name
    unfolded = load_vae(POCKET / "vae").state_dict()
    (file,) = (POCKET / "vae").glob("*.safetensors")
    stored = load_file(file)
    assert stored.keys() == unfolded.keys()
    assert all(torch.equal(unfolded[name], tensor.float()) for name, tensor in stored.items())
    assert all(t.device.type == "cpu" for t in loaded.values()), "nothing was left without memory"
    assert not any(t.requires_grad for t in loaded.values())


@pytest.mark.parametrize("root", ["net.", "model.diffusion_model.", "diffusion_model.", ""])
def test_single_files_load_to_the_same_tensors(root: str, pocket: Base, tmp_path: Path) -> None:
    files = write_single_files(tmp_path / "files", root=root)
    assert_same(tensors(load_base(obtain(sources(files), tmp_path))), tensors(pocket))


def test_single_files_draw_the_same_picture(pocket: Base, tmp_path: Path) -> None:
    single = load_base(obtain(sources(write_single_files(tmp_path / "files")), tmp_path))
    request, drawing = Request("1girl, blue hair, twintails", 3), Drawing(steps=3, width=48, height=32)
    assert torch.equal(draw(single, [request], drawing), draw(pocket, [request], drawing))


def test_every_load_says_what_it_matched(tmp_path: Path) -> None:
    files = write_single_files(tmp_path / "files", tables=True)
    reports = load_base(obtain(sources(files), tmp_path)).reports
    assert [(r.part, r.matched, r.expected, r.ignored) for r in reports] == [
        ("transformer", 127, 127, 3),
        ("text_conditioner", 42, 42, 0),
        ("text_encoder", 35, 35, 0),
        ("vae", 118, 118, 0),
    ]
    assert str(reports[0]) == (
        f"weights matched | transformer 127 of 127 tensors, f16, 3 rotary tables left aside | {files.transformer}"
    )
    assert str(reports[1]) == f"weights matched | text_conditioner 42 of 42 tensors, f16 | {files.transformer}"


def test_a_published_file_and_a_folder_can_be_mixed(pocket: Base, tmp_path: Path) -> None:
    files = write_single_files(tmp_path / "files")
    mixed = sources(files, text_encoder="pocket", vae=str(POCKET / "vae"), text_conditioner="pocket")
    assert_same(tensors(load_base(obtain(mixed, tmp_path))), tensors(pocket))


def test_a_transformer_in_shards_is_one_transformer(tmp_path: Path) -> None:
    model = tiny_transformer()
    model.save_pretrained(tmp_path, max_shard_size="300KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors").write_bytes(save({"left.over": torch.ones(1)}))
    loaded = load_transformer(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(forward(loaded), forward(model))


def test_diffusers_reads_the_same_single_file_to_the_same_transformer(tmp_path: Path) -> None:
    files = write_single_files(tmp_path)
    theirs = CosmosTransformer3DModel.from_single_file(
        str(files.transformer), config=str(POCKET / "transformer"), torch_dtype=torch.float32
    )
    ours = load_transformer(POCKET / "transformer").state_dict()
    assert ours.keys() == theirs.state_dict().keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.state_dict().items())


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_weights_take_the_dtype_asked_for_and_rotary_tables_stay_exact(stored: torch.dtype, tmp_path: Path) -> None:
    shutil.copytree(POCKET, tmp_path / "base")
    for file in (tmp_path / "base").rglob("*.safetensors"):
        save_file({name: t.to(stored) for name, t in load_file(file).items()}, file)
    base = load_base(tmp_path / "base", dtype=torch.bfloat16)
    assert {p.dtype for n, p in tensors(base).items() if "inv_freq" not in n} == {torch.bfloat16}
    exact = load_text(POCKET)
    assert torch.equal(base.text.conditioner.rotary_emb.inv_freq, exact.conditioner.rotary_emb.inv_freq)
    assert torch.equal(base.text.encoder.rotary_emb.inv_freq, exact.encoder.rotary_emb.inv_freq)
    weight = load_file(tmp_path / "base/transformer/diffusion_pytorch_model.safetensors")["proj_out.weight"]
    assert torch.equal(base.transformer.proj_out.weight, weight.bfloat16())


def test_writing_into_loaded_weights_leaves_the_file_alone(tmp_path: Path) -> None:
    """Where neither dtype nor device differ from the file's, weights are its pages; merging writes into them."""
    tiny_transformer().save_pretrained(tmp_path)
    before = (tmp_path / "diffusion_pytorch_model.safetensors").read_bytes()
    model = load_transformer(tmp_path)
    with torch.no_grad():
        model.proj_out.weight.zero_()
    assert (tmp_path / "diffusion_pytorch_model.safetensors").read_bytes() == before
    assert load_transformer(tmp_path).proj_out.weight.any()


def test_a_configuration_of_an_older_transformers_means_the_same(tmp_path: Path) -> None:
    shutil.copytree(POCKET, tmp_path / "base")
    file = tmp_path / "base/text_encoder/config.json"
    config = json.loads(file.read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"] * 100
    config |= {"torch_dtype": "float16", "rope_scaling": None}
    file.write_text(json.dumps(config))
    theirs = Qwen3Model.from_pretrained(tmp_path / "base/text_encoder", dtype=torch.float32)
    ours = load_text(tmp_path / "base").encoder
    assert torch.equal(ours.rotary_emb.inv_freq, theirs.rotary_emb.inv_freq)
    tokens = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(ours(tokens).last_hidden_state, theirs.eval()(tokens).last_hidden_state)


Spoil = Callable[[Path], object]
KEY = "net.blocks.2.mlp.layer1.weight"


def edited(change: Callable[[dict[str, Tensor]], object]) -> Spoil:
    """Rewrite a file's tensors."""

    def spoil(file: Path) -> None:
        state = load_file(file)
        change(state)
        save_file(state, file)

    return spoil


FAULTS: dict[str, tuple[Spoil, str]] = {
    "gone": (Path.unlink, "there is no such file"),
    "empty": (lambda f: f.write_bytes(b""), "the file is empty (0 bytes)"),
    "cut short": (lambda f: f.write_bytes(f.read_bytes()[:-100]), "it was cut short or appended to"),
    "cut in the header": (lambda f: f.write_bytes(f.read_bytes()[:500]), "is not a safetensors file"),
    "appended to": (lambda f: f.write_bytes(f.read_bytes() + b"x"), "it was cut short or appended to"),
    "a web page": (
        lambda f: f.write_text("<!DOCTYPE html><title>Log in</title>"),
        "is not a safetensors file",
    ),
    "a pickle": (lambda f: torch.save({"a": torch.ones(2)}, f), "is a pickle under the name of a safetensors file"),
    "an old pickle": (
        lambda f: torch.save({"a": torch.ones(2)}, f, _use_new_zipfile_serialization=False),
        "is a pickle under the name of a safetensors file",
    ),
    "another prefix": (
        edited(lambda s: [s.update({f"ema.{key}": s.pop(key)}) for key in list(s)]),
        "its first key is ema.net.blocks.0.adaln_modulation_cross_attn.1.weight",
    ),
    "without a tensor": (edited(lambda s: s.pop(KEY)), f"lacks {KEY}: 126 of 127 transformer tensors"),
    "without two": (edited(lambda s: (s.pop(KEY), s.pop("net.t_embedding_norm.weight"))), "and 1 more: 125 of 127"),
    "with one too many": (
        edited(lambda s: s.update({"net.blocks.6.mlp.layer1.weight": torch.ones(1)})),
        "has a tensor that no Anima transformer has: net.blocks.6.mlp.layer1.weight",
    ),
    "with one outside": (edited(lambda s: s.update({"step": torch.ones(1)})), "no Anima transformer has: step"),
    "of another shape": (
        edited(lambda s: s.update({KEY: torch.ones(3, 4)})),
        f"{KEY} is (3, 4), the model's is (640, 160)",
    ),
    "quantised": (edited(lambda s: s.update({KEY: s[KEY].to(torch.float8_e4m3fn)})), f"{KEY} is stored as F8_E4M3"),
    "without its other half": (
        edited(lambda s: [s.pop(key) for key in list(s) if "llm_adapter" in key]),
        "holds no text_conditioner of Anima",
    ),
    "lacking in its other half": (
        edited(lambda s: s.pop("net.llm_adapter.norm.weight")),
        "lacks net.llm_adapter.norm.weight: 41 of 42 text_conditioner tensors",
    ),
    "of other rows": (
        edited(lambda s: s.update({"net.llm_adapter.embed.weight": torch.ones(5, 128)})),
        "net.llm_adapter.embed.weight is (5, 128), the model's is (339, 128)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_transformer_file_that_is_off_is_refused_in_one_line(fault: str, tmp_path: Path) -> None:
    files = write_single_files(tmp_path / "files")
    folder = obtain(sources(files), tmp_path)
    spoil, words = FAULTS[fault]
    spoil(files.transformer)
    for attempt in (inspect_base, load_base):
        with pytest.raises(StudyError) as error:
            attempt(folder)
        assert "\n" not in str(error.value)
        if fault != "gone" or attempt is inspect_base:
            assert str(files.transformer) in str(error.value), "the file is named as the study names it"
            assert words in str(error.value)


def test_a_missing_tensor_of_any_component_is_named(tmp_path: Path) -> None:
    files = write_single_files(tmp_path / "files")
    folder = obtain(sources(files), tmp_path)
    edited(lambda s: s.pop("decoder.upsamples.2.resample.1.bias"))(files.vae)
    with pytest.raises(WeightsError, match=r"vae\.safetensors: lacks decoder\.upsamples\.2\.resample\.1\.bias: 117 of"):
        load_base(folder)
    edited(lambda s: s.update({"lm_head.weight": torch.ones(1)}))(files.text_encoder)
    with pytest.raises(WeightsError, match=r"qwen\.safetensors: has a tensor that no Anima text_encoder has: lm_head"):
        load_base(folder)


def test_files_of_the_wrong_component_are_told_apart(tmp_path: Path) -> None:
    files = write_single_files(tmp_path / "files")
    swapped = sources(SingleFiles(files.transformer, files.vae, files.text_encoder))
    with pytest.raises(WeightsError, match=r"vae\.safetensors: holds no text_encoder of Anima"):
        inspect_base(obtain(swapped, tmp_path))


def test_two_sets_of_weights_in_one_folder_have_no_one_meaning(tmp_path: Path) -> None:
    tiny_transformer().save_pretrained(tmp_path)
    shutil.copy(tmp_path / "diffusion_pytorch_model.safetensors", tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other\.safetensors: .* is also in diffusion_pytorch_model\.safetensors"):
        match_part(tmp_path, "transformer")


def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    tiny_transformer().save_pretrained(tmp_path)
    index = {"weight_map": {"proj_out.weight": "../../elsewhere.safetensors"}}
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="names files outside its folder"):
        match_part(tmp_path, "transformer")


def test_weights_in_a_pickle_are_named_and_not_read(tmp_path: Path) -> None:
    shutil.copytree(POCKET, tmp_path / "base")
    (file,) = (tmp_path / "base/vae").glob("*.safetensors")
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(MissingError, match=r"no vae weights \(diffusion_pytorch_model\.bin is a pickle"):
        load_base(tmp_path / "base")


@pytest.mark.parametrize(
    ("text", "words"), [("{", "is not readable as JSON"), ("[]", "is not a configuration"), (None, "no vae")]
)
def test_a_configuration_that_cannot_be_read_is_named(text: str | None, words: str, tmp_path: Path) -> None:
    shutil.copytree(POCKET, tmp_path / "base")
    config = tmp_path / "base/vae/config.json"
    config.unlink() if text is None else config.write_text(text)
    with pytest.raises(StudyError, match=words):
        load_base(tmp_path / "base")


def test_tokenizers_that_do_not_belong_to_the_model_are_refused(tmp_path: Path) -> None:
    shutil.copytree(POCKET, tmp_path / "base")
    tokenizer = T5TokenizerFast.from_pretrained(POCKET / "t5_tokenizer")
    tokenizer.add_tokens([f"word{n}" for n in range(100)])
    tokenizer.save_pretrained(tmp_path / "base/t5_tokenizer")
    with pytest.raises(WeightsError, match=r"t5_tokenizer: the tokenizer knows \d+ tokens, the model reads only 339"):
        load_base(tmp_path / "base")
    (tmp_path / "base/t5_tokenizer/tokenizer.json").write_text("{")
    with pytest.raises(WeightsError, match=r"t5_tokenizer: the tokenizer cannot be read"):
        load_base(tmp_path / "base")
