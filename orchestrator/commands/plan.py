"""python -m orchestrator plan: what a study takes, on paper."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from orchestrator.commands.arguments import add_conf, add_json

if TYPE_CHECKING:
    from orchestrator.commands import Commands
    from orchestrator.planning.plan import Plan, PodPlan, TrialPlan


def add_parser(commands: Commands) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "plan",
        help="what a study takes: steps, pictures, hours, dollars",
        description="Expand a study without running anything: steps, exposures, pictures, hours and dollars per pod.",
    )
    add_conf(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show the plan."""
    from orchestrator.planning.config import load_config
    from orchestrator.planning.plan import make_plan, render

    plan = make_plan(load_config(options.conf, options.overrides))
    if options.json:
        from orchestrator.commands.output import document

        document(plan_data(plan))
        return 0
    from rich.console import Console

    Console().print(render(plan))
    return 0


def plan_data(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    return {
        "study": plan.study,
        "images": plan.images,
        "counted": plan.counted,
        "repeats": plan.repeats,
        "trials": [_trial(trial) for trial in plan.trials],
        "fresh_pictures": plan.fresh_pictures,
        "pictures": plan.pictures,
        "pods": [_pod(pod) for pod in plan.pods],
        "warnings": list(plan.warnings),
    }


def _trial(trial: TrialPlan) -> dict[str, Any]:
    return {
        "name": trial.name,
        "epochs": trial.epochs,
        "saved_epochs": trial.saved,
        "steps_per_epoch": trial.steps_per_epoch,
        "steps": trial.steps,
        "exposures_per_image": trial.exposures_per_image,
        "pictures": trial.pictures,
    }


def _pod(pod: PodPlan) -> dict[str, Any]:
    return {
        "gpu": pod.offer.name,
        "vram_gb": pod.offer.vram_gb,
        "dollars_per_hour": pod.offer.dollars_per_hour,
        "training_hours": round(pod.training_hours, 3),
        "drawing_hours": round(pod.drawing_hours, 3),
        "dollars": round(pod.dollars, 2),
        "estimated": sorted(pod.offer.estimated),
    }
