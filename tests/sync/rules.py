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


def obeys(*sentences: str) -> Callable[[Test], Test]:
    """The test shows these rules; each must be one, word for word."""
    known = set(rules())
    for sentence in sentences:
        if sentence not in known:
            raise ValueError(f"docs/PROTOCOL.md has no rule {sentence!r}")

    def mark(test: Test) -> Test:
        return test

    return mark
