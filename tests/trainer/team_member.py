"""One process of a team: trains a trial and prints the losses it saw as JSON.

RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=... python team_member.py STUDY DATASET
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.trainer.pocket_trials import VARIED, losses, make_job
from trainer.trial import run_trial

if __name__ == "__main__":
    print(json.dumps(losses(run_trial(make_job(Path(sys.argv[1]), Path(sys.argv[2]), VARIED)))))
