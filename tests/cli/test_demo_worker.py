"""One node of the demo: remembers what savedoc acknowledged, apart from the database, and tells what it is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mynosql.cli.demo_worker import Node, fingerprint
from tests.cli.running import DEADLINE_S, environment


def test_a_fingerprint_is_of_the_values_not_of_the_rev() -> None:
    rec = {"id": "a", "load": 0.5, "rev": "1-x"}
    assert fingerprint(rec) == fingerprint({"load": 0.5, "rev": "2-y", "id": "a"})
    assert fingerprint(rec)[0] != fingerprint({**rec, "load": 0.6})[0]
    assert fingerprint(rec)[1] == len('{"id": "a", "load": 0.5}')


def test_what_was_saved_is_remembered_outside_the_database(db: Any, tmp_path: Path) -> None:
    node = Node(db, str(tmp_path))
    for _ in range(3):
        node._write()
    assert node._all({"timeout_s": 1}) == {id: digest for id, (digest, _) in node._saved.items()}
    changed = db.readdoc("reading/000001")
    db.savedoc({**changed, "at": 0})
    differing = {id for id, digest in node._all({"timeout_s": 1}).items() if digest != node._saved[id][0]}
    assert differing == {"reading/000001"}


def test_a_read_that_cannot_succeed_is_told_by_the_name_of_its_error(db: Any, tmp_path: Path) -> None:
    node = Node(db, str(tmp_path))
    db.savedoc({"id": "there"})
    assert (node._try({"id": "none"}), node._try({"id": "there"})) == ("RecordNotFound", "")


def talk(folder: Path, *commands: dict[str, Any]) -> list[dict[str, Any]]:
    """What a worker says to these commands; its stdin ends after them."""
    setup = json.dumps({"role": "logger", "folder": str(folder), "options": {}})
    done = subprocess.run(
        [sys.executable, "-m", "mynosql.cli.demo_worker", setup], capture_output=True, text=True, env=environment(),
        input="".join(json.dumps(command) + "\n" for command in commands), timeout=DEADLINE_S, check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_the_process_answers_in_order_and_ends_with_its_stdin(tmp_path: Path) -> None:
    said = talk(tmp_path, {"ask": 1, "do": "ids"}, {"ask": 2, "do": "check"})
    assert said[0] == {"open": None, "records": 0}
    assert [(line["answer"], line["result"]) for line in said if "answer" in line] == [(1, []), (2, True)]
