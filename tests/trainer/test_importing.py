"""Settings of other trainers: every key ends up in our YAML or in the list of what could not be carried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from anima.sources.config import BaseSources
from orchestrator.core.errors import ConfigError
from trainer.__main__ import main
from trainer.commands.importing import read_settings
from trainer.importing.settings import Imported, study_name
from trainer.study import TrainingStudy, load_study

TOOLKIT: dict[str, Any] = {
    "transformer_path": "models/anima-preview.safetensors",
    "vae_path": "models/qwen_image_vae.safetensors",
    "text_encoder_path": "models/text_encoders",
    "t5_tokenizer_path": "models/t5_tokenizer",
    "data_dir": "./dataset",
    "resolution": 1024,
    "repeats": 2,
    "shuffle_caption": True,
    "keep_tokens": 3,
    "flip_augment": False,
    "tag_dropout": 0.1,
    "prefer_json": True,
    "cache_latents": True,
    "lora_type": "lora",
    "lora_rank": 64,
    "lora_alpha": 32.0,
    "lokr_factor": 8,
    "resume_lora": "old.safetensors",
    "epochs": 12,
    "max_steps": 100,
    "batch_size": 2,
    "grad_accum": 3,
    "learning_rate": 2.0e-5,
    "mixed_precision": "bf16",
    "grad_checkpoint": True,
    "xformers": True,
    "num_workers": 4,
    "output_dir": "./output",
    "output_name": "my lora",
    "save_every": 2,
    "save_every_steps": 500,
    "save_state_every": 1000,
    "resume_state": "state.pt",
    "seed": 7,
    "sample_every": 5,
    "sample_steps": 50,
    "sample_prompt": "1girl",
    "sample_prompts": ["kanachan, 1girl", "keichan, 1girl"],
    "sample_cfg_scale": 4.0,
    "sample_negative_prompt": "blurry",
    "sample_width": 832,
    "sample_height": 1216,
    "sample_seed": 42,
    "sample_infer_steps": 25,
    "sample_sampler_name": "er_sde",
    "sample_scheduler": "simple",
    "loss_curve_steps": 100,
    "no_progress": True,
    "log_every": 10,
    "no_monitor": True,
    "monitor_host": "0.0.0.0",
    "monitor_port": 8765,
    "no_browser": True,
}
"""Every key its trainer reads."""
CARRIED = {
    "transformer_path", "vae_path", "text_encoder_path",
    "data_dir", "resolution", "repeats", "shuffle_caption", "keep_tokens", "flip_augment", "tag_dropout", "prefer_json",
    "cache_latents", "lora_type", "lora_rank", "lora_alpha", "epochs", "batch_size", "grad_accum", "learning_rate",
    "mixed_precision", "grad_checkpoint", "output_dir", "output_name", "save_every", "save_state_every", "seed",
    "sample_prompt", "sample_prompts", "sample_cfg_scale", "sample_negative_prompt", "sample_width", "sample_height",
    "sample_seed", "sample_infer_steps", "sample_sampler_name", "sample_scheduler",
}  # fmt: skip


def imported(folder: Path, given: dict[str, Any] | str, name: str = "theirs.yaml") -> Imported:
    path = folder / name
    path.write_text(given if isinstance(given, str) else yaml.safe_dump(given), encoding="utf-8")
    return read_settings(path)


def as_study(made: Imported, **changes: Any) -> TrainingStudy:
    return TrainingStudy.model_validate({**made.data, "cast": {"kanachan": None}, **changes})


def lost(made: Imported) -> set[str]:
    return {entry.key for entry in made.lost}


def test_every_key_of_the_toolkit_is_carried_or_listed(tmp_path: Path) -> None:
    made = imported(tmp_path, TOOLKIT)
    assert lost(made) == set(TOOLKIT) - CARRIED
    study = as_study(made)
    train = study.trials["main"]
    assert isinstance(study.base, BaseSources)
    assert study.base.transformer.source == "models/anima-preview.safetensors"
    assert (study.study, study.volume, study.dataset.root, study.dataset.repeats) == (
        "my_lora",
        "./output",
        "./dataset",
        2,
    )
    assert study.dataset.captions == ("json", "txt", "caption")
    assert (train.epochs, train.save_every, train.state_every_steps, train.seed) == (12, 2, 1000, 7)
    assert (train.rank, train.alpha, train.targets) == (64, 32.0, "dit-280")
    assert (train.learning_rate, train.batch, train.grad_accum) == (2e-5, 2, 3)
    assert (train.betas, train.weight_decay, train.lr_schedule) == ((0.9, 0.999), 0.01, "constant")
    assert (train.shuffle_caption, train.keep_tokens, train.tag_dropout, train.flip_augment) == (True, 3, 0.1, False)
    assert (train.resolution, train.dtype, train.checkpointing) == ((1024, 1024), "bf16", "on")
    assert train.buckets is not None
    grid = made.data["grid"]
    assert [p["text"] for p in grid["prompts"]] == ["kanachan, 1girl", "keichan, 1girl"]
    assert grid["drawing"] == {"sampler": "er_sde", "steps": 25, "cfg": 4.0, "width": 832, "height": 1216}


def test_where_the_toolkits_file_is_silent_its_defaults_hold(tmp_path: Path) -> None:
    made = imported(tmp_path, {"lora_rank": 16, "data_dir": "d", "typo_rank": 3})
    train = as_study(made).trials["main"]
    assert (train.rank, train.alpha, train.epochs, train.learning_rate) == (16, 32.0, 10, 1e-4)
    assert (train.grad_accum, train.keep_tokens, train.save_every, train.checkpointing) == (1, 0, 10, "off")
    assert {str(entry) for entry in made.lost} == {
        "lora_type = lokr: LoKr is not trained here; a LoRA of the same rank is",
        "typo_rank = 3: unknown here",
    }


DATASET = """
[general]
shuffle_caption = true
caption_extension = '.txt'
keep_tokens = 1

