"""The checkers are tests: a tree that mypy --strict or ruff refuses is red for everyone, with what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("checker", [("ruff", "check", "."), ("mypy",)], ids=["ruff", "mypy"])
def test_the_tree_is_clean(checker: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-m", *checker], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, f"{' '.join(checker)} says:\n{done.stdout}{done.stderr}"
