"""Small tokenizers of the real classes, trained on the drawn world's captions.

Every name in the training text is invented anew, so names stay strings of syllables and a new trigger is never a
single strange token, nor an unknown one.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, T5TokenizerFast

from anima.pocket.captions import FORMS, Clause, mention
from anima.pocket.cast import invent_name, syllables
from anima.pocket.world import random_figure, scene

QWEN_VOCAB = 768
END, PAD, UNK = "</s>", "<pad>", "<unk>"
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.:;()'-"


def caption_text(count: int, seed: int) -> Iterator[str]:
    """Captions in all forms about random scenes, with freshly invented names and plain letters for coverage."""
    rng = Random(seed)
    for _ in range(count):
        people = [random_figure(rng) for _ in range(rng.randint(1, 3))]
        clauses = [Clause(f, invent_name(rng) if rng.random() < 0.6 else None, mention(rng)) for f in people]
        yield FORMS[rng.choice(list(FORMS))](clauses, scene(people, rng), rng)


def train_tokenizers(out: Path, *, count: int = 12_000, seed: int = 11) -> None:
    """Write `tokenizer/` (byte-level BPE) and `t5_tokenizer/` (Unigram) below `out`."""
    _train_qwen(out / "tokenizer", count, seed)
    _train_t5(out / "t5_tokenizer", count, seed)


def _train_qwen(folder: Path, count: int, seed: int) -> None:
    # The pre-tokenizer is Qwen2Tokenizer's own, so that the merges learnt here are the merges it will apply.
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = Qwen2Tokenizer()._tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=QWEN_VOCAB,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(caption_text(count, seed), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    bpe.model.save(str(folder))
    Qwen2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)


def _train_t5(folder: Path, count: int, seed: int) -> None:
    """Unigram pieces by counting: frequent words whole, then syllables, then letters as the last resort.

    Expectation maximisation over this tiny language splits its commonest words ("le ft"), which costs rows for nothing.
    """
    words = Counter(w for text in caption_text(count, seed) for w in re.findall(r"[a-z]+|[0-9]", text))
    common = {w: n for w, n in words.items() if n >= count // 100}
    total = sum(common.values())
    vocab = {PAD: 0.0, END: 0.0, UNK: 0.0, "▁": math.log(1e-5)}
    vocab |= {f"▁{w}": math.log(n / total) for w, n in sorted(common.items())}
    # "1girl" and "2girls" continue after a digit.
    vocab |= {w: math.log(common[w] / total) for w in ("girl", "girls")}
    vocab |= {piece: math.log(1e-4) for s in syllables() for piece in (f"▁{s}", s) if piece not in vocab}
    vocab |= {piece: math.log(1e-6) for c in LETTERS for piece in (f"▁{c}", c) if piece not in vocab}
    vocab |= {c: math.log(0.05) for c in ",:"}
    T5TokenizerFast(vocab=list(vocab.items()), extra_ids=0).save_pretrained(folder)
