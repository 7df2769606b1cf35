"""mynosql as a target of the local measures: a peer without mirrors, default options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.workload import Body


class OurDatabase:
    """The calls of the face, nothing in between."""

    def __init__(self) -> None:
        import mynosql

        self._opendb = mynosql.opendb

    def open(self, folder: Path) -> None:
        self._db = self._opendb("Bench", location=folder)
        self.save = self._db.savedoc
        self.read = self._db.readdoc

    def close(self) -> None:
        self._db.closedb()

    def prepare(self, key: str, body: Body) -> Body:
        return {"id": key, **body}

    def save_batch(self, items: Sequence[Body]) -> None:
        self._db.savedocs(items)

    def update(self, key: str, record: Any) -> None:
        self._db.savedoc(record)

    def delete(self, key: str) -> None:
        self._db.deletedoc(key)
