"""Pictures drawn while training, with the adapter as it is at that moment, by the code that draws everything else.

They use generators of their own, so training takes the same steps with them as without. A picture that is there is not
drawn again, and one that a crash prevented is drawn when training goes on: what exists is the same either way.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from torch import Tensor

from anima.draw import Request, draw
from anima.flow import schedule_sigmas
from anima.png import parameters_text, png_bytes
from orchestrator.core.files import write_whole
from orchestrator.core.identity import digest
from orchestrator.core.layout import Layout
from orchestrator.core.study import ENGINE_NUMERICS, Drawing
from orchestrator.core.version import VERSION
from trainer.adaptation import Adaptation
from trainer.config import SamplesConfig, TrainConfig
from trainer.dataset import Dataset
from trainer.memory import is_out_of_memory, visiting

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Planned:
    """A picture and where it goes; its JSON has the same name."""

    request: Request
    path: Path


@dataclass(frozen=True, slots=True)
class Samples:
    """Draws the samples of a trial's epochs."""

    adaptation: Adaptation
    layout: Layout
    trial: str
    requests: tuple[Request, ...]
    drawing: Drawing
    batch: int

    def draw(self, epoch: int, step: int) -> list[Path]:
        """Draw what is not there of an epoch; gives all of its pictures, none of them when memory does not suffice."""
        planned = self._planned(epoch)
        missing = [one for one in planned if not one.path.exists()]
        try:
            for start in range(0, len(missing), self.batch):
                self._draw_batch(missing[start : start + self.batch], epoch, step)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # Training has what it needs: it must not end for pictures that are only looked at.
            log.warning("no memory for samples, training goes on | trial=%s epoch=%d", self.trial, epoch)
            return []
        return [one.path for one in planned]

    def _planned(self, epoch: int) -> list[Planned]:
        folder = self.layout.samples(self.trial, epoch)
        setting = [*self.drawing.to_json().items(), self.batch, ENGINE_NUMERICS]
        keys = (digest({"request": repr(request), "setting": setting}, length=8) for request in self.requests)
        names = (f"{_slug(request.prompt)}-{request.seed}" for request in self.requests)
        paths = (folder / f"{name}-{key}.png" for name, key in zip(names, keys, strict=True))
        return [Planned(request, path) for request, path in zip(self.requests, paths, strict=True)]

    def _draw_batch(self, planned: Sequence[Planned], epoch: int, step: int) -> None:
        base = self.adaptation.base
        # Always the same shape: a picture must not depend on which of its neighbours were there already.
        padded = [*planned, *([planned[-1]] * (self.batch - len(planned)))]
        encoders = [base.codec.vae, base.text.encoder]
        if self.adaptation.trains_text:
            base.text.forget_rows()
        else:
            encoders.append(base.text.conditioner)
        with visiting(base.device, encoders):
            pixels = draw(base, [one.request for one in padded], self.drawing)
        for one, picture in zip(planned, pixels, strict=False):
            self._write(one, picture, epoch, step)

    def _write(self, one: Planned, pixels: Tensor, epoch: int, step: int) -> None:
        request, drawing, base = one.request, self.drawing, self.adaptation.base
        more = {"Trial": self.trial, "Epoch": epoch, "Shift": drawing.shift, "Version": f"epochsweep {VERSION}"}
        text = parameters_text(request.prompt, request.negative, request.seed, drawing, more)
        picture = png_bytes(pixels, {"parameters": text})
        facts = {
            "prompt": request.prompt,
            "negative": request.negative,
            "seed": request.seed,
            "drawing": drawing.to_json(),
            "sigmas": [round(s, 8) for s in schedule_sigmas(drawing.schedule, drawing.steps, drawing.shift)],
            "trial": self.trial,
            "epoch": epoch,
            "step": step,
            "batch": self.batch,
            "dtype": str(base.dtype).removeprefix("torch."),
            "numerics": ENGINE_NUMERICS,
            "image_sha256": sha256(picture).hexdigest(),
        }
        write_whole(one.path.with_suffix(".json"), json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        write_whole(one.path, picture)


def plan_samples(
    adaptation: Adaptation, layout: Layout, trial: str, train: TrainConfig, dataset: Dataset, triggers: Sequence[str]
) -> Samples | None:
    """The samples that a configuration asks for, if it does."""
    config = train.samples
    if config is None:
        return None
    width, height = config.size or train.resolution
    prompts = config.prompts or default_prompts(dataset, triggers)
    requests = tuple(Request(prompt, seed, config.negative) for prompt in prompts for seed in config.seeds)
    drawing = Drawing(config.sampler, config.steps, config.cfg, config.shift, width, height)
    return Samples(adaptation, layout, trial, requests, drawing, config.batch)


def default_prompts(dataset: Dataset, triggers: Sequence[str]) -> tuple[str, ...]:
    """Each trigger alone, which shows what the trigger itself has learnt, and a caption of each, as it is trained."""
    first = {item.triggers: item.caption for item in reversed(dataset.items)}
    captions = (first[(trigger,)] for trigger in triggers if (trigger,) in first)
    # Captions are literal, prompts are not: what is weight or emphasis in a prompt is a plain sign in a caption.
    escaped = (re.sub(r"([()])", r"\\\1", caption) for caption in captions)
    return tuple(dict.fromkeys([*triggers, *escaped]))


def is_due(config: SamplesConfig, epoch: int, last: int) -> bool:
    """Whether samples are drawn after an epoch; 0 is before the first."""
    return epoch % config.every == 0 or epoch == last


def _slug(prompt: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return words[:32].rstrip("-") or "picture"
