"""kohya's sd-scripts: the dataset TOML, the file of arguments, or both (arguments that name a dataset file).

Options of subsets that are the trial's here (shuffle, keep_tokens, ...) are taken where all subsets agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.core.errors import ConfigError
from trainer.importing.settings import Imported, Lost, Settings, base_of, study_name, whole_patches

DEFAULTS: Mapping[str, Any] = {
    "network_dim": 4,
    "network_alpha": 1.0,
    "learning_rate": 2e-6,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "optimizer_type": "AdamW",
    "optimizer_args": [],
    "network_args": [],
    "train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "mixed_precision": "no",
    "gradient_checkpointing": False,
    "max_grad_norm": 1.0,
    "seed": 0,
    "prior_loss_weight": 1.0,
    "timestep_sampling": "sigmoid",
    "discrete_flow_shift": 1.0,
    "sigmoid_scale": 1.0,
    "min_timestep": 0,
    "max_timestep": 1000,
    "weighting_scheme": "uniform",
    "output_dir": "runs",
    "output_name": "imported",
    "resolution": 512,
    "enable_bucket": False,
    "bucket_reso_steps": 64,
    "min_bucket_reso": 256,
    "max_bucket_reso": 1024,
    "bucket_no_upscale": False,
    "caption_extension": ".caption",
    "shuffle_caption": False,
    "keep_tokens": 0,
    "flip_aug": False,
    "caption_dropout_rate": 0.0,
    "caption_tag_dropout_rate": 0.0,
    "enable_wildcard": False,
    "num_repeats": 1,
    "is_reg": False,
    "batch_size": 1,
}
DATASET_KEYS = ("batch_size", "bucket_no_upscale", "bucket_reso_steps", "enable_bucket", "max_bucket_reso",
                "min_bucket_reso", "resolution")  # fmt: skip
TRIAL_KEYS = ("shuffle_caption", "keep_tokens", "flip_aug", "caption_dropout_rate", "caption_tag_dropout_rate",
              "caption_extension", "enable_wildcard")  # fmt: skip
"""Options of subsets that are the whole trial's here."""

WITH_CONDITIONER = r"_attn\.\w+_proj|\.mlp\."
"""The usual layers and the conditioner's: what kohya trains with `train_llm_adapter`."""

_OPTIMIZERS = {
    "adamw": "adamw",
    "adamw8bit": "adamw8bit",
    "pagedadamw8bit": "adamw8bit",
    "adafactor": "adafactor",
    "prodigy": "prodigy",
}
_SCHEDULES = {"constant": "constant", "constant_with_warmup": "constant", "cosine": "cosine", "linear": "linear"}
_ALWAYS = "always so here"
_FILES = {
    "transformer": "pretrained_model_name_or_path",
    "text_encoder": "qwen3",
    "vae": "vae",
    "text_conditioner": "llm_adapter_path",
}
_PARTS = "not all parts of the base are named: set `base`"
_ATTENTION = "attention is torch's own"
_REASONS = {
    "pretrained_model_name_or_path": _PARTS, "qwen3": _PARTS, "vae": _PARTS, "llm_adapter_path": _PARTS,
    "t5_tokenizer_path": _PARTS, "network_module": "a LoRA is trained", "network_train_unet_only": _ALWAYS,
    "cache_latents": _ALWAYS, "cache_latents_to_disk": _ALWAYS, "cache_text_encoder_outputs": _ALWAYS,
    "cache_text_encoder_outputs_to_disk": _ALWAYS, "save_model_as": "adapters are safetensors", "sdpa": _ATTENTION,
    "xformers": _ATTENTION, "attn_mode": _ATTENTION, "split_attn": _ATTENTION, "mem_eff_attn": _ATTENTION,
    "max_train_steps": "training ends with an epoch: set train.epochs",
    "save_every_n_steps": "adapters are saved by epoch; states within epochs are kept by train.state_every_steps",
    "save_state": _ALWAYS, "text_encoder_lr": "the text encoder is never trained",
    "unet_lr": "set train.learning_rate", "blocks_to_swap": "blocks are not swapped; activations can be computed again",
    "sample_prompts": "every saved epoch is drawn over the grid's prompts: write them there",
    "sample_every_n_epochs": "set grid.epochs", "sample_every_n_steps": "epochs are drawn, not steps",
    "max_data_loader_n_workers": "pictures are encoded once and cached",
    "persistent_data_loader_workers": "pictures are encoded once and cached",
    "logging_dir": "W&B records are under `wandb`", "log_with": "W&B records are under `wandb`",
    "color_aug": "pictures are trained as they are", "random_crop": "pictures are cropped to their middle",
    "face_crop_aug_range": "pictures are cropped to their middle", "class_tokens": "write a caption for each picture",
    "metadata_file": "captions stand beside their pictures", "caption_prefix": "write it into the captions",
    "caption_suffix": "write it into the captions", "caption_separator": "tags are separated by commas",
    "keep_tokens_separator": "train.keep_tokens counts tags", "secondary_separator": "every tag is one",
    "alpha_mask": "what is transparent becomes white", "resize_interpolation": "pictures are scaled with Lanczos",
}  # fmt: skip


