"""More than one mirror: acks and the levels of waitsync, and a mirror that is lost for ever after it acknowledged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mynosql
from mynosql.net.ports import find_free_pair
from tests.faults.processes import PythonChild
from tests.mesh import SETTLE_DEADLINE_S, is_connected, wait_connected
from tests.waiting import wait_until

MIRROR = """
import sys, mynosql
location, listen, *peers = sys.argv[1:]
db = mynosql.opendb("Test", location=location, mode="mirror", listen=listen, peers=peers)
emit({"endpoint": db.endpoint})
while True:
    asked = receive()
    emit({"found": {id: db.readdoc(id)["n"] for id in db if asked == "all"}, "missing": db.syncstatus().missing})
"""


def test_a_record_that_one_mirror_has_is_pending_while_two_are_asked_for(
    make_db: Callable[..., Any], tmp_path: Path
) -> None:
    one = make_db(mode="mirror", listen="127.0.0.1:0")
    listen = f"127.0.0.1:{find_free_pair()}"
    other = make_db(mode="mirror", listen=listen, peers=[one.endpoint], location=tmp_path / "other")
    peer = make_db(peers=[one.endpoint], acks=2, location=tmp_path / "peer")
    wait_connected(peer)
    peer.savedoc({"id": "both", "n": 1})
    assert peer.waitsync(SETTLE_DEADLINE_S, level="mirrors")
    assert other.readdoc("both")["n"] == one.readdoc("both")["n"] == 1
    assert peer.pendingdocs() == []

    other.closedb()
    peer.savedoc({"id": "one", "n": 1})
    assert peer.waitsync(SETTLE_DEADLINE_S, level="sent")
    assert peer.waitsync(SETTLE_DEADLINE_S, level="mirror")
    assert one.readdoc("one")["n"] == 1
    assert not peer.waitsync(0.3, level="mirrors")
    assert peer.pendingdocs() == ["one"]
    assert peer.docinfo("one").state == "pending"
    assert peer.syncstatus().pending == 1

    peer.closedb()
    again = make_db(location=tmp_path / "peer")
    assert again.pendingdocs() == ["one"], "acks is remembered"
    make_db(mode="mirror", listen=listen, location=tmp_path / "other")
    assert again.waitsync(SETTLE_DEADLINE_S, level="mirrors")
    assert again.pendingdocs() == []


def test_the_levels_say_what_they_need(make_db: Callable[..., Any]) -> None:
    alone = make_db(mode="mirror", listen="127.0.0.1:0")
    alone.savedoc({"id": "a"})
    assert alone.waitsync(level="mirror")
    assert alone.waitsync(level="sent")
    for level in ("mirrors", "everywhere"):
        with pytest.raises(mynosql.OptionInvalid, match="acks=2" if level == "mirrors" else "'sent'"):
            alone.waitsync(1.0, level=level)

    careful = make_db(mode="mirror", listen="127.0.0.1:0", acks=2)
    careful.savedoc({"id": "a"})
    assert careful.waitsync(level="mirror"), "a mirror that knows of no other"
    assert not careful.waitsync(0.05, level="mirrors")
    with pytest.raises(mynosql.OptionInvalid, match="no mirror is known"):
        careful.waitsync(level="mirrors")


def test_sent_is_not_taken_for_granted(make_db: Callable[..., Any]) -> None:
    peer = make_db(peers=["127.0.0.1:1"])
    assert peer.waitsync(1.0, level="sent"), "nothing was saved"
    peer.savedoc({"id": "a"})

    assert not peer.waitsync(0.2, level="sent")


@pytest.mark.slow
@pytest.mark.parametrize("is_met_before", [True, False], ids=["met before", "never met"])
def test_a_mirror_lost_for_ever_after_its_acknowledgement_is_made_up_for_by_its_peer(
    make_db: Callable[..., Any], tmp_path: Path, is_met_before: bool
) -> None:
    """It acknowledges 300 records, told no other mirror, is killed, and its folder is gone."""
    lost_folder, peer_folder = tmp_path / "lost", tmp_path / "peer"
    listen = f"127.0.0.1:{find_free_pair()}"
    with PythonChild(MIRROR, str(lost_folder), listen) as lost, PythonChild(
        MIRROR, str(tmp_path / "kept"), "127.0.0.1:0"
    ) as kept:
        endpoints = [child.read_until("endpoint")["endpoint"] for child in (lost, kept)]
        if is_met_before:
            lost.kill()
        with mynosql.opendb("Test", location=peer_folder, peers=endpoints) as peer:
            wait_connected(peer)
            peer.savedoc({"id": "early", "n": -1})
            assert peer.waitsync(SETTLE_DEADLINE_S)
        if is_met_before:
            lost = PythonChild(MIRROR, str(lost_folder), listen, endpoints[1])
            lost.read_until("endpoint")
        with lost:
            _lose_it(lost, kept, endpoints, peer_folder, lost_folder)


def _lose_it(lost: PythonChild, kept: PythonChild, endpoints: list[str], folder: Path, lost_folder: Path) -> None:
    expected = {str(number): number for number in range(300)} | {"early": -1}
    with mynosql.opendb("Test", location=folder) as peer:
        wait_until(lambda: is_connected(peer) and peer.syncstatus().mirror == endpoints[0], SETTLE_DEADLINE_S)
        kept.suspend()
        peer.savedocs({"id": str(number), "n": number} for number in range(300))
        assert peer.waitsync(SETTLE_DEADLINE_S)
        assert peer.pendingdocs() == []
        lost.kill()
        shutil.rmtree(lost_folder)
        kept.resume()

        def found() -> Any:
            kept.send("all")
            return kept.read_until("found")

        wait_until(lambda: found() == {"found": expected, "missing": 0}, SETTLE_DEADLINE_S, lambda: str(found())[:400])
        assert peer.pendingdocs() == []
