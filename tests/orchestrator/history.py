"""What must hold of a study's ledger and files, whatever died on the way."""

from __future__ import annotations

from collections import Counter

from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.record.ledger import read_events
from orchestrator.record.state import StudyState, replay


def sound(layout: Layout) -> StudyState:
    """Replay the ledger and hold it against the files: nothing that is recorded is missing, nothing is there twice."""
    events = list(read_events(layout.ledger))
    made: Counter[tuple[str, ...]] = Counter()
    for event in events:
        match event.kind:
            case "checkpoint_saved":
                saved = event.data["checkpoint"]
                made["epoch", saved["trial"], str(saved["epoch"])] += 1
            case "sample_drawn":
                made["picture", event.data["sample"]["cell_key"]] += 1
            case "verdict_given":
                verdict = event.data["verdict"]
                made["verdict", verdict["cell_key"], verdict["judge"]] += 1
            case "file_quarantined":
                raise AssertionError(f"something recorded was damaged: {event.data}")
    assert {what: n for what, n in made.items() if n > 1} == {}, "recorded twice"
    state = replay(events)
    for checkpoint in state.checkpoints.values():
        assert file_sha256(layout.resolve(checkpoint.adapter)) == checkpoint.sha256
    for sample in state.samples.values():
        assert file_sha256(layout.resolve(sample.image)) == sample.sha256
    return state


def outcome(state: StudyState, layout: Layout) -> dict[str, object]:
    """What a study came to: content of adapters and pictures, verdicts, the choice. Times are left out."""
    return {
        "adapters": {place: c.sha256 for place, c in sorted(state.checkpoints.items())},
        "pictures": {key: s.sha256 for key, s in sorted(state.samples.items())},
        "verdicts": {place: v.to_json() for place, v in sorted(state.verdicts.items())},
        "choice": state.choice.to_json() if state.choice else None,
        "files": sorted(layout.relative(p) for p in layout.root.rglob("*.png")),
    }
