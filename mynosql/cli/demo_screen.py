"""What the demo shows while it runs: lines that stay, and on a terminal a panel below them that is drawn anew.

Owns the look, not the facts: a View comes in, text goes out. Plain lines only when the output is not a terminal, or
TERM=dumb. No line is ever wider than the terminal, so that drawing anew hits the same place.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from typing import TextIO

BAR_COLUMNS_MAX = 40
LINK_COLUMNS = 5
ESC = "\x1b["


@dataclass(slots=True, kw_only=True)
class View:
    """The facts of one moment."""

    step: int = 0
    steps: int = 0
    title: str = ""
    elapsed_s: float = 0.0
    written: int = 0
    delivered: int = 0
    """Records that the mirror has."""
    queued: int = 0
    """Records that the logger still owes."""
    known: int = 0
    """Records whose existence the reader knows."""
    held: int = 0
    """Records that the reader holds."""
    wire_bytes: int = 0
    is_link_open: bool = True
    is_mirror_up: bool = True
    is_logger_connected: bool = False
    is_reader_connected: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """The characters that this output can show."""

    line: str
    cut: str
    full: str
    empty: str
    dot: str


FINE = Look("─", "╳", "█", "░", "·")
ASCII = Look("-", "X", "#", ".", "-")


def size_text(size_bytes: float) -> str:
    """A size as a person reads it: 812 B, 61.4 kB, 2.1 MB."""
    if size_bytes < 1000:
        return f"{size_bytes:.0f} B"
    for unit, unit_bytes in (("kB", 1e3), ("MB", 1e6)):
        if size_bytes < 999.95 * unit_bytes:
            return f"{size_bytes / unit_bytes:.1f} {unit}"
    return f"{size_bytes / 1e9:.1f} GB"


def panel(view: View, columns: int, look: Look) -> list[str]:
    """The lines of the live panel, none wider than `columns`."""
    link, state = look.line * LINK_COLUMNS, "connecting"
    if not view.is_link_open:
        link, state = f"{look.line} {look.cut} {look.line}", "the link is cut"
    elif not view.is_mirror_up:
        state = "mirror killed"
    elif view.is_logger_connected and view.is_reader_connected:
        state = "all connected"
    logger = "logger" if view.is_logger_connected else "(logger)"
    reader = "reader" if view.is_reader_connected else "(reader)"
    mirror = "mirror" if view.is_mirror_up else f"{look.cut} mirror {look.cut}"
    bar_columns = max(min(BAR_COLUMNS_MAX, columns - 26), 0)
    most = max(view.written, 1)
    lines = [
        f" step {view.step} of {view.steps}: {view.title}  {view.elapsed_s:.1f} s",
        f" {logger:>8} {link} {mirror:^10} {look.line * LINK_COLUMNS} {reader:<8} {state}",
        f" written    {view.written:>7,} {bar(view.written, most, bar_columns, look)}",
        f" at mirror  {view.delivered:>7,} {bar(view.delivered, most, bar_columns, look)}",
        f" in queue   {view.queued:>7,} {bar(view.queued, most, bar_columns, look)}",
        f" reader knows {view.known:,} {look.dot} holds {view.held:,} {look.dot} "
        f"{size_text(view.wire_bytes)} on the logger's link",
    ]
    return [line[: max(columns - 1, 0)] for line in lines]  # the last column stays free: some terminals wrap on it


def bar(value: int, most: int, columns: int, look: Look) -> str:
    """A bar of exactly that many characters."""
    filled = min(round(columns * value / most), columns)
    return look.full * filled + look.empty * (columns - filled)


class Screen:
    """Where the demo's text goes. say() writes a line that stays; show() refreshes the panel where there is one."""

    def __init__(self, out: TextIO, *, is_live: bool, look: Look) -> None:
        self._out = out
        self._is_live = is_live
        self._look = look
        self._panel_lines = 0

    @classmethod
    def of(cls, out: TextIO) -> Screen:
        """Live on a terminal that can move its cursor, plain elsewhere; ASCII where the encoding has no more."""
        is_live = out.isatty() and os.environ.get("TERM", "") not in ("", "dumb") and sys.platform != "win32"
        try:
            "".join((FINE.line, FINE.cut, FINE.full, FINE.empty, FINE.dot)).encode(out.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            return cls(out, is_live=is_live, look=ASCII)
        return cls(out, is_live=is_live, look=FINE)

    def say(self, text: str = "") -> None:
        """One line, or several, that stay on the screen."""
        self._wipe()
        self._out.write(text + "\n")
        self._out.flush()

    def show(self, view: View) -> None:
        """The panel shows this view; nothing happens where there is no panel."""
        if not self._is_live:
            return
        columns = shutil.get_terminal_size().columns
        lines = panel(view, columns, self._look)
        self._wipe()
        self._out.write("".join(f"{ESC}2K{line}\r\n" for line in lines))
        self._out.flush()
        self._panel_lines = len(lines)

    def close(self) -> None:
        """The panel is gone, the lines stay."""
        self._wipe()
        self._out.flush()

    def _wipe(self) -> None:
        if self._panel_lines:
            self._out.write(f"{ESC}{self._panel_lines}A{ESC}J")
            self._panel_lines = 0
