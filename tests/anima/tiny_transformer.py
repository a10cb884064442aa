"""A two-block transformer of the real class, small enough to build in every test, and one fixed forward pass."""

from __future__ import annotations

import torch
from diffusers import CosmosTransformer3DModel
from torch import Tensor


def tiny_transformer(dtype: torch.dtype = torch.float32) -> CosmosTransformer3DModel:
    """The same random weights every time; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CosmosTransformer3DModel(
            in_channels=16,
            out_channels=16,
            num_attention_heads=4,
            attention_head_dim=32,
            num_layers=2,
            mlp_ratio=4.0,
            text_embed_dim=64,
            adaln_lora_dim=16,
            max_size=(128, 240, 240),
            patch_size=(1, 2, 2),
            rope_scale=(1.0, 4.0, 4.0),
            concat_padding_mask=False,
            extra_pos_embed_type=None,
        )
    return model.to(dtype).eval()


def forward(model: CosmosTransformer3DModel) -> Tensor:
    """(2, 16, 1, 8, 6) velocities of fixed inputs at sigmas 0.2 and 0.9."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 16, 1, 8, 6, generator=generator).to(model.dtype)
    text = torch.randn(2, 10, 64, generator=generator).to(model.dtype)
    sigma = torch.tensor([0.2, 0.9], dtype=model.dtype)
    output: Tensor = model(x, sigma, text, return_dict=False)[0]
    return output