[[datasets]]
resolution = [768, 1024]
batch_size = 4
enable_bucket = true
bucket_no_upscale = true
bucket_reso_steps = 32
min_bucket_reso = 256
max_bucket_reso = 1536

  [[datasets.subsets]]
  image_dir = 'data/kanachan'
  num_repeats = 3
  class_tokens = 'kanachan'

  [[datasets.subsets]]
  image_dir = 'data/street'
  is_reg = true
  keep_tokens = 2
"""

ARGUMENTS = """
[model]
pretrained_model_name_or_path = "anima.safetensors"
qwen3 = "qwen.safetensors"
vae = "vae.safetensors"

[network]
network_module = "networks.lora_anima"
network_dim = 16
network_alpha = 8
network_args = ["train_llm_adapter=True", "network_reg_dims=mlp=4,cross_attn=32", "rank_dropout=0.1"]

[training]
dataset_config = "dataset.toml"
optimizer_type = "AdamW8bit"
optimizer_args = ["weight_decay=0.05", "betas=0.9,0.95"]
learning_rate = 1e-4
lr_scheduler = "cosine"
lr_warmup_steps = 50
max_train_epochs = 20
save_every_n_epochs = 2
gradient_accumulation_steps = 2
gradient_checkpointing = true
mixed_precision = "bf16"
timestep_sampling = "shift"
discrete_flow_shift = 3.0
min_timestep = 100
prior_loss_weight = 0.5
output_name = "kana"
seed = 5
noise_offset = 0.1
"""


def test_kohyas_arguments_and_dataset_come_together(tmp_path: Path) -> None:
    (tmp_path / "dataset.toml").write_text(DATASET)
    made = imported(tmp_path, ARGUMENTS, "arguments.toml")
    study = as_study(made)
    train = study.trials["main"]
    assert [(f.path, f.repeats, f.role) for f in study.dataset.folders] == [
        ("data/kanachan", 3, None),
        ("data/street", 1, "regularisation"),
    ]
    assert (study.dataset.captions, study.study) == (("txt", "caption"), "kana")
    assert (train.rank, train.alpha, train.ranks) == (16, 8.0, {"mlp": 4, "cross_attn": 32})
    assert (train.epochs, train.save_every, train.batch, train.grad_accum) == (20, 2, 4, 2)
    assert (train.optimizer, train.weight_decay, train.betas) == ("adamw8bit", 0.05, (0.9, 0.95))
    assert (train.lr_schedule, train.warmup_steps, train.learning_rate) == ("cosine", 50, 1e-4)
    assert (train.sigma_shift, train.sigma_range, train.regularisation_weight) == (3.0, (0.1, 1.0), 0.5)
    assert (train.resolution, train.shuffle_caption, train.keep_tokens) == ((768, 1024), True, 1)
    assert train.buckets is not None
    assert (train.buckets.step, train.buckets.min_side, train.buckets.max_side, train.buckets.upscale) == (
        32,
        256,
        1536,
        False,
    )
    assert lost(made) == {
        "network_module",
        "network_args rank_dropout",
        "noise_offset",
        "datasets[0].subsets[0].class_tokens",
        "datasets[0].subsets[1].keep_tokens",
    }


def test_a_kohya_dataset_alone_is_a_study_too(tmp_path: Path) -> None:
    made = imported(tmp_path, DATASET, "dataset.toml")
    assert as_study(made).trials["main"].rank == 4, "kohya's own default"
    assert any("set train.epochs" in remark for remark in made.remarks)


def test_kohyas_folders_of_old_keep_their_repeats(tmp_path: Path) -> None:
    made = imported(tmp_path, 'train_data_dir = "data"\nreg_data_dir = "reg"\nnetwork_dim = 4', "a.toml")
    assert [(f.path, f.role) for f in as_study(made).dataset.folders] == [("data", None), ("reg", "regularisation")]
    alone = imported(tmp_path, 'train_data_dir = "data"\nresolution = "1024,1024"', "b.toml")
    assert as_study(alone).dataset.root == "data"
    assert as_study(alone).trials["main"].resolution == (1024, 1024)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "study: x", "is no AnimaLoraToolkit file"),
        ("a.yaml", "- 1", "settings are a mapping"),
        ("a.yaml", "a: [", "not readable"),
        ("a.toml", "a = ", "not readable"),
        ("a.toml", 'network_dim = "many"', "network_dim is 'many', not a number"),
        ("a.toml", 'dataset_config = "none.toml"', "none.toml: cannot be read"),
        ("a.yaml", "lora_rank: lots", "lora_rank is 'lots', not a number"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        imported(tmp_path, content, name)
    assert "\n" not in str(refused.value)


def test_the_command_writes_a_file_the_trainer_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, ours = tmp_path / "theirs.yaml", tmp_path / "ours.yaml"
    theirs.write_text(yaml.safe_dump({**TOOLKIT, "output_name": "evil\x1b[31m/../name"}))
    assert main(["import", str(theirs), "--to", str(ours)]) == 0
    said = capsys.readouterr().err
    assert "not carried: xformers = True: attention is torch's own" in said
    assert "\x1b" not in said + ours.read_text()
    assert "# Not carried: lokr_factor = 8" in ours.read_text()
    study = load_study(ours, ["cast.kanachan=null"])
    assert (study.study, study.trials["main"].rank) == ("evil__31m___name", 64)
    assert main(["import", str(theirs), "--to", str(ours)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_names_become_file_names() -> None:
    assert study_name("../../etc/passwd") == "etc_passwd"
    assert study_name("名前") == "imported"
