"""The predecessor, MyNoSQL 0.0.6 from PyPI, whose name is ours too: it runs in an environment of its own.

Its text is left as it is, but it says nothing: it would describe its own stack at every step, at its default level of
debugging, and most of its time would go there.
"""

from __future__ import annotations

import importlib
import sys
import sysconfig
from typing import Any

NAME = "mynosql-0.0.6"


def quiet_predecessor() -> Any:
    """Its database object, not open yet. Only in a process of predecessor_python()."""
    sys.path.insert(0, sysconfig.get_path("purelib"))  # before the root of this checkout, where our MyNoSQL.py is
    module: Any = importlib.import_module("MyNoSQL")
    assert module.MyNoSQL.version == "0.0.6", f"{module.__file__} is not the predecessor"
    module.print = _say_nothing
    module.MyNoSQL.debuglvl = -1
    return module.MyNoSQL()


def _say_nothing(*words: object) -> None:
    """In the place of print: stdout belongs to the answers of this process."""


def plain_id(key: str) -> str:
    """It takes what stands before a slash for the whole id when another node asks."""
    return key.replace("/", "_")
