"""What W&B is told of a study."""

from orchestrator.tracking.identity import Origin
from orchestrator.tracking.tracker import Tracker

__all__ = ["Origin", "Tracker"]
