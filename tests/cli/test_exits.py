"""Exit codes: every error class has one, and the help names them all."""

from __future__ import annotations

import pytest

import mynosql
from mynosql.cli import exits
from mynosql.cli.main import main


def test_help_names_every_exit_code_and_every_tag(capsys: pytest.CaptureFixture[str]) -> None:
    from mynosql import jsonform

    assert main(["--help"]) == exits.OK
    text = capsys.readouterr().out
    for code in (value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)):
        assert f"  {int(code)} " in text
    assert not [tag for tag in jsonform.TAGS if tag != "$repr" and f'"{tag}"' not in text]


def test_every_error_class_has_an_exit_code() -> None:
    public = [value for value in vars(mynosql).values() if isinstance(value, type)]
    kinds = [kind for kind in public if issubclass(kind, mynosql.MyNoSQLError)]
    assert len(kinds) > 15
    for kind in kinds:
        assert exits.code_of(kind.__new__(kind)) in range(1, 6)
