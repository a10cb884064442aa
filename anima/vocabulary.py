"""Which words of a text the conditioner can see. No torch: a study is checked with it before it starts.

The conditioner's queries are T5 tokens. What T5 has no token for (in the real vocabulary most scripts but the Latin,
and of ASCII the backslash, the backtick and < ^ { } ~) is one and the same `<unk>`: Qwen reads the word, but whatever a
LoRA learns about its row it learns about every unknown word.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anima.prompt import Segment

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNKNOWN = "<unk>"


def t5_tokenizer(base: Path) -> Tokenizer | None:
    """The T5 tokenizer of a base folder, or None where there is none to check with."""
    file = base / "t5_tokenizer" / "tokenizer.json"
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))


def unknown_words(segments: Sequence[Segment], tokenizer: Tokenizer) -> list[str]:
    """Words that contain an unknown token, each once, without the comma behind them."""
    unknown = tokenizer.token_to_id(UNKNOWN)
    words = [word for segment in segments for word in segment.text.split()]
    seen = [word.strip(",.;") or word for word in words if unknown in tokenizer.encode(word).ids]
    return list(dict.fromkeys(seen))
