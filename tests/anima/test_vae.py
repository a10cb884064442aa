"""Folding the video VAE to single pictures changes nothing but the time it takes."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLQwenImage

from anima.vae import FoldedConv, LatentCodec, fold, unfolded_state

CONFIG = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [False, True]}


@pytest.fixture
def vae() -> AutoencoderKLQwenImage:
    torch.manual_seed(0)
    model = AutoencoderKLQwenImage(**CONFIG, latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.5, 2.0, 1.0])
    return model.eval().requires_grad_(False)


def test_folded_equals_the_video_path_on_one_frame(vae: AutoencoderKLQwenImage) -> None:
    pixels = torch.rand(2, 3, 1, 32, 48) * 2 - 1
    latents = vae.encode(pixels).latent_dist.mode()
    decoded = vae.decode(latents).sample[:, :, 0]
    codec = LatentCodec(vae)
    mean, std = (torch.tensor(v).view(1, 4, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    torch.testing.assert_close(codec.encode(pixels[:, :, 0]), (latents - mean) / std, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(codec.decode((latents - mean) / std), decoded, rtol=1e-4, atol=1e-5)


def test_a_folded_vae_can_be_written_as_the_video_vae_it_came_from(vae: AutoencoderKLQwenImage) -> None:
    latents = torch.randn(1, 4, 1, 8, 12)
    before = vae.decode(latents).sample
    state = unfolded_state(fold(vae))
    again = AutoencoderKLQwenImage(**CONFIG)
    again.load_state_dict(again.state_dict() | state)
    torch.testing.assert_close(again.eval().decode(latents).sample, before, rtol=1e-4, atol=1e-5)


def test_only_convolutions_no_single_frame_meets_stay_three_dimensional(vae: AutoencoderKLQwenImage) -> None:
    left = [name for name, m in fold(vae).named_modules() if isinstance(m, torch.nn.Conv3d)]
    assert left
    assert all(name.endswith("time_conv") for name in left)
    assert any(isinstance(m, FoldedConv) for m in vae.modules())


def test_a_size_that_does_not_divide_is_refused(vae: AutoencoderKLQwenImage) -> None:
    codec = LatentCodec(vae)
    assert codec.latent_shape(96, 64) == (4, 1, 16, 24)
    with pytest.raises(ValueError, match="100x64 must be divisible by 8"):
        codec.latent_shape(100, 64)
