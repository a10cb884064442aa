"""Checkpoints as versions of a model artifact: by reference to the volume, uploaded, or only described.

The artifact always holds `adapter.json` (epoch, loss, exposures, size, sha256), so that content and aliases are there
whatever holds the weights. Telling the same checkpoint again with another alias gives the same version that alias.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from infra.config import S3Config
from orchestrator.core.layout import Layout
from orchestrator.core.study import Checkpoint
from orchestrator.planning.config import StudyConfig
from orchestrator.tracking.messages import Adapter

if TYPE_CHECKING:
    import wandb

FILE = "adapter.safetensors"


def artifact_name(config: StudyConfig, trial: str) -> str:
    """The collection that holds a trial's checkpoints."""
    return f"{config.study}-{trial}"


def log_adapter(run: wandb.Run, config: StudyConfig, layout: Layout, message: Adapter) -> None:
    """Tell of a checkpoint under its aliases."""
    import wandb

    checkpoint = message.checkpoint
    described = {
        "trial": checkpoint.trial,
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "loss": checkpoint.loss,
        "exposures_per_image": checkpoint.exposures_per_image,
        "sha256": checkpoint.sha256,
        "size_bytes": checkpoint.size_bytes,
        "path": checkpoint.adapter,
    }
    artifact = wandb.Artifact(artifact_name(config, checkpoint.trial), type="model", metadata=described)
    with artifact.new_file("adapter.json") as stream:
        json.dump(described, stream, indent=2, sort_keys=True)
    wanted = config.wandb.adapters
    address = adapter_address(config, checkpoint)
    if wanted == "reference" and address:
        # The digest is the address: keys are never overwritten, and the content's own hash is in adapter.json.
        artifact.add_reference(address, name=FILE, checksum=False)
    path = layout.resolve(checkpoint.adapter)
    if wanted == "upload" and path.is_file():
        artifact.add_file(str(path), name=FILE, policy="immutable", skip_cache=True)
    run.log_artifact(artifact, aliases=list(message.aliases))


def adapter_address(config: StudyConfig, checkpoint: Checkpoint) -> str:
    """Where the file is on a volume that others can reach; nothing where that is a folder of this machine."""
    kept = config.volume.kept_at(config.study)
    return f"s3://{kept.bucket}/{kept.prefix}/{checkpoint.adapter}" if isinstance(kept, S3Config) else ""
