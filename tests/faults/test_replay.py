"""A small process recorded and replayed: the model agrees with the disk, and a mistake in the order is caught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import replay as module
from tests.faults.disk_model import Disk
from tests.faults.opened_state import WrongRecord, hold_of_face, hold_of_store, lay_out
from tests.faults.promises import Held
from tests.faults.recording import Recording, check_against, record
from tests.faults.replay import Replay, ReplayOptions
from tests.faults.storage_calls import NotModelled
from tests.faults.write_paths import PATHS

SCRIPT = PATHS["save each"].partition("node.save")[0] + "node.save(*ids[:3])\nnode.close()\n"
FEW = ReplayOptions(random_per_boundary=0, singles_max=0, torn_per_write=1, face_every=0)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record("small", SCRIPT, tmp_path_factory.mktemp("recorded"))


def test_a_sound_process_has_no_findings_and_states_are_opened_once(recording: Recording, tmp_path: Path) -> None:
    replay = Replay(recording, "A", tmp_path / "state", replace(FEW, face_every=50))
    report = replay.run()
    assert report.findings == []
    assert report.judged > report.states > 100
    assert report.faces > 0
    again = replay.run()
    assert (again.states, again.judged, again.findings) == (0, report.judged, [])


def test_a_promise_before_its_fsync_is_caught(recording: Recording, tmp_path: Path) -> None:
    journal = [sync for sync in recording.syncs if "journal" in sync.path]
    found = Replay(recording, "A", tmp_path / "state", FEW).run_without(journal).findings
    assert [finding.variant for finding in found] == ["all dropped"], "the first is enough"
    assert found[0].what == "id000: nothing is left of version 1, which was promised"


def test_a_record_that_is_not_as_it_was_saved_is_caught(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.faults.opened_state.text_of", lambda id, version, length: "another")
    report = Replay(recording, "A", tmp_path / "state", FEW).run()
    assert "WrongRecord: id000: not as it was saved" in report.findings[0].what


def test_a_face_that_finds_something_else_is_caught(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "hold_of_face", lambda place, ids: Held({"id000": 99}, {}))
    report = Replay(recording, "A", tmp_path / "state", replace(FEW, face_every=1)).run()
    assert report.findings[0].what.startswith("the face finds {'id000': 99}, the store {")


def test_a_model_that_differs_from_the_folder_is_an_error(tmp_path: Path) -> None:
    check_against(Disk(), tmp_path)
    (tmp_path / "unseen").write_bytes(b"written by a call that was not modelled")
    with pytest.raises(NotModelled, match="unseen"):
        check_against(Disk(), tmp_path)


def test_a_script_that_fails_is_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"(?s)broken: the recorded process failed.*ZeroDivisionError"):
        record("broken", "1 / 0", tmp_path)


def test_a_folder_is_opened_by_the_store_and_by_the_face(recording: Recording, tmp_path: Path) -> None:
    disk = Disk()
    for event in recording.events:
        if event.kind != "mark":
            event.apply(disk)
    replay = Replay(recording, "A", tmp_path / "state", FEW)
    entries, _ = replay._entries(disk, disk.all_kept(list(disk.nodes)))
    expected = {f"id{number:03}": number + 1 for number in range(3)}
    assert hold_of_store(lay_out(tmp_path / "laid", entries), [*expected, "none"]).versions == expected
    assert hold_of_face(tmp_path / "laid", [*expected, "none"]).versions == expected
    with pytest.raises(WrongRecord, match="2 records are held, the counter says 4"):
        hold_of_store(tmp_path / "laid" / "Test", ["id000", "id001"])
