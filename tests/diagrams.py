"""The diagrams of docs/PROTOCOL.md, made from the tables by which the code moves from state to state.

    python -m tests.diagrams            exits with 1 when the page is not what the tables give
    python -m tests.diagrams --write    makes it so
"""

from __future__ import annotations

import re
import sys
from typing import Any

from mynosql.net.outbound import CONNECTION_TRANSITIONS
from mynosql.sync.dialling import DIAL_TRANSITIONS
from mynosql.sync.following import FOLLOW_TRANSITIONS
from mynosql.sync.serving import SERVED_TRANSITIONS
from mynosql.transitions import Transitions
from tests.sync.rules import PROTOCOL

TABLES: dict[str, Transitions[Any, Any]] = {
    "CONNECTION": CONNECTION_TRANSITIONS, "DIAL": DIAL_TRANSITIONS, "FOLLOW": FOLLOW_TRANSITIONS,
    "SERVED": SERVED_TRANSITIONS,
}
_DIAGRAM = re.compile(r"(<!-- diagram: (\w+) -->\n).*?(<!-- end of diagram -->)", re.DOTALL)


def diagram_of(table: Transitions[Any, Any]) -> str:
    """Mermaid, one line for each pair of states; causes in the order of the table."""
    causes: dict[tuple[str, str], list[str]] = {}
    for (state, cause), following in table.steps.items():
        causes.setdefault((state.name, following.name), []).append(cause.value)
    lines = [f"    {state} --> {following}: {' / '.join(values)}" for (state, following), values in causes.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", f"    [*] --> {table.start.name}", *lines, "```", ""])


def names_in(page: str) -> list[str]:
    """The tables whose diagrams the page shows."""
    return [match.group(2) for match in _DIAGRAM.finditer(page)]


def with_diagrams(page: str) -> str:
    """The page as the tables give it."""
    return _DIAGRAM.sub(lambda match: match.group(1) + diagram_of(TABLES[match.group(2)]) + match.group(3), page)


if __name__ == "__main__":
    found = PROTOCOL.read_text(encoding="utf-8")
    made = with_diagrams(found)
    if "--write" in sys.argv[1:]:
        PROTOCOL.write_text(made, encoding="utf-8")
    sys.exit(int("--write" not in sys.argv[1:] and made != found))
