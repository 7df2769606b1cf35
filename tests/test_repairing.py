"""repair: whatever hits a folder, all that still reads is in the new one, right, and what does not is listed."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import mynosql
from mynosql import DatabaseLocked, OptionInvalid, RecordNotFound

COUNT = 900


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed database of several blocks with old revisions, a deletion and a large record, and one killed with a
    journal."""
    location = tmp_path_factory.mktemp("sound")
    with mynosql.opendb("Test", location=location, mode="mirror", listen="127.0.0.1:0") as db:
        db.savedocs([{"id": f"r/{n:04}", "text": f"{n} " * 40} for n in range(COUNT)])
        db.savedoc({"id": "large", "bytes": random.Random(1).randbytes(300_000)})
        db.savedoc({"id": "gone"})
        db.deletedoc("gone")
    with mynosql.opendb("Test", location=location, listen="127.0.0.1:0") as db:
        for n in range(100):
            db[f"r/{n:04}"] = {"text": f"newer {n}"}
        killed = location.parent / (location.name + "-open")
        shutil.copytree(location, killed, ignore=shutil.ignore_patterns("*.sock"))
        db["after"] = {}
    return location


def content(location: Path, name: str = "Test") -> dict[Any, Any]:
    with mynosql.opendb(name, location=location, listen="127.0.0.1:0") as db:
        assert db.checkdb().ok
        return {id: db.readdoc(id) for id in db if db.docinfo(id).state in ("fresh", "pending")}


def is_some_revision(id: str, rec: dict[str, Any]) -> bool:
    n = id.removeprefix("r/")
    return not n.isdigit() or rec["text"] in (f"{int(n)} " * 40, f"newer {int(n)}")


@pytest.mark.parametrize("which", ["closed", "open"])
def test_nothing_is_lost_of_a_sound_folder(sound: Path, tmp_path: Path, which: str) -> None:
    location = sound if which == "closed" else sound.parent / (sound.name + "-open")
    told: list[tuple[int, int]] = []
    report = mynosql.repair("Test", tmp_path, location=location, progress=lambda *found: told.append(found))
    assert report.ok, report
    assert (report.folder, report.problems, report.lost) == (str(tmp_path / "Test"), (), ())
    assert told[-1][0] == told[-1][1] >= COUNT
    found = content(tmp_path)
    assert len(found) == report.records == COUNT + 1 + (which == "closed")
    assert found["r/0007"]["text"] == "newer 7"
    assert found["r/0700"]["text"] == "700 " * 40
    assert os.listdir(tmp_path) == ["Test"]


def test_the_mode_and_what_belongs_to_the_mesh_stay_and_the_identity_does_not(sound: Path, tmp_path: Path) -> None:
    mynosql.repair("Test", tmp_path, location=sound)
    listen = {"listen": "127.0.0.1:0"}
    with mynosql.opendb("Test", location=tmp_path, **listen) as new, mynosql.opendb(
        "Test", location=sound, **listen
    ) as old:
        assert new.getdbmode() == old.getdbmode() == "Mirror"
        assert new.syncstatus().node != old.syncstatus().node


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_damage_anywhere_costs_what_it_hits_and_the_rest_is_right(sound: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    base = sound if seed % 2 else sound.parent / (sound.name + "-open")
    shutil.copytree(base, tmp_path / "damaged")
    folder = tmp_path / "damaged" / "Test"
    names = [name for name in sorted(os.listdir(folder)) if (folder / name).stat().st_size > 20 and name != "lock"]
    hit = rng.choice(names)
    data = bytearray((folder / hit).read_bytes())
    kind = rng.choice(["flip", "rubbish", "cut", "missing"])
    at = rng.randrange(len(data))
    if kind == "flip":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "rubbish":
        data[at : at + 500] = rng.randbytes(len(data[at : at + 500]))
    elif kind == "cut":
        del data[at:]
    (folder / hit).write_bytes(data)
    if kind == "missing":
        (folder / hit).unlink()

    report = mynosql.repair("Test", tmp_path / "new", location=tmp_path / "damaged")
    found = content(tmp_path / "new")

    assert all(is_some_revision(id, rec) for id, rec in found.items())
    assert "gone" not in found or not hit.startswith("shard")
    if not hit.startswith(("shard", "journal")):
        assert len(found) >= COUNT + 1, f"{kind} of {hit} costs no record: {report}"
    if kind in ("flip", "rubbish") and hit.startswith("shard"):
        assert len(found) >= COUNT - 300, f"{kind} of {hit} at {at}: {report}"
        assert not report.ok or at < 20


def test_what_cannot_be_repaired_is_told(sound: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordNotFound, match="no folder"):
        mynosql.repair("Other", tmp_path, location=sound)
    (tmp_path / "Test").mkdir()
    (tmp_path / "Test" / "file").write_text("")
    with pytest.raises(OptionInvalid, match="exists already"):
        mynosql.repair("Test", tmp_path, location=sound)
    with mynosql.opendb("Test", location=sound, listen="127.0.0.1:0"), pytest.raises(DatabaseLocked):
        mynosql.repair("Test", tmp_path / "new", location=sound)
    assert not (tmp_path / "new" / "Test").exists()
