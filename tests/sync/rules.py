"""The rules of docs/PROTOCOL.md, and the mark that says which test shows which rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PROTOCOL = Path(__file__).resolve().parents[2] / "docs" / "PROTOCOL.md"

Test = TypeVar("Test", bound=Callable[..., None])


def rules() -> list[str]:
    """All rules, word for word."""
    return [line[2:] for line in PROTOCOL.read_text(encoding="utf-8").splitlines() if line.startswith("- ")]


def rule_of(quoted: str) -> str:
    """The rule that a test quotes: word for word, or from its beginning up to " …"; raises ValueError for none."""
    beginning = quoted.removesuffix(" …")
    found = [rule for rule in rules() if rule == quoted or (beginning != quoted and rule.startswith(beginning))]
    if len(found) != 1:
        raise ValueError(f"docs/PROTOCOL.md has {len(found)} rules {quoted!r}, expected one")
    return found[0]


def obeys(*quoted: str) -> Callable[[Test], Test]:
    """The test shows these rules."""
    for sentence in quoted:
        rule_of(sentence)

    def mark(test: Test) -> Test:
        return test

    return mark
