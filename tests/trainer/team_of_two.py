"""Two processes that train a trial together; each writes the losses it saw as JSON.

    python team_of_two.py PORT STUDY DATASET OUT        writes OUT/0.json and OUT/1.json

Torch is imported once and each member is a fork; they find each other by the variables that launchers set.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path

from tests.trainer.pocket_trials import VARIED, losses, make_job
from trainer.trial import run_trial


def member(rank: int, port: str, study: Path, dataset: Path, out: Path) -> int:
    """Train as one of the two; returns the exit status."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    try:
        (out / f"{rank}.json").write_text(json.dumps(losses(run_trial(make_job(study, dataset, VARIED)))))
    except BaseException:  # a fork must not go on with its parent's business
        traceback.print_exc()
        return 1
    return 0


def main(port: str, study: Path, dataset: Path, out: Path) -> int:
    """Returns 0 when both came to the end; when one does not, the other is not left waiting for it."""
    members = set[int]()
    for rank in (0, 1):
        child = os.fork()
        if child == 0:
            os._exit(member(rank, port, study, dataset, out))
        members.add(child)
    failed = 0
    while members:
        child, status = os.wait()
        members.remove(child)
        if status and not failed:
            failed = 1
            for left in members:
                os.kill(left, signal.SIGKILL)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(Path, sys.argv[2:])))
