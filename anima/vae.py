"""The Qwen-Image VAE for single pictures: folded to 2-D convolutions, with latents normalised per channel.

`AutoencoderKLQwenImage` is a video VAE. Its causal 3-D convolutions pad the past with zeros, so on a single frame only
the last temporal slice of each kernel ever meets data: `W[:, :, -1]` as a 2-D kernel gives the same numbers (exact up
to fp32 summation order) for about half the time and a third of the memory.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from torch import Tensor, nn


class FoldedConv(nn.Conv2d):
    """A causal 3-D convolution as it acts on one frame: takes and gives (B, C, 1, H, W)."""

    @classmethod
    def from_causal(cls, conv: QwenImageCausalConv3d) -> FoldedConv:
        """Copy the last temporal slice; the spatial padding is what the causal layer applied by hand."""
        left, _, top, _, _, _ = conv._padding
        folded = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size[1:],
            stride=conv.stride[1:],
            padding=(top, left),
            bias=conv.bias is not None,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        with torch.no_grad():
            folded.weight.copy_(conv.weight[:, :, -1])
            if conv.bias is not None and folded.bias is not None:
                folded.bias.copy_(conv.bias)
        return folded

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.squeeze(2)).unsqueeze(2)


def fold(vae: AutoencoderKLQwenImage) -> AutoencoderKLQwenImage:
    """Replace, in place, every causal convolution a single frame passes through; `time_conv` layers meet none."""
    for module in list(vae.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, QwenImageCausalConv3d) and name != "time_conv":
                setattr(module, name, FoldedConv.from_causal(child))
    return vae


def unfolded_state(vae: AutoencoderKLQwenImage) -> dict[str, Tensor]:
    """The 3-D state dict of a folded VAE: earlier temporal slices, which no single frame can see, are zero."""
    state = dict(vae.state_dict())
    for name, module in vae.named_modules():
        if isinstance(module, FoldedConv):
            weight = module.weight
            # The causal 3x3x3 kernels have three temporal slices, the 1x1x1 kernels one.
            depth = module.kernel_size[0]
            full = weight.new_zeros(*weight.shape[:2], depth, *weight.shape[2:])
            full[:, :, -1] = weight
            state[f"{name}.weight"] = full.detach()
    return state


class LatentCodec:
    """Pictures in [-1, 1] to normalised latents and back, through a folded VAE."""

    def __init__(self, vae: AutoencoderKLQwenImage) -> None:
        self.vae = fold(vae).eval().requires_grad_(False)
        shape = (1, vae.config.z_dim, 1, 1, 1)
        weight = next(vae.parameters())
        self._mean = torch.tensor(vae.config.latents_mean, device=weight.device, dtype=torch.float32).view(shape)
        self._std = torch.tensor(vae.config.latents_std, device=weight.device, dtype=torch.float32).view(shape)

    @property
    def scale_factor(self) -> int:
        """Picture pixels per latent cell along one side."""
        return 2 ** len(self.vae.config.temperal_downsample)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(C, 1, h, w) of the latent of a width x height picture."""
        s = self.scale_factor
        if width % (2 * s) or height % (2 * s):
            raise ValueError(f"size {width}x{height} must be divisible by {2 * s}")
        return (self.vae.config.z_dim, 1, height // s, width // s)

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, C, 1, h, w): the mode of the posterior, normalised per channel, fp32."""
        x = pixels.to(self._mean.device, next(self.vae.parameters()).dtype).unsqueeze(2)
        moments = self.vae.quant_conv(self.vae.encoder(x))
        mode = moments.chunk(2, dim=1)[0].float()
        return (mode - self._mean) / self._std

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, 1, h, w) normalised latents to (B, 3, H, W) in [-1, 1], fp32."""
        z = (latents.float() * self._std + self._mean).to(next(self.vae.parameters()).dtype)
        pixels = self.vae.decoder(self.vae.post_quant_conv(z))[:, :, 0]
        return pixels.float().clamp(-1, 1)
