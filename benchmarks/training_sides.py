"""The same optimizer step by three programs: this project, diffusers with peft as written by hand, and sd-scripts.

All train a LoRA of one rank on the ten linear layers of every block, with the same weights (sd-scripts: random ones of
the same sizes), pictures, captions, batch and AdamW. A side is made once; `step` makes one whole optimizer step.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AnimaTextConditioner, AutoencoderKLQwenImage, CosmosTransformer3DModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen3Model, T5TokenizerFast

from anima.base import base_sha256
from anima.flow import shift
from orchestrator.core.fence import Fence
from orchestrator.core.layout import Layout
from trainer.buckets import training_fits
from trainer.config import DatasetConfig, TrainConfig
from trainer.job import TrialJob
from trainer.session import Session
from trainer.team import Team
from trainer.trial import trial_dataset

Step = Callable[[], float]
"""Makes one optimizer step; gives its loss."""


@dataclass(frozen=True)
class Work:
    """What every side trains: a base in diffusers layout, pictures with captions, and settings."""

    base: Path
    pictures: Path
    study: Path
    train: TrainConfig
    trigger: str

    @property
    def device(self) -> str:
        """Where: the GPU if there is one."""
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen base."""
        return torch.bfloat16 if self.train.dtype == "bf16" else torch.float32


def session(work: Work) -> Session:
    """This project's trial in memory, its caches made."""
    job = TrialJob(
        trial="benchmark",
        study_root=str(work.study),
        base=str(work.base),
        base_sha256=base_sha256(work.base),
        dataset_root=str(work.pictures),
        dataset=DatasetConfig(),
        train=work.train,
        triggers=(work.trigger,),
    )
    layout = Layout(work.study)
    dataset = trial_dataset(job, layout)
    return Session(job, layout, dataset, training_fits(dataset, work.train), Team(), Fence(layout.attempt(job.trial)))


def ours(work: Work) -> Step:
    """This project: everything a step does, the row of the metrics included."""
    made = session(work)
    made.rewind(before=1)

    def facts() -> Iterator[float]:
        epoch = 1
        while True:
            yield from (fact.loss for fact in made.epoch(epoch))
            epoch += 1

    losses = facts()
    return lambda: next(losses)


class Plain:
    """A loop as diffusers' training examples have it: peft's adapter, bf16 base, fp32 adapters, AdamW.

    With `cached`, latents and conditionings are made once; without, at every step, as the examples do by default.
    """

    def __init__(self, work: Work, *, cached: bool) -> None:
        self.work, device = work, work.device
        self.transformer = _part(work, CosmosTransformer3DModel, "transformer")
        self.vae = _part(work, AutoencoderKLQwenImage, "vae")
        self.encoder = Qwen3Model.from_pretrained(work.base / "text_encoder", dtype=work.dtype).to(device)
        self.encoder.requires_grad_(False)
        self.conditioner = _part(work, AnimaTextConditioner, "text_conditioner")
        self.tokenizer = Qwen2Tokenizer.from_pretrained(work.base / "tokenizer")
        self.t5 = T5TokenizerFast.from_pretrained(work.base / "t5_tokenizer")
        rank = work.train.rank
        names = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
        self.transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=names, lora_dropout=0.0))
        self.parameters = [p for p in self.transformer.parameters() if p.requires_grad]
        for parameter in self.parameters:
            parameter.data = parameter.data.float()
        if work.train.checkpointing == "on":
            self.transformer.enable_gradient_checkpointing()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=work.train.learning_rate)
        files = sorted(work.pictures.glob("*.png"))
        self.examples = [(_pixels(file), file.with_suffix(".txt").read_text().strip()) for file in files]
        self.cache = [self._encode([i]) for i in range(len(files))] if cached else None
        if cached:
            # Their work is done; what stays on a GPU is what is trained.
            self.vae.cpu(), self.encoder.cpu(), self.conditioner.cpu()
        self.generator = torch.Generator().manual_seed(0)

    @property
    def layers(self) -> int:
        """Adapted layers."""
        return len(get_peft_model_state_dict(self.transformer)) // 2

    def step(self) -> float:
        """One optimizer step."""
        train, total = self.work.train, 0.0
        for _ in range(train.grad_accum):
            chosen = torch.randint(len(self.examples), (train.batch,), generator=self.generator).tolist()
            latents, conditions = self._look_up(chosen) if self.cache else self._encode(chosen)
            noise = torch.randn(latents.shape, generator=self.generator).to(latents.device)
            normal = torch.randn(len(chosen), generator=self.generator)
            sigmas = shift(train.sigma_shift, torch.sigmoid(normal)).to(latents.device)
            mixed = (1 - sigmas.view(-1, 1, 1, 1, 1)) * latents + sigmas.view(-1, 1, 1, 1, 1) * noise
            with torch.autocast(self.work.device, self.work.dtype, enabled=self.work.dtype != torch.float32):
                predicted = self.transformer(
                    mixed.to(self.work.dtype), sigmas, conditions, padding_mask=self._mask(latents), return_dict=False
                )[0]
            loss = nn.functional.mse_loss(predicted.float(), noise - latents) / train.grad_accum
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.parameters, train.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def _mask(self, latents: Tensor) -> Tensor | None:
        if not self.transformer.config.concat_padding_mask:
            return None
        return latents.new_zeros(1, 1, latents.shape[-2] * 8, latents.shape[-1] * 8, dtype=self.work.dtype)

    def _look_up(self, chosen: list[int]) -> tuple[Tensor, Tensor]:
        assert self.cache is not None
        return tuple(torch.cat(parts) for parts in zip(*(self.cache[i] for i in chosen), strict=True))  # type: ignore[return-value]

    @torch.no_grad()
    def _encode(self, chosen: list[int]) -> tuple[Tensor, Tensor]:
        """Latents (B, C, 1, h, w), normalised, and conditionings (B, rows, dim)."""
        config = self.vae.config
        pixels = torch.stack([self.examples[i][0] for i in chosen]).unsqueeze(2).to(self.work.device, self.work.dtype)
        mode = self.vae.encode(pixels).latent_dist.mode().float()
        mean, std = (
            torch.tensor(c, device=mode.device).view(1, -1, 1, 1, 1) for c in (config.latents_mean, config.latents_std)
        )
        captions = [self.examples[i][1] for i in chosen]
        qwen = self.tokenizer(captions, padding="longest", return_tensors="pt").to(self.work.device)
        t5 = self.t5(captions, padding="longest", return_tensors="pt").to(self.work.device)
        states = self.encoder(**qwen).last_hidden_state * qwen.attention_mask.unsqueeze(-1).to(self.work.dtype)
        rows = self.conditioner(states, t5.input_ids, t5.attention_mask, qwen.attention_mask)
        missing = max(0, self.conditioner.config.min_sequence_length - rows.shape[1])
        return (mode - mean) / std, nn.functional.pad(rows, (0, 0, 0, missing))


