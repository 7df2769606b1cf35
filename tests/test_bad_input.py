"""Bad input and a bad world: each a named error that says what to do, and nothing lost or half-done."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mynosql
from tests.faults.processes import PythonChild
from tests.faults.small_disk import fill, small_disk
from tests.mesh import wait_connected
from tests.waiting import wait_until

LOOPBACK = "127.0.0.1:0"


class Surface:
    """A class that nobody registered."""


# Values, ids and revs


@pytest.mark.parametrize(
    ("rec", "path"),
    [
        ({"id": "a", "sprite": Surface()}, "sprite"),
        ({"id": "a", "players": [{}, {}, {}, {"sprite": Surface()}]}, "players[3].sprite"),
        ({"id": "a", "when": lambda: None}, "when"),
        ({"id": "a", "kind": True, "of": {(1, Surface()): 1}}, "of"),
    ],
)
def test_a_value_that_cannot_be_stored_is_refused_with_its_path(db: Any, rec: Any, path: str) -> None:
    with pytest.raises(mynosql.RecordInvalid) as refused:
        db.savedoc(rec)
    assert refused.value.path.startswith(path)
    assert "Surface" in str(refused.value) or "function" in str(refused.value)
    assert len(db) == 0
    assert list(db.changes()) == []


@pytest.mark.parametrize(
    "id", [["a", "list"], {"a": 1}, Surface(), "x" * 5000, float], ids=["list", "dict", "object", "long", "type"]
)
def test_an_id_that_cannot_be_stored_is_refused(db: Any, id: Any) -> None:
    with pytest.raises(mynosql.RecordInvalid):
        db.savedoc({"id": id, "n": 1})
    assert len(db) == 0


def test_a_batch_with_one_bad_record_saves_nothing_and_names_its_position(db: Any) -> None:
    with pytest.raises(mynosql.RecordInvalid) as refused:
        db.savedocs([{"id": "a"}, {"id": "b"}, {"id": "c", "x": Surface()}])
    assert refused.value.position == 2
    assert "record 2" in str(refused.value)
    assert len(db) == 0


def test_a_batch_with_one_conflict_saves_nothing_and_names_its_position(db: Any) -> None:
    db.savedoc({"id": "b", "n": 1})
    with pytest.raises(mynosql.RevisionConflict) as refused:
        db.savedocs([{"id": "a"}, {"id": "b", "n": 2}])
    assert refused.value.position == 1
    assert db.listdocs() == ["b"]


@pytest.mark.parametrize("rev", ["", "nonsense", "1-", "1-xyz", "0-" + "0" * 32, "1-" + "A" * 32, 7, b"1-00"])
def test_a_malformed_rev_of_a_known_id_saves_nothing(db: Any, rev: Any) -> None:
    saved = db.savedoc({"id": "a", "n": 1})
    with pytest.raises((mynosql.RevisionConflict, mynosql.RecordInvalid)):
        db.savedoc({"id": "a", "rev": rev, "n": 2})
    assert db.readdoc("a") == saved


@pytest.mark.parametrize("generation", [1, 2, 3, 2**31])
def test_a_forged_rev_of_a_known_id_saves_nothing(db: Any, generation: int) -> None:
    saved = db.savedoc({**db.savedoc({"id": "a", "n": 1}), "n": 2})
    with pytest.raises(mynosql.RevisionConflict) as refused:
        db.savedoc({"id": "a", "rev": f"{generation}-{'12' * 16}", "n": 3})
    assert refused.value.latest == saved["rev"]
    assert db.readdoc("a") == saved


def test_a_record_that_is_no_dict_is_refused(db: Any) -> None:
    for rec in (None, [], "text", 7, {1, 2}):
        with pytest.raises(mynosql.RecordInvalid):
            db.savedoc(rec)


def test_bad_options_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    for name, options in (
        ("../outside", {}), ("", {}), ("a/b", {}), ("X", {"mode": "master"}), ("X", {"durability": "none"}),
        ("X", {"colour": "red"}), ("X", {"fsync_interval_s": -1}),
    ):
        with pytest.raises(mynosql.OptionInvalid):
            mynosql.opendb(name, location=tmp_path / "never", **options)
    assert not (tmp_path / "never").exists()


# The folder


def test_a_folder_without_write_permission_is_a_clear_error(tmp_path: Path) -> None:
    if os.geteuid() == 0:  # root may write anywhere: a file in the way is the nearest thing
        blocked = tmp_path / "file"
        blocked.write_text("in the way")
    else:
        blocked = tmp_path / "closed"
        blocked.mkdir(mode=0o500)
    with pytest.raises(mynosql.StorageFailed, match=str(blocked)):
        mynosql.opendb("Test", location=blocked)


def test_a_folder_of_a_newer_format_is_refused_and_untouched(tmp_path: Path) -> None:
    with mynosql.opendb("Test", location=tmp_path) as db:
        db.savedoc({"id": "a"})
    folder = tmp_path / "Test"
    (folder / "format").write_text("MyNoSQL database, format 99\n")
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    with pytest.raises(mynosql.FormatUnknown, match="99"):
        mynosql.opendb("Test", location=tmp_path)
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before


def test_a_second_process_on_the_folder_is_refused_and_named(db: Any, tmp_path: Path) -> None:
    script = """
    import sys, mynosql
    try:
        mynosql.opendb("Test", location=sys.argv[1])
    except mynosql.DatabaseLocked as error:
        emit([str(error), error.pid])
    """
    import textwrap

    with PythonChild(textwrap.dedent(script), db.location) as child:
        text, pid = child.read(30)
    assert pid == os.getpid()
    assert str(os.getpid()) in text


def test_the_same_folder_twice_in_one_process_is_refused(db: Any) -> None:
    with pytest.raises(mynosql.DatabaseLocked):
        mynosql.opendb("Test", location=db.location)


def test_a_full_disk_refuses_saves_keeps_reading_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_bytes=4 << 20) as disk, mynosql.opendb("Test", location=disk) as db:
        saved = {rec["id"]: rec for rec in (db.savedoc({"id": n, "text": os.urandom(500).hex()}) for n in range(100))}
        filler = fill(disk)

        def save_until_full() -> None:
            for n in range(100, 10_000):
                rec = db.savedoc({"id": n, "text": os.urandom(500).hex()})
                saved[rec["id"]] = rec

        with pytest.raises(mynosql.StorageFull, match="space"):
            save_until_full()
        assert {id: db.readdoc(id) for id in db} == saved
        filler.unlink()
        rec = wait_until(lambda: try_save(db, {"id": "after", "n": 1}), 20, "saving works again")
        saved["after"] = rec
        assert {id: db.readdoc(id) for id in db} == saved
        assert db.checkdb().ok
        location = db.location
        db.closedb()
        with mynosql.opendb("Test", location=location) as db:
            assert {id: db.readdoc(id) for id in db} == saved


def try_save(db: mynosql.MyNoSQL, rec: dict[str, Any]) -> Any:
    try:
        return db.savedoc(rec)
    except mynosql.StorageFull:
        return None


# Damage


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, dict[Any, Any]]:
    """A closed database of three segments, and what it holds."""
    saved: dict[Any, Any] = {}
    for part in range(3):
        with mynosql.opendb("Test", location=tmp_path) as db:
            for n in range(200):
                rec = db.savedoc({"id": f"part{part}/{n:04}", "text": f"{part} {n} " * 30})
                saved[rec["id"]] = rec
    return tmp_path, saved


def the_file(folder: Path, start: str) -> Path:
    (found,) = [path for path in (folder / "Test").iterdir() if path.name.startswith(start)]
    return found


def readable(db: mynosql.MyNoSQL, saved: dict[Any, Any]) -> int:
    """How many records come back as they were; every other one must be a named error, never a wrong value."""
    count = 0
    for id, rec in saved.items():
        try:
            assert db.readdoc(id, timeout=0) == rec
        except (mynosql.StorageCorrupt, mynosql.RecordUnavailable, mynosql.RecordNotFound):
            continue
        count += 1
    return count


def test_a_flipped_bit_in_a_shard_costs_its_block_only_and_checkdb_finds_it(damaged: Any) -> None:
    folder, saved = damaged
    shard = the_file(folder, "shard")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0x10
    shard.write_bytes(data)
    with mynosql.opendb("Test", location=folder) as db:
        report = db.checkdb()
        assert not report.ok
        assert any("shard" in problem.file for problem in report.problems)
        assert len(saved) // 2 <= readable(db, saved) < len(saved)
        new = db.savedoc({"id": "new", "n": 1})
        assert db.readdoc("new") == new


def test_a_truncated_shard_leaves_the_rest_readable(damaged: Any) -> None:
    folder, saved = damaged
    shard = the_file(folder, "shard")
    os.truncate(shard, shard.stat().st_size * 2 // 3)
    with mynosql.opendb("Test", location=folder) as db:
        assert not db.checkdb().ok
        assert 0 < readable(db, saved) < len(saved)


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_index_is_rebuilt_from_the_shards_and_loses_nothing(damaged: Any, damage: str) -> None:
    folder, saved = damaged
    index = the_file(folder, "index")
    data = bytearray(index.read_bytes())
    if damage == "truncate":
        del data[len(data) // 2 :]
    else:
        for at in range(4096, len(data), 512):
            data[at] ^= 0xFF
    index.write_bytes(data)
    with mynosql.opendb("Test", location=folder) as db:
        assert readable(db, saved) == len(saved)
        assert db.checkdb().ok


CRASHED = """
import sys, mynosql
db = mynosql.opendb("Test", location=sys.argv[1])
for n in range(300):
    db.savedoc({"id": n, "text": str(n) * 40})