def from_kohya(given: Mapping[str, Any], file: Path, read: Any) -> Imported:
    """A study out of a dataset file or a file of arguments; `read` gives a file it names. Raises ConfigError."""
    arguments = given if not _is_dataset(given) else {}
    flat = _flattened(arguments)
    dataset = given if _is_dataset(given) else {}
    if flat.get("dataset_config"):
        dataset = read(file.parent / str(flat["dataset_config"]))
    keys = Settings({k: v for k, v in flat.items() if k != "dataset_config"}, DEFAULTS)
    remarks = ["name the trigger words of your characters in `cast`", "write the prompts to draw in `grid`"]
    folders, shared = _folders(dataset, keys)
    if folders:
        remarks.append("kohya looks only directly into image_dir; here subfolders are read too")
    own = Settings(shared | {k: v for k, v in flat.items() if k in DATASET_KEYS + TRIAL_KEYS}, DEFAULTS, keys.lost)
    keys.taken |= {*DATASET_KEYS, *TRIAL_KEYS}
    data: dict[str, Any] = {
        "study": study_name(str(keys.take("output_name"))),
        "base": base_of(keys, _FILES),
        "cast": {},
        "dataset": _dataset(own, keys, folders),
        "train": {**_train(keys, own, remarks), **_captions(own), **_sizes(own)},
        "judge": {"name": "none"},
        "volume": str(keys.take("output_dir")),
    }
    keys.lose_rest(_REASONS)
    return Imported("kohya sd-scripts", data, tuple(keys.lost), tuple(remarks))


def _is_dataset(given: Mapping[str, Any]) -> bool:
    return isinstance(given.get("datasets"), Sequence)


