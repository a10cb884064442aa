"""Which trial a configuration is: the hash of everything that changes its weights. Torch-free."""

from __future__ import annotations

from orchestrator.core.identity import digest
from trainer.config import TrainConfig

NOT_IDENTITY = frozenset(
    {"epochs", "save_every", "state_every_steps", "keep_states", "threads", "checkpointing", "compile", "samples"}
)
"""Settings that do not change what an epoch's weights are: how many epochs, what is kept or drawn of them, and how
the same numbers are computed."""
ALWAYS = frozenset(
    {
        "rank", "alpha", "targets", "learning_rate", "lr_schedule", "warmup_steps", "weight_decay", "clip_norm",
        "batch", "grad_accum", "caption_dropout", "sigma_shift", "resolution", "dtype", "seed",
    }
)  # fmt: skip
"""Settings that are always part of a trial's identity. Any other counts where it is not at its default, so that trials
keep their names when the project learns a new setting."""


def trial_id(name: str, train: TrainConfig, *, triggers: tuple[str, ...], dataset_sha256: str, base_sha256: str) -> str:
    """`<name>-<8 hex>`: the same as long as every epoch it has saved would come out the same again."""
    # A falling learning rate reaches its end with the last epoch, so there their number changes every epoch.
    ignored = NOT_IDENTITY if train.lr_schedule == "constant" else NOT_IDENTITY - {"epochs"}
    changed = train.model_dump(mode="json", exclude_defaults=True)
    settings = {
        key: value
        for key, value in train.model_dump(mode="json", exclude=set(ignored)).items()
        if key in ALWAYS or key in changed
    }
    # The number of epochs is not in ALWAYS: where it counts, it counts at its default too.
    if "epochs" not in ignored:
        settings["epochs"] = train.epochs
    facts = {"train": settings, "triggers": list(triggers), "dataset": dataset_sha256, "base": base_sha256}
    return f"{name}-{digest(facts, length=8)}"
