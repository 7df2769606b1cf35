"""The demo's screen: a panel no wider than the terminal drawn anew in place; plain lines elsewhere."""

from __future__ import annotations

import io
import os

import pytest

from mynosql.cli.demo_screen import ASCII, FINE, Screen, View, bar, panel, size_text

VIEW = View(
    step=3, steps=7, title="cut the logger's link", elapsed_s=4.2, written=1_204, delivered=800, queued=404,
    known=800, held=10, wire_bytes=61_400, is_link_open=False, is_reader_connected=True,
)


def test_the_panel_shows_what_is_going_on() -> None:
    text = "\n".join(panel(VIEW, 100, ASCII))
    for shown in ("step 3 of 7", "is cut", "1,204", "800", "404", "holds 10", "61.4 kB", "(logger)", " reader "):
        assert shown in text


def test_a_killed_mirror_is_shown() -> None:
    text = "\n".join(panel(View(is_mirror_up=False), 100, ASCII))
    assert "X mirror X" in text
    assert "mirror killed" in text


@pytest.mark.parametrize("columns", [0, 1, 2, 10, 25, 40, 80, 300])
@pytest.mark.parametrize("look", [FINE, ASCII])
def test_no_line_is_wider_than_the_terminal(columns: int, look: object) -> None:
    view = View(title="x" * 500, written=10**12, delivered=10**12, queued=10**12, wire_bytes=10**15)
    assert all(len(line) < max(columns, 1) for line in panel(view, columns, look))  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "most", "filled"), [(0, 1, 0), (5, 10, 5), (10, 10, 10), (11, 10, 10)])
def test_a_bar_has_its_width_whatever_it_shows(value: int, most: int, filled: int) -> None:
    text = bar(value, most, 10, ASCII)
    assert text == "#" * filled + "." * (10 - filled)


@pytest.mark.parametrize(("size_bytes", "text"), [
    (0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (61_400, "61.4 kB"), (999_949, "999.9 kB"), (999_999, "1.0 MB"),
    (2_100_000, "2.1 MB"), (5_000_000_000, "5.0 GB"), (5_000_000_000_000, "5000.0 GB"),
])
def test_sizes_read_well(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text


def test_without_a_terminal_only_lines_are_written() -> None:
    out = io.StringIO()
    screen = Screen.of(out)
    screen.show(VIEW)
    screen.say("link CUT")
    screen.show(VIEW)
    screen.close()
    assert out.getvalue() == "link CUT\n"


class Terminal(io.StringIO):
    """An output that says it is a terminal, and understands the three codes that the panel uses."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """The lines as a person sees them."""
        lines: list[str] = [""]
        row = 0
        for part in self.getvalue().replace("\r\n", "\n").split("\x1b["):
            if part.startswith("2K"):
                lines[row], part = "", part[2:]
            elif part.startswith("J"):
                del lines[row + 1 :]
                lines[row], part = "", part[1:]
            else:
                head, marker, tail = part.partition("A")
                if marker and head.isdigit():
                    row, part = max(row - int(head), 0), tail
            for number, text in enumerate(part.split("\n")):
                if number:
                    row += 1
                    if row == len(lines):
                        lines.append("")
                lines[row] += text
        return lines


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


def test_on_a_terminal_lines_stay_and_the_panel_is_drawn_in_place(terminal: Terminal) -> None:
    screen = Screen.of(terminal)
    screen.say("first")
    screen.show(VIEW)
    screen.show(VIEW)
    screen.say("second")
    screen.show(VIEW)
    lines = terminal.screen()
    assert lines[:2] == ["first", "second"]
    assert lines[2:] == [*panel(VIEW, 100, FINE), ""]


def test_closing_takes_the_panel_away_and_leaves_the_lines(terminal: Terminal) -> None:
    screen = Screen.of(terminal)
    screen.say("first")
    screen.show(VIEW)
    screen.close()
    assert terminal.screen() == ["first", ""]


def test_a_dumb_terminal_gets_plain_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    screen = Screen.of(terminal)
    screen.show(VIEW)
    assert terminal.getvalue() == ""


def test_an_output_without_box_characters_gets_ascii(terminal: Terminal) -> None:
    terminal.encoding = "ascii"  # type: ignore[misc]
    screen = Screen.of(terminal)
    screen.show(VIEW)
    assert terminal.getvalue().isascii()
    assert os.environ["TERM"] == "xterm"
