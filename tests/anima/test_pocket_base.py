"""The shipped miniature is a real Anima folder: complete, small, and drawable by diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import CosmosTransformer3DModel, ModularPipeline
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.models.transformers import transformer_cosmos

from anima.base import POCKET, base_sha256, missing_parts
from anima.draw import Request, draw, draw_latents
from anima.flow import Schedule, initial_noise
from anima.load import Base, load_base, load_transformer
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


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(POCKET)


@pytest.fixture(scope="module")
def pipeline() -> ModularPipeline:
    loaded = ModularPipeline.from_pretrained(str(POCKET))
    loaded.load_components(dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.mark.parametrize(
    ("batch", "cfg", "schedule", "steps"),
    [(1, 1.0, "simple", 8), (8, 1.0, "linspace", 7), (1, 3.5, "linspace", 7), (8, 3.5, "simple", 5)],
)
def test_diffusers_own_pipeline_draws_the_same_pictures(
    base: Base, pipeline: ModularPipeline, batch: int, cfg: float, schedule: Schedule, steps: int
) -> None:
    """Its Euler on the same latents in fp32. Where steps divide the table of 1000, `simple` has diffusers' sigmas."""
    negative = "1girl, solo, red hair"
    prompts = [PROMPT, "1girl, solo, green hair", "koharu", *[f"3girls, {n} hair" for n in ("red", "blue")] * 3][:batch]
    seeds = range(7, 7 + batch)
    shape = base.codec.latent_shape(96, 64)
    pipeline.update_components(guider=ClassifierFreeGuidance(guidance_scale=cfg))
    state = pipeline(
        prompt=prompts,
        negative_prompt=[negative] * batch,
        width=96,
        height=64,
        num_inference_steps=steps,
        latents=torch.stack([initial_noise(seed, shape) for seed in seeds]),
        output_type="pt",
    )
    requests = [Request(prompt, seed, negative) for prompt, seed in zip(prompts, seeds, strict=True)]
    drawing = Drawing(sampler="euler", steps=steps, cfg=cfg, width=96, height=64, schedule=schedule)
    latents = draw_latents(base, requests, drawing)
    torch.testing.assert_close(latents, state.get("latents"), rtol=0, atol=1e-4)
    # Its pictures are in [0, 1].
    torch.testing.assert_close((draw(base, requests, drawing) + 1) / 2, state.get("images"), rtol=0, atol=1e-4)


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
