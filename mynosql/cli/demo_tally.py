"""What the demo compares and prints at the end. Pure: facts in, verdict and text out."""

from __future__ import annotations

from dataclasses import dataclass, field

from mynosql.cli.demo_screen import size_text

SHOWN_MAX = 5
Sides = dict[str, dict[str, str]]


@dataclass(slots=True, kw_only=True)
class Tally:
    """The figures of one run."""

    saved: dict[str, str] = field(default_factory=dict)
    """What savedoc acknowledged to the logger, kept outside the database: id -> digest."""
    sides: Sides = field(default_factory=dict)
    """What each node's database holds at the end: node -> id -> digest."""
    queued_while_cut: int = 0
    cut_s: float = 0.0
    queued_while_dead: int = 0
    dead_s: float = 0.0
    wire_bytes: int = 0
    disk_bytes: int = 0
    raw_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    """What went wrong besides missing records."""

    @property
    def delivered(self) -> int:
        """Records that the mirror holds with the values that were saved."""
        return sum(digest == self.saved.get(id) for id, digest in self.sides.get("mirror", {}).items())

    def missing(self, node: str) -> list[str]:
        """Ids that were saved and are not on that node, or not with equal values."""
        held = self.sides.get(node, {})
        return [id for id, digest in self.saved.items() if held.get(id) != digest]

    def extra(self, node: str) -> list[str]:
        """Ids on that node that nobody saved."""
        return [id for id in self.sides.get(node, {}) if id not in self.saved]

    @property
    def lost(self) -> int:
        """Saved records that at least one node does not hold with equal values."""
        return len({id for node in self.sides for id in self.missing(node)}) if self.sides else len(self.saved)

    @property
    def is_converged(self) -> bool:
        return bool(self.saved) and bool(self.sides) and not self.findings()

    def findings(self) -> list[str]:
        """One line for each thing that is not as it should be."""
        lines = list(self.problems)
        for node in self.sides:
            for what, ids in (("lacks, or holds with other values,", self.missing(node)),
                              ("holds what nobody saved:", self.extra(node))):
                if ids:
                    more = f" and {len(ids) - SHOWN_MAX:,} more" if len(ids) > SHOWN_MAX else ""
                    lines.append(f"the {node} {what} {', '.join(ids[:SHOWN_MAX])}{more}")
        return lines

    def report(self) -> list[str]:
        """The lines that a person wants to see."""
        read = sum(digest == self.saved.get(id) for id, digest in self.sides.get("reader", {}).items())
        rows = [
            ("written by the logger", f"{len(self.saved):,}", "records, saved locally at once"),
            ("queued while cut", f"{self.queued_while_cut:,}", f"the link was cut for {self.cut_s:.1f} s"),
            ("queued while dead", f"{self.queued_while_dead:,}", f"the mirror was dead for {self.dead_s:.1f} s"),
            ("delivered to mirror", f"{self.delivered:,}", ""),
            ("read by the reader", f"{read:,}", ""),
            ("lost", f"{self.lost:,}", ""),
            ("bytes on the wire", size_text(self.wire_bytes), "TCP payload between logger and mirror, both ways"),
            ("bytes on disk", size_text(self.disk_bytes), self._disk_note()),
        ]
        lines = [f"  {name:<22}{value:>10}  {note}".rstrip() for name, value, note in rows]
        findings = self.findings()
        if self.is_converged:
            lines.append(f"converged: all {len(self.saved):,} records are equal on {', '.join(self.sides)}")
        else:
            lines += [f"NOT converged: {finding}" for finding in findings or ["nothing was compared"]]
        return lines

    def _disk_note(self) -> str:
        if not self.disk_bytes:
            return ""
        return (
            f"the mirror's whole folder; the records as JSON are {size_text(self.raw_bytes)}, "
            f"{self.raw_bytes / self.disk_bytes:.1f} times that"
        )
