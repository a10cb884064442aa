"""Weights and escapes of prompts, as ComfyUI reads them, oddities included."""

from __future__ import annotations

import pytest

from anima.prompt import Segment, literal, read_prompt
from orchestrator.core.errors import ConfigError


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", []),
        ("1girl, blue hair", [("1girl, blue hair", 1.0)]),
        ("a (b:1.2) c", [("a ", 1.0), ("b", 1.2), (" c", 1.0)]),
        ("(a)", [("a", 1.1)]),
        ("((a))", [("a", 1.1 * 1.1)]),
        ("(a (b:1.5) c:1.2)", [("a ", 1.2), ("b", 1.5), (" c", 1.2)]),
        ("((a:0.5):2)", [("a", 0.5)]),
        ("((a) b:2)", [("a", 2 * 1.1), (" b", 2.0)]),
        ("(left: kanachan:1.3)", [("left: kanachan", 1.3)]),
        ("(left: kanachan)", [("left: kanachan", 1.1)]),
        ("(a:-1)(b:0)", [("a", -1.0), ("b", 0.0)]),
        ("(a: 1.5 )", [("a", 1.5)]),
        ("(:1.5)", [(":1.5", 1.1)]),
        ("()", []),
        ("miku \\(vocaloid\\)", [("miku (vocaloid)", 1.0)]),
        ("(miku \\(vocaloid\\):1.2)", [("miku (vocaloid)", 1.2)]),
        ("a \\ b", [("a \\ b", 1.0)]),
        # Parentheses that open or close nothing.
        ("a (b", [("a ", 1.0), ("(b", 1.0)]),
        ("a) b", [("a) b", 1.0)]),
        ("a) (b)", [("a) (b)", 1.0)]),
        ("a) (b) (c)", [("a) (b) (c)", 1.0)]),
        (")((b)", [(")(", 1.0), ("b", 1.1)]),
        ("(a (b)", [("a ", 1.1), ("(b", 1.1)]),
    ],
)
def test_segments_and_weights(prompt: str, expected: list[tuple[str, float]]) -> None:
    found = [(segment.text, segment.weight) for segment in read_prompt(prompt)]
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize("weight", ["nan", "inf", "-inf", "1e999"])
def test_weights_that_are_no_finite_numbers_are_refused(weight: str) -> None:
    with pytest.raises(ConfigError, match=r"prompt: the weight of \(a \(b\):.* is not finite — write a number"):
        read_prompt(f"x, (a \\(b\\):{weight})")


def test_deep_nesting_is_read_and_not_a_crash() -> None:
    (segment,) = read_prompt("(" * 400 + "a:1.5" + ")" * 400)
    assert segment == Segment("a", 1.5)


def test_captions_mean_what_they_say() -> None:
    assert literal("miku (vocaloid:1.2)") == (Segment("miku (vocaloid:1.2)"),)
    assert literal("") == ()
