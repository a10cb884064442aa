"""Which pictures a page shows when it cannot show all: the best, the worst, what is out of line, a seed over time."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.report.evidence import Evidence, SeedRecord, seed_records
from orchestrator.report.shot import Shot

FEW = 6
"""Pictures of each kind."""
MOST_EPOCHS, MOST_SEEDS = 12, 8
"""Rows and columns of a sheet that cannot hold everything."""


def evenly(items: Sequence[Shot], most: int) -> list[Shot]:
    """At most so many, taken at even distances, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def best(evidence: Evidence) -> list[Shot]:
    """Passed pictures near the adopted epoch, those on the hardest seeds first: what it can do."""
    near = _nearness(evidence)
    order = {record.seed: i for i, record in enumerate(seed_records(evidence.lead_shots))}
    passed = [s for s in evidence.lead_shots if s.outcome == "pass"]
    return sorted(passed, key=lambda s: (near(s) > 0, order.get(s.cell.seed, len(order)), near(s), s.cell.seed))[:FEW]


def worst(evidence: Evidence) -> list[Shot]:
    """Failed pictures of the adopted epoch, then of the plateau, with the most findings first: what still happens."""
    near = _nearness(evidence)
    plateau = evidence.plateau or (0, 0)
    failed = [s for s in (*evidence.confirming, *evidence.lead_shots) if s.outcome == "fail"]

    def badness(shot: Shot) -> tuple[bool, bool, int, int, int]:
        inside = plateau[0] <= shot.cell.epoch <= plateau[1]
        findings = len(shot.verdict.findings) if shot.verdict else 0
        return near(shot) > 0, not inside, -findings, near(shot), shot.cell.seed

    return sorted(failed, key=badness)[:FEW]


def out_of_line(evidence: Evidence) -> list[tuple[Shot, str]]:
    """Pictures that come out otherwise than the same seed just before and just after, nearest to the choice first."""
    near = _nearness(evidence)
    by_seed: dict[tuple[str, int], list[Shot]] = {}
    for shot in evidence.lead_shots:
        if shot.outcome in ("pass", "fail"):
            by_seed.setdefault((shot.cell.prompt.name, shot.cell.seed), []).append(shot)
    found = []
    for shots in by_seed.values():
        for before, shot, after in zip(shots, shots[1:], shots[2:], strict=False):
            if before.outcome == after.outcome != shot.outcome:
                does = "fail" if shot.outcome == "pass" else "pass"
                found.append((shot, f"epochs {before.cell.epoch} and {after.cell.epoch} {does}"))
    return sorted(found, key=lambda pair: (near(pair[0]), pair[0].cell.seed))[:FEW]


def hard_seeds(evidence: Evidence, most: int) -> list[SeedRecord]:
    """Seeds that fail most on the plateau, or over all epochs where there is none."""
    shots = evidence.lead_shots
    if evidence.plateau and evidence.plateau[0] != evidence.plateau[1]:
        first, last = evidence.plateau
        shots = [s for s in shots if first <= s.cell.epoch <= last]
    return [r for r in seed_records(shots) if r.passes < r.scored][:most]


def telling_epochs(evidence: Evidence, there: Sequence[int], most: int = MOST_EPOCHS) -> list[int]:
    """At most so many epochs: first, last, adopted, runner-up, the plateau's edges, and others at even distances."""
    if len(there) <= most:
        return list(there)
    choice = evidence.choice
    wanted = [there[0], there[-1], *(evidence.plateau or ())]
    wanted += [choice.epoch] if choice else []
    wanted += [choice.runner_up.epoch] if choice and choice.runner_up else []
    kept = {e for e in wanted if e in there}
    for part in range(1, 4 * most):
        if len(kept) >= most:
            break
        # Halves, quarters, eighths: wherever it stops the epochs are spread.
        share = sum(int(bit) / 2 ** (i + 1) for i, bit in enumerate(reversed(f"{part:b}")))
        kept.add(there[round(share * (len(there) - 1))])
    return sorted(kept)


def telling_seeds(evidence: Evidence, there: Sequence[int], most: int = MOST_SEEDS) -> list[int]:
    """At most so many seeds: the hardest half, and the first of the others."""
    if len(there) <= most:
        return list(there)
    hard = [r.seed for r in hard_seeds(evidence, most // 2) if r.seed in there]
    return sorted([*hard, *[s for s in there if s not in hard][: most - len(hard)]])


def _nearness(evidence: Evidence) -> _Near:
    lead = evidence.lead
    at = evidence.choice.epoch if evidence.choice else None
    if at is None and lead is not None and lead.rates:
        at = max(lead.rates, key=lambda r: (r.rate, r.scored, r.epoch)).epoch
    return _Near(at or 0)


class _Near:
    """How many epochs a picture lies from the one the page is about."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def __call__(self, shot: Shot) -> int:
        return abs(shot.cell.epoch - self._epoch)
