"""What a slow product measures less of, and why: the table names each limit beside its figures."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from tests.bench.sizes import Sizes


@dataclass(frozen=True, kw_only=True)
class Limit:
    """At most so much, whatever the run asks for; None: as the run asks. why: ends the sentence in the report."""

    why: str
    rounds: int | None = None
    readings: int | None = None
    games: int | None = None
    resources: int | None = None
    million: int | None = None
    records_open: int | None = None

    def apply(self, sizes: Sizes) -> Sizes:
        return replace(sizes, **{name: min(most, getattr(sizes, name)) for name, most in self._bounds().items()})

    def text(self, sizes: Sizes) -> str:
        """What the product does less of in a run of this size; "" when the limit does not bite."""
        bounds = self._bounds()
        bitten = [
            f"{most:,} {name.replace('_', ' ')}" if most else f"no {name.replace('_', ' ')}"
            for name, most in bounds.items() if most < getattr(sizes, name)
        ]
        return f"{', '.join(bitten)}: {self.why}" if bitten else ""

    def _bounds(self) -> dict[str, Any]:
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "why"}
        return {name: most for name, most in named.items() if most is not None}


FSYNCED = "every save is a transaction with an fsync"
LIMITS = {
    "nats-always": Limit(rounds=2, readings=10_000, why="every message has an fsync of its own"),
    "pouchdb": Limit(rounds=2, readings=20_000, why="100,000 readings take it half a minute a sync"),
    "mynosql-0.0.6": Limit(
        rounds=1, readings=100, games=100, resources=0, million=0, records_open=0,
        why="it packs its whole index again at each save, and syncs once a minute",
    ),
    "diskcache": Limit(million=0, records_open=0, rounds=3, why="a million saves take it a minute"),
    "sqlitedict": Limit(rounds=1, readings=20_000, games=2_000, million=0, records_open=0, why=FSYNCED),
    "zodb": Limit(rounds=1, readings=20_000, games=2_000, million=0, records_open=0, why=FSYNCED),
    "tinydb": Limit(
        rounds=1, readings=500, games=100, resources=0, million=0, records_open=0,
        why="it writes its whole file again at each save, and JSON has no bytes",
    ),
}
"""Name of a product → its limit."""


def limited(sizes: Sizes, product: str) -> Sizes:
    """How much this product measures in a run of this size."""
    return LIMITS[product].apply(sizes) if product in LIMITS else sizes


def limit_texts(sizes: Sizes) -> dict[str, str]:
    """Product → what it does less of in a run of this size."""
    texts = {product: limit.text(sizes) for product, limit in LIMITS.items()}
    return {product: text for product, text in texts.items() if text}
