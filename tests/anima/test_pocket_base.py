"""The shipped miniature is a real Anima folder: complete, small, and drawable by diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CosmosTransformer3DModel, ModularPipeline
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.models.transformers import transformer_cosmos

from anima.base import POCKET, base_sha256, missing_parts
from anima.draw import Request, draw
from anima.flow import initial_noise
from anima.load import load_base, load_transformer
from orchestrator.core.errors import MissingError
from orchestrator.core.study import Drawing

LIMIT_BYTES = 15_000_000
PROMPT = "2girls, left side: blue hair, twintails, white shirt, right side: red hair, short hair, white background"


def test_it_is_complete_and_small() -> None:
    assert missing_parts(POCKET) == []
    assert sum(f.stat().st_size for f in POCKET.rglob("*") if f.is_file()) <= LIMIT_BYTES
    assert (POCKET / "README.md").read_text().startswith("# ")


def test_its_identity_follows_its_content(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    before = base_sha256(tmp_path)
    (tmp_path / "vae" / "config.json").write_text("{ }")
    assert base_sha256(tmp_path) != before


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no transformer, text_conditioner, vae"):
        load_base(tmp_path)


def test_diffusers_own_pipeline_draws_the_same_picture_from_the_same_folder() -> None:
    pipeline = ModularPipeline.from_pretrained(str(POCKET))
    pipeline.load_components(dtype=torch.float32)
    pipeline.update_components(guider=ClassifierFreeGuidance(guidance_scale=1.0))
    base = load_base(POCKET)
    noise = initial_noise(7, base.codec.latent_shape(96, 64)).unsqueeze(0)
    theirs = pipeline(prompt=PROMPT, width=96, height=64, num_inference_steps=8, latents=noise, output="images")[0]
    # 8 steps divide the table of 1000, so diffusers' sigmas are ours; its Euler is deterministic.
    ours = draw(base, [Request(PROMPT, 7)], Drawing(sampler="euler", steps=8, width=96, height=64))[0]
    levels = ((ours.permute(1, 2, 0) + 1) * 127.5).numpy()
    assert np.abs(levels - np.asarray(theirs, dtype=np.float32)).mean() < 1.0


def test_folding_the_padding_mask_away_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Resize:
        """What the masked model would take from torchvision; the mask of a whole picture is zero at any size."""

        class functional:
            @staticmethod
            def resize(mask: torch.Tensor, size: list[int], interpolation: object) -> torch.Tensor:  # noqa: ARG004
                return torch.zeros(*mask.shape[:-2], *size)

        class InterpolationMode:
            NEAREST = None

    monkeypatch.setattr(transformer_cosmos, "transforms", Resize, raising=False)
    torch.manual_seed(0)
    masked = CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        text_embed_dim=8,
        adaln_lora_dim=4,
        max_size=(4, 16, 16),
        concat_padding_mask=True,
        extra_pos_embed_type=None,
    ).eval()
    masked.save_pretrained(tmp_path)
    folded = load_transformer(tmp_path).eval()
    inputs = {
        "hidden_states": torch.randn(2, 4, 1, 8, 8),
        "timestep": torch.tensor([0.3, 0.9]),
        "encoder_hidden_states": torch.randn(2, 5, 8),
    }
    with torch.no_grad():
        expected = masked(**inputs, padding_mask=torch.zeros(1, 1, 32, 32), return_dict=False)[0]
        assert torch.equal(folded(**inputs, return_dict=False)[0], expected)
