"""Teach the miniature's text side to read captions before it has to draw them.

The real model starts from a language model; the miniature has none. So the encoder and the conditioner first learn to
answer questions about captions (whose hair is what colour, who stands where, what a known name looks like) through a
small attention head that sees the conditioning rows just as the transformer's cross-attention will. The head is then
thrown away. Without this step words are bound to figures by pictures alone, which takes many times longer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn

from anima.pocket.captions import Clause
from anima.pocket.corpus import Corpus, Wording
from anima.pocket.train_base import TEXT_DIM, Miniature
from anima.pocket.world import ACCESSORY, ACCESSORY_KINDS, BACKGROUND, EYES, HAIR, SHIRT, STYLES, Figure

log = logging.getLogger(__name__)

PLACES = 3
ANSWERS: dict[str, tuple[str, ...]] = {
    "hair": tuple(HAIR),
    "style": STYLES,
    "eyes": tuple(EYES),
    "accessory": ("none", *(f"{colour} {kind}" for kind in ACCESSORY_KINDS for colour in ACCESSORY)),
    "ahoge": ("no", "yes"),
    "shirt": tuple(SHIRT),
}
UNTOLD = -100
"""cross_entropy's index of a question the caption does not answer."""


class Reader(nn.Module):
    """One learnt query per question and place, one layer of attention over the rows, one linear answer per question."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self._heads = heads
        self.queries = nn.Parameter(torch.randn(PLACES * len(ANSWERS) + 1, TEXT_DIM) * 0.5)
        self.to_k = nn.Linear(TEXT_DIM, TEXT_DIM, bias=False)
        self.to_v = nn.Linear(TEXT_DIM, TEXT_DIM, bias=False)
        self.answers = nn.ModuleDict({name: nn.Linear(TEXT_DIM, len(words)) for name, words in ANSWERS.items()})
        self.background = nn.Linear(TEXT_DIM, len(BACKGROUND))

    def forward(self, rows: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Rows (B, n, dim) to logits: per question (B, places, answers), and of the background (B, answers)."""
        batch, _, dim = rows.shape
        q = self.queries.expand(batch, -1, -1).unflatten(2, (self._heads, -1)).transpose(1, 2)
        k = self.to_k(rows).unflatten(2, (self._heads, -1)).transpose(1, 2)
        v = self.to_v(rows).unflatten(2, (self._heads, -1)).transpose(1, 2)
        read = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, -1, dim)
        places = read[:, :-1].unflatten(1, (len(ANSWERS), PLACES))
        logits = {name: self.answers[name](places[:, i]) for i, name in enumerate(ANSWERS)}
        return logits, self.background(read[:, -1])


def train_text(model: Miniature, corpus: Corpus, out: Path, *, steps: int, batch: int = 64, seed: int = 3) -> None:
    """Train encoder and conditioner on captions; writes their state, `{name: tensor}`, to `out`."""
    torch.manual_seed(seed)
    reader = Reader()
    parameters = [*model.encoder.parameters(), *model.conditioner.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    began = time.monotonic()
    for step, wordings in enumerate(_batches(corpus, steps, batch)):
        logits, ground = reader(model.condition([w.caption for _, w in wordings]))
        loss, right = _score(corpus, [w for _, w in wordings], logits)
        grounds = torch.tensor([_ground(corpus, i, w) for i, w in wordings])
        loss = loss + nn.functional.cross_entropy(ground, grounds, ignore_index=UNTOLD)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 49:
            pace = (time.monotonic() - began) / (step + 1)
            shares = " ".join(f"{name}={share:.2f}" for name, share in right.items())
            log.info("text | step=%d/%d loss=%.3f %s | %.3f s/step", step + 1, steps, loss.item(), shares, pace)
    state = {f"encoder.{k}": v for k, v in model.encoder.state_dict().items()}
    state |= {f"conditioner.{k}": v for k, v in model.conditioner.state_dict().items()}
    torch.save(state, out)


def _batches(corpus: Corpus, steps: int, batch: int, pool: int = 16) -> Iterator[list[tuple[int, Wording]]]:
    """(index, wording) pairs, captions of like length together, so that little is computed on padding."""
    for first in range(0, steps, pool):
        items = range(first * batch, (first + pool) * batch)
        known = sorted(((i, corpus.wording(i, 0)) for i in items), key=lambda pair: len(pair[1].caption))
        parts = [known[k : k + batch] for k in range(0, len(known), batch)]
        Random(first).shuffle(parts)
        yield from parts[: steps - first]


def _score(corpus: Corpus, wordings: Sequence[Wording], logits: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Summed cross entropy of the questions that captions answer, and the share answered right."""
    total, right = torch.zeros(()), {}
    for name in ANSWERS:
        rows = [[_answer(corpus, c, name) for c in w.clauses] for w in wordings]
        truth = torch.tensor([row + [UNTOLD] * (PLACES - len(row)) for row in rows])
        told = truth != UNTOLD
        total = total + nn.functional.cross_entropy(logits[name][told], truth[told])
        right[name] = (logits[name][told].argmax(-1) == truth[told]).float().mean().item()
    return total, right


def _answer(corpus: Corpus, clause: Clause, question: str) -> int:
    """The answer's index, UNTOLD when neither a word nor a known name tells it."""
    by_name = corpus.knows(clause.name) and question != "shirt"
    value = _value(clause.figure, question)
    written = question in clause.said and value not in ("none", "no")
    return ANSWERS[question].index(value) if by_name or written else UNTOLD


def _value(figure: Figure, question: str) -> str:
    if question == "accessory":
        return f"{figure.accessory[1]} {figure.accessory[0]}" if figure.accessory else "none"
    if question == "ahoge":
        return "yes" if figure.ahoge else "no"
    return str(getattr(figure, question))


def _ground(corpus: Corpus, index: int, wording: Wording) -> int:
    return list(BACKGROUND).index(corpus.item(index).scene.background) if wording.caption else UNTOLD
