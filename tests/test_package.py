"""What a stranger gets: a whole wheel, both import names, and a README whose test command is the one that CI runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout without asking any index."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def run_from_wheel(wheel: Path, folder: Path, script: str) -> str:
    """Run a script in a fresh interpreter that finds the wheel's files before anything else."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_wheel_holds_every_module_and_nothing_of_the_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}

    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mynosql").rglob("*.py")}
    assert packed == modules | {"mynosql/py.typed", "MyNoSQL.py"}


def test_the_wheel_carries_the_licence_and_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition(".dist-info/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
        metadata = archive.read(names["METADATA"]).decode()
        entry_points = archive.read(names["entry_points.txt"]).decode()

    assert "License-Expression: MIT" in metadata
    assert "licenses/LICENSE" in names
    assert "mynosql = mynosql.cli.main:main" in entry_points
    required = re.findall(r"^Requires-Dist: ([a-z0-9]+)(?!.*extra)", metadata, re.MULTILINE)
    assert sorted(required) == ["lz4", "msgpack", "pyzmq"]


def test_both_import_names_work_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    script = (
        "import MyNoSQL, mynosql, os\n"
        "assert os.path.dirname(MyNoSQL.__file__) == os.getcwd(), MyNoSQL.__file__\n"
        "assert os.path.dirname(os.path.dirname(mynosql.__file__)) == os.getcwd(), mynosql.__file__\n"
        "missing = [name for name in mynosql.__all__ if getattr(MyNoSQL, name) is not getattr(mynosql, name)]\n"
        "print(missing, type(MyNoSQL.MyNoSQL()) is mynosql.MyNoSQL)\n"
    )
    assert run_from_wheel(wheel, tmp_path, script) == "[] True"


def test_the_version_of_the_module_is_the_version_of_the_package(wheel: Path, tmp_path: Path) -> None:
    version = run_from_wheel(wheel, tmp_path, "import mynosql; print(mynosql.__version__)")

    assert f"mynosql-{version}-" in wheel.name


def test_ci_runs_the_test_command_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]

    assert "/pytest" in command
    assert command in readme.splitlines()


def test_tox_runs_every_python_version_that_the_package_claims() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    claimed = re.findall(r"Programming Language :: Python :: (3\.\d+)", pyproject)
    environments = re.search(r"^envlist = (.*)$", (ROOT / "tox.ini").read_text(encoding="utf-8"), re.MULTILINE)

    assert environments is not None
    assert environments[1].split(", ") == ["lint", *("py" + version.replace(".", "") for version in claimed)]
