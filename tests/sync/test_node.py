"""A node as a whole: modes, start and stop, status, and that it is a function of its inputs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mynosql.sync
from mynosql.idkey import pack_id
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from tests.sync.harness import World
from tests.sync.rules import obeys


@obeys("A mirror that becomes a peer owes every change that no other mirror confirmed, whoever wrote it.")
def test_a_mirror_that_becomes_a_peer_owes_what_nobody_confirmed() -> None:
    world = World(seed=1)
    first = world.mirror("m1", knows=["m2"])
    second = world.mirror("m2", knows=["m1"])
    peer = world.peer("p1", knows=["m1"])
    first.save("confirmed", b"1")
    world.settle()
    world.run(1.0)
    world.cut("m1", "m2")
    first.save("own", b"2")
    peer.save("of a peer", b"3")
    world.run(1.0)
    peer.kill()
    assert first.pending == 1

    first.set_mode(False)
    assert first.pending == 2
    world.run(0.01)
    first.restart()
    assert first.pending == 2
    world.heal()
    world.run_until(lambda: first.pending == 0)

    assert second.body("own") == b"2"
    assert second.body("of a peer") == b"3"
    pushed = [row.id_key for message in world.sent(ms.Push, by="m1") for row in message.rows]
    assert pack_id("confirmed") not in pushed


@obeys("A mirror that becomes a peer says Bye `not-a-mirror`, and those who talk with it forget it.")
def test_a_mirror_that_becomes_a_peer_is_forgotten_as_a_mirror() -> None:
    world = World(seed=1)
    names = ("m1", "m2", "m3")
    first, second, third = (world.mirror(name, knows=["m1"]) for name in names)
    world.run(3.0)
    assert len(second.node.addresses()) == 2

    third.set_mode(False)
    world.run(40.0)

    for machine in (first, second):
        assert "m3" not in [address.host for address in machine.node.addresses()]
    assert third.follows == "m1"
    third.save("a", b"1")
    world.settle()


def test_a_peer_that_becomes_a_mirror_is_met_and_served() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    mirror.save("a", b"1")
    peer.save("b", b"2")
    world.settle()

    peer.set_mode(True)
    late = world.peer("p2", knows=["p1"])
    world.settle()
    world.run(3.0)

    assert late.follows == "p1"
    assert peer.body("a") == b"1"
    assert [address.host for address in mirror.links] == ["p1"]


def test_a_mode_that_is_set_again_changes_nothing() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    world.peer("p1", knows=["m1"])
    world.run(1.0)

    assert mirror.node.set_mode(True, world.now) == []


def test_a_stopped_node_says_bye_and_stays_silent() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.run(1.0)

    peer.stop()
    world.run(0.1)
    assert mirror.node.connected == 0
    assert world.sent(ms.Bye, by="p1")
    mirror.stop()
    link = fx.Link.served("1")
    assert mirror.node.on_message(link, ms.Ping(number=1), world.now, user_id="") == []
    assert mirror.node.on_durable(99, world.now) == []
    assert mirror.node.step(world.now + 100) == []
    assert mirror.node.next_due(world.now) is None


def test_a_peer_notices_a_bye_at_once() -> None:
    world = World(seed=1)
    world.mirror("m1", knows=["m2"])
    world.mirror("m2", knows=["m1"])
    peer = world.peer("p1", knows=["m1", "m2"])
    world.run(2.0)

    world.machines["m1"].stop()

    assert world.run_until(lambda: peer.follows == "m2") < 0.1


def test_the_status_tells_where_the_node_stands() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    alone = peer.node.status()
    assert (alone.mirror, alone.connected, alone.behind) == (None, 0, 0)
    assert [address.host for address in alone.mirrors] == ["m1"]
    mirror.save("a", b"1")
    world.settle()

    status = peer.node.status()

    assert status.mirror is not None
    assert (status.mirror.host, status.connected, status.behind) == ("m1", 1, 0)
    assert (status.is_filling, status.rejected) == (False, 0)
    assert peer.announced[fx.Kind.CAUGHT_UP] >= 1
    assert peer.announced[fx.Kind.DATABASE] == 1
    assert mirror.node.status().mirror is None


def test_a_result_for_an_unknown_token_is_ignored() -> None:
    world = World(seed=1)
    assert world.mirror("m1").node.on_result(12345, fx.Applied(), 0.0) == []


def test_the_same_inputs_give_the_same_effects() -> None:
    def story(seed: int) -> list[str]:
        world = World(seed=seed, latency_s=0.01)
        world.jitter_s = 0.01
        names = ("m1", "m2")
        for name in names:
            world.mirror(name, knows=names)
        peer = world.peer("p1", knows=names)
        for number in range(20):
            peer.save(f"{number}", b"1")
            world.run(0.3)
        world.machines["m1"].kill()
        world.settle()
        return list(map(str, world.log))

    assert story(4) == story(4)
    assert story(4) != story(5)


FORBIDDEN = {"asyncio", "datetime", "logging", "os", "secrets", "socket", "sqlite3", "threading", "time", "zmq"}


@pytest.mark.parametrize("path", sorted(Path(mynosql.sync.__path__[0]).glob("*.py")), ids=lambda path: path.stem)
def test_the_protocol_is_pure(path: Path) -> None:
    for part in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in part.names] if isinstance(part, ast.Import) else []
        if isinstance(part, ast.ImportFrom):
            names = [part.module or ""]
        for name in names:
            assert name.split(".")[0] not in FORBIDDEN, f"{path.name} imports {name}; take it as a value instead"
            assert not name.startswith("mynosql.store"), f"{path.name} imports the store; ask by an effect instead"