def _flattened(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of a file of arguments mean nothing: their keys are put together."""
    flat: dict[str, Any] = {}
    for key, value in arguments.items():
        flat.update(value if isinstance(value, Mapping) else {key: value})
    return flat


def _folders(dataset: Mapping[str, Any], keys: Settings) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The subsets as folders, and the options all of them share."""
    general, folders, options = dict(dataset.get("general") or {}), [], []
    datasets = dataset.get("datasets") or []
    for number, one in enumerate(datasets):
        level = {k: v for k, v in one.items() if k != "subsets"}
        for index, subset in enumerate(one.get("subsets") or []):
            where = f"datasets[{number}].subsets[{index}]"
            merged = {**general, **level, **subset}
            options.append((where, merged))
            if "image_dir" not in merged:
                keys.lost.append(Lost(where, merged.get("metadata_file", ""), "a subset without image_dir"))
                continue
            folder: dict[str, Any] = {"path": str(merged["image_dir"]), "repeats": int(merged.get("num_repeats", 1))}
            folders.append(folder | ({"role": "regularisation"} if merged.get("is_reg") else {}))
    shared: dict[str, Any] = {}
    for where, merged in options:
        for key, value in merged.items():
            if key in DATASET_KEYS + TRIAL_KEYS:
                if shared.setdefault(key, value) != value:
                    keys.lost.append(Lost(f"{where}.{key}", value, f"one value for the trial: {shared[key]} is used"))
            elif key not in ("image_dir", "num_repeats", "is_reg") and value not in (None, "", False):
                keys.lost.append(Lost(f"{where}.{key}", value, _REASONS.get(key, "unknown here")))
    return folders, shared


def _dataset(own: Settings, keys: Settings, folders: list[dict[str, Any]]) -> dict[str, Any]:
    extension = str(own.take("caption_extension")).lstrip(".")
    if extension not in ("txt", "caption"):
        own.lose("caption_extension", ".txt and .caption are read")
        extension = "txt"
    captions = [extension, "caption" if extension == "txt" else "txt"]
    lines = "each" if own.take("enable_wildcard") else "together"
    made: dict[str, Any] = {"captions": captions, "caption_lines": lines}
    root, regularisation = keys.take("train_data_dir"), keys.take("reg_data_dir")
    repeats = int(keys.take("dataset_repeats") or 1)
    if folders:
        # kohya takes no repeats from the folders' own names here, and looks at no subfolder.
        return made | {"folders": folders}
    if regularisation:
        both = [{"path": str(root)}, {"path": str(regularisation), "role": "regularisation"}]
        return made | {"folders": both, "repeats": repeats}
    return made | {"root": str(root or ""), "repeats": repeats}


def _train(keys: Settings, own: Settings, remarks: list[str]) -> dict[str, Any]:
    optimizer = str(keys.take("optimizer_type")).lower()
    if optimizer not in _OPTIMIZERS or optimizer.startswith("paged"):
        keys.lose("optimizer_type", f"{_OPTIMIZERS.get(optimizer, 'adamw')} is used")
    schedule = str(keys.take("lr_scheduler"))
    if schedule not in _SCHEDULES:
        keys.lose("lr_scheduler", "constant is used")
    epochs = keys.take("max_train_epochs")
    if epochs is None:
        remarks.append("kohya counts steps where no epochs are given: set train.epochs")
    rate = keys.take("unet_lr") or keys.take("learning_rate")
    clip, every = keys.number("max_grad_norm"), keys.take("save_every_n_epochs")
    if clip == 0:
        keys.lost.append(Lost("max_grad_norm", 0, "gradients are always clipped; at 1.0"))
    low, high = keys.number("min_timestep"), keys.number("max_timestep")
    precision = str(keys.take("mixed_precision"))
    if precision == "fp16":
        keys.lose("mixed_precision", "fp16 overflows in this model; bf16 is used")
    made: dict[str, Any] = {
        **({} if epochs is None else {"epochs": int(epochs), "save_every": int(every or epochs)}),
        "rank": keys.number("network_dim", int),
        "alpha": keys.number("network_alpha"),
        **_network(keys),
        "optimizer": _OPTIMIZERS.get(optimizer, "adamw"),
        "learning_rate": _as_float("learning_rate", rate),
        "lr_schedule": _SCHEDULES.get(schedule, "constant"),
        "warmup_steps": _warmup(keys),
        **_optimizer_arguments(keys),
        "clip_norm": clip or 1.0,
        "batch": own.number("batch_size", int) if "batch_size" in own.given else keys.number("train_batch_size", int),
        "grad_accum": keys.number("gradient_accumulation_steps", int),
        "regularisation_weight": keys.number("prior_loss_weight"),
        **_sigmas(keys),
        "sigma_range": [low / 1000, high / 1000],
        "dtype": "fp32" if precision == "no" else "bf16",
        "checkpointing": "on" if keys.take("gradient_checkpointing") else "off",
        "seed": keys.number("seed", int),
    }
    keys.take("train_batch_size")
    if keys.take("weighting_scheme") not in ("uniform", "none", None):
        keys.lose("weighting_scheme", "no weighting is used; see train.loss_weighting")
    return made


def _network(keys: Settings) -> dict[str, Any]:
    """Targets and ranks out of `network_args`, a list of `name=value`."""
    made: dict[str, Any] = {}
    for name, value in _pairs(keys.take("network_args")):
        if name == "network_reg_dims":
            made["ranks"] = {p.strip(): int(d) for p, _, d in (r.rpartition("=") for r in value.split(",") if r)}
        elif name == "train_llm_adapter" and value.lower() == "true":
            made["targets"] = WITH_CONDITIONER
        elif value.lower() not in ("false", "none", "0"):
            keys.lost.append(Lost(f"network_args {name}", value, "unknown here"))
    return made


def _optimizer_arguments(keys: Settings) -> dict[str, Any]:
    # Their libraries' own defaults, which kohya takes as they are.
    made: dict[str, Any] = {"betas": [0.9, 0.999], "weight_decay": 0.01}
    for name, value in _pairs(keys.take("optimizer_args")):
        if name == "weight_decay":
            made["weight_decay"] = _as_float("weight_decay", value)
        elif name == "betas":
            made["betas"] = [_as_float("betas", part) for part in value.strip("()[] ").split(",")][:2]
        else:
            keys.lost.append(Lost(f"optimizer_args {name}", value, "unknown here"))
    return made


def _sigmas(keys: Settings) -> dict[str, Any]:
    sampling, shift = str(keys.take("timestep_sampling")), keys.number("discrete_flow_shift")
    if sampling not in ("sigmoid", "shift"):
        keys.lose("timestep_sampling", "sigmoid is used")
    # discrete_flow_shift acts in `shift` mode only.
    return {"sigma_shift": shift if sampling == "shift" else 1.0, "sigma_std": keys.number("sigmoid_scale")}


def _captions(own: Settings) -> dict[str, Any]:
    return {
        "shuffle_caption": bool(own.take("shuffle_caption")),
        "keep_tokens": own.number("keep_tokens", int),
        "flip_augment": bool(own.take("flip_aug")),
        "caption_dropout": own.number("caption_dropout_rate"),
        "tag_dropout": own.number("caption_tag_dropout_rate"),
    }


def _sizes(own: Settings) -> dict[str, Any]:
    asked = own.take("resolution")
    parts = [int(part) for part in str(asked).strip("[]() ").split(",")]
    width, height = (parts * 2)[:2]
    made: dict[str, Any] = {"resolution": [whole_patches(width), whole_patches(height)]}
    names = ("bucket_reso_steps", "min_bucket_reso", "max_bucket_reso")
    step, low, high = (own.number(name, int) for name in names)
    no_upscale = bool(own.take("bucket_no_upscale"))
    if not own.take("enable_bucket"):
        return made
    smallest = min(low, whole_patches(width), whole_patches(height))
    limits = {"step": whole_patches(step), "min_side": smallest, "max_side": max(high, smallest)}
    return made | {"buckets": limits | {"max_aspect": 4.0, "upscale": not no_upscale}}


def _warmup(keys: Settings) -> int:
    steps = keys.number("lr_warmup_steps")
    if 0 < steps < 1:
        keys.lose("lr_warmup_steps", "a share of all steps: set train.warmup_steps to a number")
        return 0
    return int(steps)


def _pairs(arguments: Any) -> list[tuple[str, str]]:
    words = arguments if isinstance(arguments, list) else str(arguments or "").split()
    return [(name.strip(), value.strip()) for name, _, value in (str(word).partition("=") for word in words)]


def _as_float(key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key} is {value!r}, not a number") from error
