"""Which layers are adapted: the sets people know by their number of layers, or a regular expression."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AnimaTextConditioner, CosmosTransformer3DModel
from pydantic import ValidationError

from anima.adapter_files import read_adapter
from orchestrator.core.errors import ConfigError
from orchestrator.core.layout import Layout
from tests.trainer.pocket_trials import TRAIN, make_job, make_session, saved
from trainer.config import DrawnDataset, TrainConfig
from trainer.drawn import ensure_drawn_dataset
from trainer.importing.kohya import WITH_CONDITIONER
from trainer.layers import chosen_layers, ranks_of
from trainer.trial import run_trial


@pytest.fixture(scope="module")
def real() -> tuple[CosmosTransformer3DModel, AnimaTextConditioner]:
    """The real model's modules, without their numbers."""
    with torch.device("meta"):
        transformer = CosmosTransformer3DModel(
            in_channels=16, out_channels=16, num_attention_heads=16, attention_head_dim=128, num_layers=28,
            mlp_ratio=4.0, text_embed_dim=1024, adaln_lora_dim=256, max_size=(128, 240, 240), patch_size=(1, 2, 2),
            rope_scale=(1.0, 4.0, 4.0), concat_padding_mask=False, extra_pos_embed_type=None,
        )  # fmt: skip
        return transformer, AnimaTextConditioner()


@pytest.mark.parametrize(
    ("targets", "transformer", "conditioner"),
    [
        ("dit-280", 280, 0),
        ("toolkit-316", 280, 36),
        ("with-adaln-448", 448, 0),
        (r"^blocks\.\d+\.cross_attn", 112, 0),
        (r"llm_adapter\.blocks", 0, 60),
        (WITH_CONDITIONER, 280, 60),
        (r"blocks\.(0|27)\.mlp\.layer", 4, 0),
    ],
)
def test_sets_have_the_layers_their_names_promise(real, targets: str, transformer: int, conditioner: int) -> None:
    layers = chosen_layers(targets, *real)
    assert (len(layers.transformer), len(layers.conditioner)) == (transformer, conditioner)
    for component, named in zip(real, (layers.transformer, layers.conditioner), strict=True):
        assert all(isinstance(component.get_submodule(m), torch.nn.Linear) for m in named.values())


def test_patterns_that_fit_nothing_are_refused(real) -> None:
    with pytest.raises(ConfigError, match="'nothing' matches no layer"):
        chosen_layers("nothing", *real)
    with pytest.raises(ConfigError, match="'conv' matches no adapted layer"):
        ranks_of(chosen_layers("dit-280", *real).transformer, {"mlp": 4, "conv": 8})
    with pytest.raises(ValidationError, match="neither a named set nor a regular expression"):
        TrainConfig(targets="(")
    with pytest.raises(ValidationError, match="neither a named set nor a regular expression"):
        TrainConfig(ranks={"*": 3})


def test_the_first_matching_pattern_gives_the_rank(real) -> None:
    ranks = ranks_of(chosen_layers("dit-280", *real).transformer, {r"blocks\.0\.mlp": 64, "mlp": 16})
    assert ranks["diffusion_model.blocks.0.mlp.layer1"] == 64
    assert ranks["diffusion_model.blocks.3.mlp.layer2"] == 16
    assert "diffusion_model.blocks.0.self_attn.q_proj" not in ranks


@pytest.fixture(scope="module")
def dataset_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "dataset"
    ensure_drawn_dataset(root, DrawnDataset(solo=1, pair=0, trio=0))
    return root


@pytest.mark.parametrize(
    ("targets", "layers", "probe"),
    [
        ("toolkit-316", 60 + 12, "llm_adapter.blocks.1.cross_attn.k_proj"),
        ("with-adaln-448", 96, "blocks.2.adaln_modulation_mlp.2"),
    ],
)
def test_every_layer_of_a_set_learns_and_is_in_the_file(
    dataset_root: Path, tmp_path: Path, targets: str, layers: int, probe: str
) -> None:
    """In the toolkit the conditioner's layers were adapted and never got a gradient."""
    train = TRAIN.model_copy(update={"epochs": 2, "targets": targets, "ranks": {"mlp": 2}, "alpha": 8.0})
    (*_, last) = saved(run_trial(make_job(tmp_path, dataset_root, train)))
    state = read_adapter(Layout(tmp_path).resolve(last.adapter)).state
    assert len(state) == 2 * layers
    assert all(bool(t.abs().max() > 0) for t in state.values())
    assert state[f"diffusion_model.{probe}.lora_A.weight"].shape[0] == (2 if "mlp" in probe else 4)


def test_alpha_keeps_its_ratio_to_other_ranks(dataset_root: Path, tmp_path: Path) -> None:
    train = TRAIN.model_copy(update={"ranks": {"mlp": 2}, "alpha": 8.0})
    made = make_session(make_job(tmp_path, dataset_root, train))
    scales = {float(m.scaling["adapter"]) for m in made.base.transformer.modules() if hasattr(m, "scaling")}
    assert scales == {2.0}
