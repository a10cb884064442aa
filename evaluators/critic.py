"""Who judges the cells of a grid, and under which name: the judge a YAML asks for, with pictures read from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.config import JudgeConfig
from orchestrator.core.identity import digest
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Prompt, Sample, Verdict

if TYPE_CHECKING:
    from evaluators.judges.look import CharacterLook


def judge_identity(judge: JudgeConfig, cast: Mapping[str, CharacterLook]) -> tuple[str, int] | None:
    """Name and version verdicts are recorded under; None when pictures are only drawn.

    The name carries the cast: other looks are other questions.
    """
    if judge.name == "none":
        return None
    from evaluators.judges.look import PIXEL_VERSION

    looks = {name: look.model_dump(mode="json") for name, look in cast.items()}
    return f"{judge.name}-{digest(looks, length=6)}", PIXEL_VERSION


def judge_of(judge: tuple[str, int], prompt: Prompt) -> tuple[str, int]:
    """Name and version a verdict on this prompt's pictures is recorded under, by the judge that `judge_identity` names.

    What the pixel judge says of strangers has a version of its own, so that verdicts on everything else stay valid.
    """
    if not prompt.calls_nobody or not judge[0].startswith("pixel-"):
        return judge
    from evaluators.judges.look import STRANGERS_VERSION

    return judge[0], STRANGERS_VERSION


class PictureCritic:
    """Loads each picture and has the judge read it. Raises ConfigError for looks that the judge cannot tell apart."""

    def __init__(self, study_root: str, looks: Mapping[str, CharacterLook], judge: tuple[str, int]) -> None:
        from evaluators.judges.pixel import PixelJudge

        self._layout, self._name = Layout(Path(study_root)), judge[0]
        self._judge = PixelJudge(looks)

    def judge(self, cells: Sequence[Cell], samples: Sequence[Sample]) -> list[Verdict]:
        """Verdicts in the order of the cells."""
        return [self._verdict(cell, sample) for cell, sample in zip(cells, samples, strict=True)]

    def _verdict(self, cell: Cell, sample: Sample) -> Verdict:
        from PIL import Image

        with Image.open(self._layout.resolve(sample.image)) as image:
            verdict = self._judge.judge(image.convert("RGB"), cell.prompt, cell.key)
        return replace(verdict, judge=self._name)
