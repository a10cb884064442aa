"""Checkpoints as versions of a model artifact: by reference to the volume, uploaded, or only described.

The artifact always holds `adapter.json` (epoch, loss, exposures, size, sha256), so that content and aliases are there
whatever holds the weights. Telling the same checkpoint again with another alias gives the same version that alias.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from infra.config import S3Config
from orchestrator.core.layout import Layout
from orchestrator.core.study import Checkpoint
from orchestrator.planning.config import StudyConfig
from orchestrator.tracking.messages import Adapter

if TYPE_CHECKING:
    import wandb
    from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry

FILE, DESCRIPTION = "adapter.safetensors", "adapter.json"


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
    # Not `artifact.new_file`: its folder is removed whenever the artifact happens to be collected, with a warning.
    with TemporaryDirectory() as folder:
        description = Path(folder) / DESCRIPTION
        description.write_text(json.dumps(described, indent=2, sort_keys=True))
        artifact.add_file(str(description), name=DESCRIPTION, skip_cache=True)
    wanted = config.wandb.adapters
    address = adapter_address(config, checkpoint)
    if wanted == "reference" and address:
        artifact.manifest.add_entry(reference(address, checkpoint))
    path = layout.resolve(checkpoint.adapter)
    if wanted == "upload" and path.is_file():
        artifact.add_file(str(path), name=FILE, policy="immutable", skip_cache=True)
    run.log_artifact(artifact, aliases=list(message.aliases))


def reference(address: str, checkpoint: Checkpoint) -> ArtifactManifestEntry:
    """The file by its address, with its sha256 as digest.

    `Artifact.add_reference` has no such choice: it asks the store for its ETag, or takes the address for the digest.
    """
    from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry

    about = {"sha256": checkpoint.sha256}
    entry = {"path": FILE, "ref": address, "digest": checkpoint.sha256, "size": checkpoint.size_bytes, "extra": about}
    return ArtifactManifestEntry.model_validate(entry)


def adapter_address(config: StudyConfig, checkpoint: Checkpoint) -> str:
    """Where the file is on a volume that others can reach; nothing where that is a folder of this machine."""
    kept = config.volume.kept_at(config.study)
    return f"s3://{kept.bucket}/{kept.prefix}/{checkpoint.adapter}" if isinstance(kept, S3Config) else ""
