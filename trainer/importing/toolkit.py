"""AnimaLoraToolkit's YAML: every key of its trainer, and what it does where a key is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.importing.settings import Imported, Lost, Settings, base_of, study_name, whole_patches

DEFAULTS: Mapping[str, Any] = {
    "data_dir": "",
    "resolution": 1024,
    "repeats": 1,
    "shuffle_caption": False,
    "keep_tokens": 0,
    "flip_augment": False,
    "tag_dropout": 0.0,
    "prefer_json": True,
    "lora_type": "lokr",
    "lora_rank": 32,
    "lora_alpha": 32.0,
    "epochs": 10,
    "batch_size": 1,
    "grad_accum": 1,
    "learning_rate": 1e-4,
    "mixed_precision": "bf16",
    "grad_checkpoint": False,
    "output_dir": "./output",
    "output_name": "anima_lora",
    "save_every": 0,
    "save_state_every": 0,
    "seed": 42,
    "sample_prompt": "1girl, masterpiece",
    "sample_negative_prompt": "",
    "sample_cfg_scale": 4.0,
    "sample_width": 0,
    "sample_height": 0,
    "sample_seed": 0,
    "sample_infer_steps": 25,
    "sample_sampler_name": "er_sde",
}
SIGNATURE = frozenset({"lora_rank", "lora_type", "lora_alpha", "transformer_path", "sample_infer_steps", "prefer_json"})
"""Keys that tell this file from others."""

_FILES = {"transformer": "transformer_path", "text_encoder": "text_encoder_path", "vae": "vae_path"}
_PARTS = "not all parts of the base are named: set `base`"
_PROGRESS = "progress is always shown, and every step is in metrics.jsonl"
_REASONS = {
    "transformer_path": _PARTS,
    "vae_path": _PARTS,
    "text_encoder_path": _PARTS,
    "t5_tokenizer_path": "both tokenizers come from base.tokenizers",
    "lokr_factor": "LoKr is not trained here",
    "resume_lora": "training starts from its own states",
    "resume_state": "training finds its own states",
    "max_steps": "training ends with an epoch: lower train.epochs",
    "save_every_steps": "adapters are saved by epoch; states within epochs are kept by train.state_every_steps",
    "xformers": "attention is torch's own",
    "num_workers": "pictures are encoded once and cached",
    "sample_every": "every saved epoch is drawn: set grid.epochs",
    "sample_steps": "epochs are drawn, not steps",
    "loss_curve_steps": _PROGRESS,
    "no_progress": _PROGRESS,
    "log_every": _PROGRESS,
    "no_monitor": _PROGRESS,
    "monitor_host": _PROGRESS,
    "monitor_port": _PROGRESS,
    "no_browser": _PROGRESS,
}


def from_toolkit(given: Mapping[str, Any]) -> Imported:
    """A study that trains what the toolkit would, with what differs set down in remarks. Raises ConfigError."""
    keys = Settings(given, DEFAULTS)
    remarks = [
        "name the trigger words of your characters in `cast`, and whom each prompt shows in its own",
        "the toolkit leaves commas out of what the model reads; here a caption is read as drawing reads a prompt",
        "the toolkit adapts 36 more layers that get no gradient: dit-280 trains the same layers",
    ]
    if keys.take("lora_type") != "lora":
        lost = Lost("lora_type", keys.take("lora_type"), "LoKr is not trained here; a LoRA of the same rank is")
        keys.lost.append(lost)
    keys.take("cache_latents")
    data = {
        "study": study_name(str(keys.take("output_name"))),
        "base": base_of(keys, _FILES),
        "cast": {},
        "dataset": {
            "root": str(keys.take("data_dir")),
            "repeats": keys.number("repeats", int),
            "captions": ["json", "txt", "caption"] if keys.take("prefer_json") else ["txt", "caption"],
        },
        "train": _train(keys, remarks),
        "grid": _grid(keys),
        "judge": {"name": "none"},
        "volume": str(keys.take("output_dir")),
    }
    keys.lose_rest(_REASONS)
    return Imported("AnimaLoraToolkit", data, tuple(keys.lost), tuple(remarks))


def _train(keys: Settings, remarks: list[str]) -> dict[str, Any]:
    resolution, epochs = whole_patches(keys.number("resolution", int)), keys.number("epochs", int)
    every, precision = keys.number("save_every", int), str(keys.take("mixed_precision"))
    if precision == "fp16":
        keys.lose("mixed_precision", "fp16 overflows in this model; bf16 is used")
    flips = bool(keys.take("flip_augment"))
    if flips:
        remarks.append("the toolkit mirrors half the pictures for good; here each exposure is drawn anew")
    return {
        "epochs": epochs,
        "save_every": every if every > 0 else epochs,
        "state_every_steps": keys.number("save_state_every", int),
        "rank": keys.number("lora_rank", int),
        "alpha": keys.number("lora_alpha"),
        "learning_rate": keys.number("learning_rate"),
        # torch's own AdamW, which the toolkit takes as it is.
        "betas": [0.9, 0.999],
        "weight_decay": 0.01,
        "batch": keys.number("batch_size", int),
        "grad_accum": keys.number("grad_accum", int),
        "shuffle_caption": bool(keys.take("shuffle_caption")),
        "keep_tokens": keys.number("keep_tokens", int),
        "tag_dropout": keys.number("tag_dropout"),
        "flip_augment": flips,
        "sigma_shift": 3.0,
        "resolution": [resolution, resolution],
        "buckets": {"step": 64, "min_side": min(512, resolution), "max_side": 2048, "max_aspect": 2.0},
        "dtype": "fp32" if precision == "no" else "bf16",
        "checkpointing": "on" if keys.take("grad_checkpoint") else "off",
        "seed": keys.number("seed", int),
    }


def _grid(keys: Settings) -> dict[str, Any]:
    """Its sample prompts as a grid; people judge, for nobody knows yet whom they should show."""
    texts = keys.take("sample_prompts") or [keys.take("sample_prompt")]
    keys.take("sample_prompt")
    negative, seed = str(keys.take("sample_negative_prompt")), keys.number("sample_seed", int)
    resolution = whole_patches(keys.number("resolution", int))
    sampler = str(keys.take("sample_sampler_name"))
    if sampler not in ("er_sde", "euler"):
        keys.lose("sample_sampler_name", "er_sde is used")
    if keys.take("sample_scheduler") not in (None, "simple"):
        keys.lose("sample_scheduler", "the simple schedule is used")
    drawing = {
        "sampler": sampler if sampler == "euler" else "er_sde",
        "steps": keys.number("sample_infer_steps", int),
        "cfg": max(1.0, keys.number("sample_cfg_scale")),
        "width": whole_patches(keys.number("sample_width", int)) if keys.take("sample_width") else resolution,
        "height": whole_patches(keys.number("sample_height", int)) if keys.take("sample_height") else resolution,
    }
    prompts = [
        {"name": f"prompt{number}", "text": str(text), "cast": [], "negative": negative}
        for number, text in enumerate(texts, start=1)
    ]
    return {"prompts": prompts, "seeds": [seed] if seed else [1], "drawing": drawing}
