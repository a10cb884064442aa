"""Train the miniature's VAE on pictures of the drawn world; small coloured marks weigh more than flat walls."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage
from torch import Tensor

from anima.pocket.pictures import Album
from anima.vae import fold, unfolded_state

log = logging.getLogger(__name__)

Z_DIM = 8
VAE_CONFIG = {
    "base_dim": 16,
    "z_dim": Z_DIM,
    "dim_mult": [1, 2, 4],
    "num_res_blocks": 1,
    "attn_scales": [],
    "temperal_downsample": [False, True],
}
DETAIL_WEIGHT = 6.0
KL_WEIGHT = 1e-3


def train_vae(
    album: Album, out: Path, *, steps: int, batch: int = 16, lr: float = 2e-3, seed: int = 0
) -> AutoencoderKLQwenImage:
    """Train from scratch and save a diffusers folder with the measured latent mean and std; resumes from its state.

    `album` gives (N, 3, H, W) uint8 pictures and (N, H, W) detail masks.
    """
    torch.manual_seed(seed)
    vae = fold(AutoencoderKLQwenImage(**VAE_CONFIG, latents_mean=[0.0] * Z_DIM, latents_std=[1.0] * Z_DIM)).train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=1e-4, fused=True)
    state_file = out.with_suffix(".state.pt")
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        log.info("vae resumes | step=%d", first)
    began = time.monotonic()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps) * 0.98)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(album), (batch,), generator=generator)
        pixels, detail = album.pixels(rows), album.detail(rows)
        loss, parts = _loss(vae, pixels, detail, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 49:
            pace = (time.monotonic() - began) / (step + 1 - first)
            log.info("vae | step=%d/%d %s | %.2f s/step", step + 1, steps, parts, pace)
        if step % 250 == 249:
            _write_state(state_file, vae, optimizer, step + 1)
    return _finish(vae, album, out)


def _loss(
    vae: AutoencoderKLQwenImage, pixels: Tensor, detail: Tensor, generator: torch.Generator
) -> tuple[Tensor, str]:
    mean, logvar = vae.quant_conv(vae.encoder(pixels.unsqueeze(2))).chunk(2, dim=1)
    logvar = logvar.clamp(-20, 10)
    z = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=generator)
    drawn = vae.decoder(vae.post_quant_conv(z))[:, :, 0]
    weight = 1 + DETAIL_WEIGHT * detail.unsqueeze(1)
    away = (drawn - pixels).abs()
    pixel_loss = ((away + 0.5 * away.square()) * weight).sum() / (3 * weight.sum())
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return pixel_loss + KL_WEIGHT * kl, f"l1={away.mean():.4f} weighted={pixel_loss:.4f} kl={kl:.2f}"


def _write_state(path: Path, vae: AutoencoderKLQwenImage, optimizer: torch.optim.Optimizer, step: int) -> None:
    aside = path.with_suffix(".tmp")
    torch.save({"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, aside)
    aside.replace(path)


@torch.inference_mode()
def _finish(vae: AutoencoderKLQwenImage, album: Album, out: Path) -> AutoencoderKLQwenImage:
    vae.eval()
    rows = torch.arange(min(1024, len(album)))
    latents = torch.cat(
        [vae.quant_conv(vae.encoder(album.pixels(r).unsqueeze(2))).chunk(2, dim=1)[0] for r in rows.split(64)]
    )
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    log.info("vae latents | mean=%s std=%s", mean.tolist(), std.tolist())
    whole = AutoencoderKLQwenImage(**VAE_CONFIG, latents_mean=mean.tolist(), latents_std=std.tolist())
    whole.load_state_dict(whole.state_dict() | unfolded_state(vae))
    whole.save_pretrained(out)
    return whole
