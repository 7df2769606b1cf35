"""The fixtures that other tests rely on: a damaged database fails its test, and nothing of the machine is seen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mynosql
from tests.conftest import open_checked

RECORDS = 500


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed database with sealed records."""
    with mynosql.opendb("Test", location=tmp_path) as db:
        db.savedocs([{"id": number, "text": f"record {number}"} for number in range(RECORDS)])
    return tmp_path


def finish(checked: Iterator[Callable[..., Any]]) -> None:
    """What pytest does with the fixture after the test."""
    with pytest.raises(StopIteration):
        next(checked)


def flip_a_byte_of_a_shard(folder: Path) -> None:
    (shard,) = [path for path in (folder / "Test").rglob("*") if path.is_file() and "shard" in str(path).lower()]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(data)


@pytest.mark.parametrize("closes", [False, True], ids=["left open", "closed by the test"])
def test_a_damaged_database_fails_its_test(folder: Path, closes: bool) -> None:
    flip_a_byte_of_a_shard(folder)
    checked = open_checked(folder)
    db = next(checked)("Test", location=folder)
    if closes:
        db.closedb()

    with pytest.raises(AssertionError, match=r"checkdb\(\) of Test"):
        next(checked)
    with pytest.raises(mynosql.NotOpen):
        len(db)


def test_an_intact_database_passes_and_is_closed(folder: Path) -> None:
    checked = open_checked(folder)
    db = next(checked)("Test", location=folder)
    assert len(db) == RECORDS

    finish(checked)

    with pytest.raises(mynosql.NotOpen):
        len(db)


def test_each_database_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    checked = open_checked(tmp_path)
    make_db = next(checked)
    first, second = make_db(), make_db()
    first.savedoc({"id": 1})

    assert 1 not in second
    assert {path.name for path in tmp_path.iterdir()} == {"node1", "node2"}
    finish(checked)


def test_every_database_is_closed_although_another_one_fails(folder: Path, tmp_path: Path) -> None:
    flip_a_byte_of_a_shard(folder)
    checked = open_checked(tmp_path)
    make_db = next(checked)
    databases = [make_db("Other"), make_db("Test", location=folder), make_db("Other")]

    with pytest.raises(AssertionError, match=r"checkdb\(\) of Test"):
        next(checked)
    for db in databases:
        with pytest.raises(mynosql.NotOpen):
            len(db)


def test_no_test_sees_a_secret_or_a_home_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert "MYNOSQL_SECRET" not in os.environ
    assert Path(os.environ["MYNOSQL_HOME"]).parent == tmp_path_factory.getbasetemp()