def plain(work: Work) -> Step:
    """diffusers and peft, latents and conditionings made once."""
    return Plain(work, cached=True).step


def plain_uncached(work: Work) -> Step:
    """diffusers and peft, everything encoded at every step."""
    return Plain(work, cached=False).step


def sd_scripts(folder: Path, work: Work) -> Step:
    """sd-scripts' transformer and LoRA network from its own files, on latents and conditionings that are given.

    What its trainer does around the step (data loader, logging, saving) is left out, in its favour.
    """
    model, network = _their_modules(folder, work)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=work.train.learning_rate)
    given = Plain(work, cached=True)
    cache, train, generator = given.cache, work.train, torch.Generator().manual_seed(0)
    assert cache is not None

    def step() -> float:
        total = 0.0
        for _ in range(train.grad_accum):
            chosen = torch.randint(len(cache), (train.batch,), generator=generator).tolist()
            latents, conditions = (torch.cat([cache[i][part] for i in chosen]) for part in (0, 1))
            noise = torch.randn(latents.shape, generator=generator).to(latents.device)
            sigmas = torch.sigmoid(torch.randn(len(chosen), generator=generator)).to(latents.device)
            mixed = (1 - sigmas.view(-1, 1, 1, 1, 1)) * latents + sigmas.view(-1, 1, 1, 1, 1) * noise
            mask = torch.zeros(len(chosen), 1, *latents.shape[-2:], device=latents.device, dtype=work.dtype)
            with torch.autocast(work.device, work.dtype, enabled=work.dtype != torch.float32):
                predicted = model(mixed.to(work.dtype), sigmas, conditions, padding_mask=mask)
            loss = nn.functional.mse_loss(predicted.float(), noise - latents) / train.grad_accum
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, train.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    return step


def _their_modules(folder: Path, work: Work) -> tuple[Any, Any]:
    # Its helpers import packages that neither model nor network uses.
    for name, parts in {"torchvision": ("transforms",), "cv2": ()}.items():
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = _empty(name)
            for part in parts:
                sys.modules[f"{name}.{part}"] = _empty(f"{name}.{part}")
                setattr(sys.modules[name], part, sys.modules[f"{name}.{part}"])
    sys.path.insert(0, str(folder))
    models = importlib.import_module("library.anima_models")
    networks = importlib.import_module("networks.lora_anima")
    config = CosmosTransformer3DModel.load_config(work.base / "transformer")
    width = config["num_attention_heads"] * config["attention_head_dim"]
    model = models.Anima(
        max_img_h=240,
        max_img_w=240,
        max_frames=128,
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        patch_spatial=2,
        patch_temporal=1,
        concat_padding_mask=config["concat_padding_mask"],
        model_channels=width,
        num_blocks=config["num_layers"],
        num_heads=config["num_attention_heads"],
        crossattn_emb_channels=config["text_embed_dim"],
        pos_emb_cls="rope3d",
        use_adaln_lora=True,
        adaln_lora_dim=config["adaln_lora_dim"],
        rope_h_extrapolation_ratio=config["rope_scale"][1],
        rope_w_extrapolation_ratio=config["rope_scale"][2],
        use_llm_adapter=False,
    )
    model.requires_grad_(False).to(work.device, work.dtype)
    if work.train.checkpointing == "on":
        model.enable_gradient_checkpointing()
    network = networks.create_network(1.0, work.train.rank, float(work.train.rank), None, [], model)
    network.apply_to([], model, False, True)
    network.requires_grad_(True).to(work.device)
    model.train()
    return model, network


def _empty(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    return module


def _part(work: Work, kind: Any, part: str) -> Any:
    return kind.from_pretrained(work.base / part, torch_dtype=work.dtype).to(work.device).requires_grad_(False)


def _pixels(file: Path) -> Tensor:
    with Image.open(file) as image:
        array = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(array / 127.5 - 1).permute(2, 0, 1).contiguous()
