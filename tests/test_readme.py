"""The README is true: its Python runs and prints what it says, its commands too, and what it names exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import mynosql
from mynosql.views import State

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFLICTS = (ROOT / "docs" / "CONFLICTS.md").read_text(encoding="utf-8")
DEADLINE_S = 60.0
MAIN_JOB = "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/mynosql demo"


@dataclass(frozen=True)
class Block:
    """One fenced block: its language and its text."""

    language: str
    text: str


def blocks_of(page: str) -> list[Block]:
    return [Block(language, text) for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", page, re.M | re.S)]


BLOCKS = blocks_of(README)


def environment(folder: Path) -> dict[str, str]:
    """The command `mynosql` is the one of this tree."""
    shims = folder / "bin"
    shims.mkdir()
    shim = shims / "mynosql"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mynosql "$@"\n')
    shim.chmod(0o755)
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{shims}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize(("blocks", "expected"), [(BLOCKS, 2), (blocks_of(CONFLICTS), 1)], ids=["README", "CONFLICTS"])
def test_the_python_blocks_run_one_after_another_and_print_what_stands_below_them(
    tmp_path: Path, blocks: list[Block], expected: int
) -> None:
    names = environment(tmp_path)
    ran = 0
    for block, following in zip(blocks, [*blocks[1:], Block("", "")], strict=True):
        if block.language != "python":
            continue
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", block.text], cwd=tmp_path, env=names, capture_output=True, text=True,
            timeout=DEADLINE_S, check=False,
        )
        assert done.returncode == 0, f"{block.text}\n{done.stderr}"
        assert following.language == "text", "each Python block is followed by what it prints"
        assert done.stdout == following.text
        ran += 1
    assert ran >= expected


def test_the_console_blocks_print_what_stands_below_each_command(tmp_path: Path) -> None:
    names = environment(tmp_path)
    commands = 0
    for block in BLOCKS:
        if block.language != "console":
            continue
        for line, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.M):
            done = subprocess.run(
                line, shell=True, cwd=tmp_path, env=names, capture_output=True, text=True, timeout=DEADLINE_S,
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            pattern = ".*".join(map(re.escape, expected.split("…")))
            assert re.fullmatch(pattern, done.stdout), f"{line}\n{done.stdout}"
            commands += 1
    assert commands >= 3


def test_the_main_job_is_one_command_that_needs_no_other_tool() -> None:
    assert MAIN_JOB in README.splitlines()


def test_the_table_of_states_names_every_state() -> None:
    table = set(re.findall(r"^\| `(\w+)` \|", README, re.M))
    assert table == set(State.__args__)  # type: ignore[attr-defined]


def test_what_the_readme_calls_exists() -> None:
    called = set(re.findall(r"\b(?:db|laptop|mynosql|MyNoSQL)\.(\w+)", "\n".join(block.text for block in BLOCKS)))
    known = set(dir(mynosql.MyNoSQL)) | set(dir(mynosql))
    assert called - known - {"py"} == set()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_what_the_readme_links_to_exists(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_demo_is_shown_with_output_of_the_demo() -> None:
    shown = next(block.text for block in BLOCKS if "converged: all" in block.text)
    for figure in ("written by the logger", "queued while cut", "lost  ", "bytes on the wire", "bytes on disk"):
        assert figure in shown
    assert "NOT converged" not in shown
