"""Train the miniature's transformer by flow matching on pictures of the drawn world; its text side is frozen by then.

As with the real model, text is understood before pictures are drawn (`anima.pocket.train_text`), so conditionings are
computed once. What is saved is the exponential moving average of the weights, in the real model's layout and classes.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AnimaTextConditioner, CosmosTransformer3DModel
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model, T5TokenizerFast

from anima.flow import add_noise, training_sigmas, velocity_target
from anima.pocket.corpus import Corpus

log = logging.getLogger(__name__)

TEXT_DIM = 128
TRANSFORMER_CONFIG = {
    "in_channels": 8,
    "out_channels": 8,
    "num_attention_heads": 5,
    "attention_head_dim": 32,
    "num_layers": 6,
    "mlp_ratio": 4.0,
    "text_embed_dim": TEXT_DIM,
    "adaln_lora_dim": 32,
    "max_size": (4, 64, 64),
    "patch_size": (1, 2, 2),
    # Below 1 the rotary frequencies spread over a grid of 12 x 8 patches instead of 120 x 120.
    "rope_scale": (1.0, 0.05, 0.05),
    "concat_padding_mask": False,
    "extra_pos_embed_type": None,
}
CONDITIONER_CONFIG = {
    "source_dim": TEXT_DIM,
    "target_dim": TEXT_DIM,
    "model_dim": TEXT_DIM,
    "num_layers": 2,
    "num_attention_heads": 4,
    "min_sequence_length": 80,
}
ENCODER_CONFIG = {
    "hidden_size": TEXT_DIM,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """Length and pace of the training: warm-up, then constant, then a linear fall over the last `fall` of the steps."""

    steps: int
    batch: int = 24
    learning_rate: float = 3e-3
    warmup: int = 200
    fall: float = 0.3
    ema: float = 0.999
    seed: int = 5
    save_every: int = 500
    compiled: bool = True
    """Compile the transformer first: about a minute, then faster steps; needs a C++ compiler on a CPU."""

    def rate_at(self, step: int) -> float:
        """Learning rate of a 0-based step."""
        rising = min(1.0, (step + 1) / self.warmup)
        falling = min(1.0, (self.steps - step) / (self.fall * self.steps))
        return self.learning_rate * rising * max(falling, 0.01)


class Miniature(nn.Module):
    """Text encoder, conditioner and transformer as one trainable module."""

    def __init__(self, tokenizers: Path) -> None:
        super().__init__()
        self.tokenizer = Qwen2Tokenizer.from_pretrained(tokenizers / "tokenizer")
        self.t5_tokenizer = T5TokenizerFast.from_pretrained(tokenizers / "t5_tokenizer")
        self.encoder = Qwen3Model(Qwen3Config(vocab_size=len(self.tokenizer), **ENCODER_CONFIG))
        self.conditioner = AnimaTextConditioner(target_vocab_size=len(self.t5_tokenizer), **CONDITIONER_CONFIG)
        self.transformer = CosmosTransformer3DModel(**TRANSFORMER_CONFIG)
        self._start_as_identity()

    def _start_as_identity(self) -> None:
        """Zero the last layer of every modulation and the output (adaLN-zero, arXiv 2212.09748)."""
        zeroed = [self.transformer.proj_out, self.transformer.norm_out.linear_2]
        zeroed += [n.linear_2 for b in self.transformer.transformer_blocks for n in (b.norm1, b.norm2, b.norm3)]
        for layer in [*zeroed, self.transformer.time_embed.t_embedder.linear_2]:
            nn.init.zeros_(layer.weight)

    def condition(self, prompts: Sequence[str]) -> Tensor:
        """Trainable conditioning (B, rows, dim), equal to one prompt at a time.

        The encoder is causal and padding stands behind, so only the conditioner needs masks.
        """
        q = [self.tokenizer(p)["input_ids"] or [self.tokenizer.pad_token_id] for p in prompts]
        t = [self.t5_tokenizer(p)["input_ids"] for p in prompts]
        q_ids, q_mask = _pad(q)
        t_ids, t_mask = _pad(t)
        states = self.encoder(input_ids=q_ids).last_hidden_state
        return self.conditioner(states, t_ids, target_attention_mask=t_mask, source_attention_mask=q_mask)

    def save(self, out: Path, transformer: CosmosTransformer3DModel) -> None:
        """Write the three model folders in fp32 with this transformer (they are halved for shipping)."""
        transformer.save_pretrained(out / "transformer")
        self.conditioner.save_pretrained(out / "text_conditioner")
        self.encoder.save_pretrained(out / "text_encoder")


@torch.inference_mode()
def condition_corpus(model: Miniature, corpus: Corpus, count: int, wordings: int, *, batch: int = 64) -> Tensor:
    """Conditionings of `wordings` captions for each of the first `count` pictures: fp16 (N, wordings, rows, dim)."""
    rows = CONDITIONER_CONFIG["min_sequence_length"]
    pairs = [(i, w) for i in range(count) for w in range(wordings)]
    captions = [corpus.caption(i, w) for i, w in pairs]
    found = torch.empty(len(pairs), rows, TEXT_DIM, dtype=torch.float16)
    # Captions of like length together, so that little is computed on padding.
    order = sorted(range(len(pairs)), key=lambda k: len(captions[k]))
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        found[part] = model.condition([captions[k] for k in part]).half()
    return found.view(count, wordings, rows, TEXT_DIM)


def train_base(model: Miniature, latents: Tensor, conditions: Tensor, out: Path, schedule: Schedule) -> None:
    """Train the transformer on `latents` (N, C, 1, h, w), normalised, under `conditions` (N, wordings, rows, dim).

    Resumes from its own state below `out`, where the averaged model is saved as well.
    """
    transformer = model.transformer.train()
    averaged = copy.deepcopy(transformer).requires_grad_(False).eval()
    if schedule.compiled:
        transformer.compile()
    optimizers = _optimizers(transformer, schedule.learning_rate)
    state_file = out / "state.pt"
    first = _restore(state_file, transformer, averaged, optimizers)
    recent: list[float] = []
    began = time.monotonic()
    for step in range(first, schedule.steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate_at(step)
        recent.append(_step(transformer, optimizers, latents, conditions, schedule, step))
        decay = min(schedule.ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(averaged.parameters()), list(transformer.parameters()), 1 - decay)
        if step % 50 == 49:
            pace = (time.monotonic() - began) / (step + 1 - first)
            mean = sum(recent[-50:]) / len(recent[-50:])
            log.info("base | step=%d/%d loss=%.4f | %.3f s/step", step + 1, schedule.steps, mean, pace)
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            _save(state_file, transformer, averaged, optimizers, step + 1)
            model.save(out, averaged)


def _step(
    transformer: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    latents: Tensor,
    conditions: Tensor,
    schedule: Schedule,
    step: int,
) -> float:
    generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + step)
    rows = torch.randint(len(latents), (schedule.batch,), generator=generator)
    wordings = torch.randint(conditions.shape[1], (schedule.batch,), generator=generator)
    clean = latents[rows]
    noise = torch.randn(clean.shape, generator=generator)
    sigmas = training_sigmas(schedule.batch, generator)
    noisy = add_noise(clean, noise, sigmas)
    predicted = transformer(noisy, sigmas, conditions[rows, wordings].float(), return_dict=False)[0]
    loss = (predicted - velocity_target(clean, noise)).square().mean()
    loss.backward()
    nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def _optimizers(model: nn.Module, rate: float) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the blocks' matrices, with updates as large as AdamW's (arXiv 2502.16982), and AdamW for the rest."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("transformer_blocks.")]
    theirs = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in theirs]
    return (
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    )


def _pad(ids: list[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, ids))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    return tokens, mask


def _restore(path: Path, model: nn.Module, averaged: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    averaged.load_state_dict(state["averaged"])
    for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(kept)
    log.info("base resumes | step=%d", state["step"])
    return int(state["step"])


def _save(
    path: Path, model: nn.Module, averaged: nn.Module, optimizers: Sequence[torch.optim.Optimizer], step: int
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    kept = [optimizer.state_dict() for optimizer in optimizers]
    state = {"model": model.state_dict(), "averaged": averaged.state_dict(), "optimizers": kept, "step": step}
    torch.save(state, aside)
    aside.replace(path)
