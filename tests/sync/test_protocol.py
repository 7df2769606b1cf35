"""docs/PROTOCOL.md and the tests agree: no rule without a test, no message without its paragraph."""

from __future__ import annotations

import ast
from pathlib import Path

from mynosql.sync import wire
from tests.sync.rules import PROTOCOL, rule_of, rules


def _quoted() -> set[str]:
    found: set[str] = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for part in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "obeys":
                found.update(rule_of(argument.value) for argument in part.args if isinstance(argument, ast.Constant))
    return found


def test_every_rule_has_a_test() -> None:
    quoted = _quoted()
    missing = [rule for rule in rules() if rule not in quoted]

    assert not missing, "no test has @obeys(…) for:\n" + "\n".join(missing)


def test_every_message_has_its_paragraph() -> None:
    text = PROTOCOL.read_text(encoding="utf-8")
    names = [shape.kind.__name__ for shape in wire._SHAPES]
    missing = [name for name in names if f"**{name}**" not in text]

    assert not missing, f"docs/PROTOCOL.md does not tell of {missing}"