emit("saved")
wait_for_kill()
"""


@pytest.mark.parametrize("damage", ["flip", "scramble", "truncate"])
def test_a_damaged_journal_keeps_the_rest_and_says_so(tmp_path: Path, damage: str) -> None:
    with PythonChild(CRASHED, str(tmp_path)) as child:
        assert child.read(30) == "saved"
        child.kill()
    journal = the_file(tmp_path, "journal")
    data = bytearray(journal.read_bytes())
    if damage == "truncate":
        del data[-100:]
    else:
        data[len(data) // 2] ^= 0x20 if damage == "flip" else 0x55
    journal.write_bytes(data)
    with mynosql.opendb("Test", location=tmp_path) as db:
        kept = sum(1 for n in range(300) if n in db and db.readdoc(n)["text"] == str(n) * 40)
        assert kept == 300 if damage == "flip" else 290 <= kept < 300
        assert len(db) == kept
        assert db.savedoc({"id": "new"})["rev"].startswith("1-")


# The network


def test_a_port_in_use_names_its_owner(make_db: Callable[..., Any]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(mynosql.ListenFailed, match=f"{port}") as refused:
            make_db(mode="mirror", listen=f"127.0.0.1:{port}")
    if sys.platform.startswith("linux"):
        assert str(os.getpid()) in str(refused.value)


def test_a_host_that_is_not_loopback_needs_a_secret_and_is_refused_at_once(db: Any) -> None:
    for url in ("http://192.0.2.7:8800", "http://mirror.invalid:8800", "tcp://[2001:db8::1]:8800"):
        with pytest.raises(mynosql.AddressInvalid, match="keygen"):
            db.addpeer(url)
    assert db.listpeers() == []


@pytest.mark.parametrize("url", ["", "http://", "ftp://localhost:1", "http://localhost:99999", "localhost:x", None, 7])
def test_a_malformed_address_is_refused(db: Any, url: Any) -> None:
    with pytest.raises(mynosql.AddressInvalid):
        db.addpeer(url)


def test_a_host_that_does_not_resolve_blocks_nobody_and_is_shown(make_db: Callable[..., Any]) -> None:
    db = make_db(insecure=True)
    db.addpeer("http://nowhere.invalid:8800")
    saved = db.savedoc({"id": "a"})
    assert db.readdoc("a") == saved
    with pytest.raises(mynosql.RecordUnavailable):
        db.readdoc("b", timeout=0.2)
    assert db.waitsync(timeout=0.1) is False
    assert db.pendingdocs() == ["a"]


def test_a_mirror_of_another_name_is_refused_and_shown(make_db: Callable[..., Any]) -> None:
    mirror = make_db("Weather", mode="mirror", listen=LOOPBACK)
    peer = make_db("Music", peers=[mirror.endpoint])
    peer.savedoc({"id": "song"})
    wait_until(lambda: "Weather" in str(peer.syncstatus().last_error), 20, lambda: str(peer.syncstatus()))
    assert "Refused" in str(peer.syncstatus().last_error)
    assert len(mirror) == 0
    assert peer.pendingdocs() == ["song"]


def test_another_database_of_the_same_name_is_refused_unless_merged(make_db: Callable[..., Any]) -> None:
    one = make_db("Weather", mode="mirror", listen=LOOPBACK)
    other = make_db("Weather", mode="mirror", listen=LOOPBACK)
    peer = make_db("Weather", peers=[one.endpoint])
    one.savedoc({"id": "of one"})
    other.savedoc({"id": "of other"})
    helper = make_db("Weather", peers=[other.endpoint])
    wait_connected(peer, helper)
    peer.delpeer(one.endpoint)
    peer.addpeer(other.endpoint)
    wait_until(lambda: "Refused" in str(peer.syncstatus().last_error), 20, lambda: str(peer.syncstatus()))
    assert "of other" not in peer
    peer.addpeer(other.endpoint, merge=True)
    wait_until(lambda: "of other" in peer, 20, lambda: f"the merged index: {peer.syncstatus()}")


def test_garbage_on_both_ports_changes_nothing(make_db: Callable[..., Any]) -> None:
    mirror = make_db(mode="mirror", listen=LOOPBACK)
    peer = make_db(peers=[mirror.endpoint])
    wait_connected(peer)
    port = int(mirror.endpoint.rsplit(":", 1)[1])
    for target in (port, port + 1):
        for rubbish in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(999), b"\xff" + bytes(8) + b"\x7f" + os.urandom(100_000)):
            with socket.create_connection(("127.0.0.1", target)) as attacker:
                attacker.sendall(rubbish)
    saved = peer.savedoc({"id": "a", "n": 1})
    assert peer.waitsync(20)
    assert mirror.readdoc("a") == saved


def test_a_wrong_secret_is_refused_both_ways_and_named(make_db: Callable[..., Any]) -> None:
    from mynosql.net.security import keygen

    mirror = make_db(mode="mirror", listen=LOOPBACK, secret=keygen())
    stranger = make_db(peers=[mirror.endpoint], secret=keygen())
    stranger.savedoc({"id": "a"})
    wait_until(lambda: "secret" in str(stranger.syncstatus().last_error), 30, lambda: str(stranger.syncstatus()))
    assert len(mirror) == 0
    plain = make_db(peers=[mirror.endpoint])
    plain.savedoc({"id": "b"})
    wait_until(lambda: plain.syncstatus().last_error is not None, 30, lambda: str(plain.syncstatus()))
    assert len(mirror) == 0


def test_with_the_right_secret_everything_works_encrypted(make_db: Callable[..., Any]) -> None:
    from mynosql.net.security import keygen

    secret = keygen()
    mirror = make_db(mode="mirror", listen=LOOPBACK, secret=secret)
    peer = make_db(peers=[mirror.endpoint], secret=secret)
    wait_connected(peer)
    saved = peer.savedoc({"id": "a", "n": 1})
    assert peer.waitsync(20)
    assert mirror.readdoc("a") == saved
    changed = mirror.savedoc({**saved, "n": 2})
    wait_until(lambda: peer.docinfo("a").rev == changed["rev"], 20, "the change came by PUB")
    assert peer.readdoc("a") == changed


# Life


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_after_open_is_refused_in_the_child_and_harmless_in_the_parent(db: Any) -> None:
    db.savedoc({"id": "a"})
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            db.savedoc({"id": "b"})
        except mynosql.ForkError:
            db.closedb()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert db.listdocs() == ["a"]
    db.savedoc({"id": "c"})


def test_closedb_twice_is_nothing_and_use_after_close_is_named(make_db: Callable[..., Any]) -> None:
    db = make_db()
    db.savedoc({"id": "a"})
    db.closedb()
    db.closedb()
    for call in (
        lambda: db.savedoc({"id": "b"}), lambda: db.readdoc("a"), lambda: len(db), lambda: db.listdocs(),
        lambda: db.syncstatus(), lambda: db["a"], lambda: db.addpeer("http://localhost:8800"), lambda: db.getdbmode(),
    ):
        with pytest.raises(mynosql.NotOpen, match="opendb"):
            call()


