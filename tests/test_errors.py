"""The tree of errors: what a program may catch, and what it finds on it."""

from __future__ import annotations

import inspect

import pytest

import mynosql
from mynosql import errors

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_error_is_a_mynosql_error_that_the_package_exports(cls: type[Exception]) -> None:
    assert issubclass(cls, mynosql.MyNoSQLError)
    assert getattr(mynosql, cls.__name__) is cls
    assert cls.__doc__


def test_errors_that_python_knows_are_caught_as_such_too() -> None:
    assert issubclass(mynosql.RecordNotFound, KeyError)
    assert issubclass(mynosql.RecordInvalid, ValueError)
    assert issubclass(mynosql.OptionInvalid, ValueError)


def test_a_record_not_found_reads_as_a_sentence() -> None:
    error = mynosql.RecordNotFound("no record 'a' exists", id="a")
    assert (str(error), error.id) == ("no record 'a' exists", "a")


def test_a_corrupt_file_names_itself_and_the_byte() -> None:
    assert str(mynosql.StorageCorrupt("shard-1", 7, "bad")) == "shard-1 at byte 7: bad"
    assert str(mynosql.StorageCorrupt("shard-1", None, "bad")) == "shard-1: bad"


def test_what_a_program_acts_on_is_an_attribute() -> None:
    conflict = mynosql.RevisionConflict("x", id="a", given="1-0", latest="2-0", position=3)
    assert (conflict.id, conflict.given, conflict.latest, conflict.position) == ("a", "1-0", "2-0", 3)
    invalid = mynosql.RecordInvalid("x", path="a[1]", position=2)
    assert (invalid.path, invalid.position) == ("a[1]", 2)
    assert mynosql.DatabaseLocked("x", pid=5).pid == 5
    assert mynosql.RecordUnavailable("x", id=1).id == 1
