"""What ZeroMQ does with messages, told once, run on real sockets and on the model; then what only the model can do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mynosql.sync.effects import Link
from tests.sim.grounds import QUEUE, Ground, Real, Simulated, SimulatedStation, Station


@pytest.fixture(params=["real", "simulated"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    made: Ground = Real(tmp_path) if request.param == "real" else Simulated(latency_s=0.001, jitter_s=0.02)
    yield made
    made.close()


def linked(ground: Ground) -> tuple[Station, Station, Link]:
    """a listens, b has dialled it, and both know."""
    a, b = ground.station("a"), ground.station("b")
    a.listen()
    link = b.dial(a)
    ground.wait(lambda: link in b.seen.up and a.served)
    return a, b, link


# Connections


def test_a_link_comes_up_on_both_sides_and_carries_messages_both_ways(ground: Ground) -> None:
    a, b, link = linked(ground)
    b.send(link, b"to", b"a")
    a.send(a.served[0], b"to b")
    ground.wait(lambda: a.heard() == [[b"to", b"a"]] and b.heard() == [[b"to b"]])


def test_a_link_keeps_the_order_of_its_messages(ground: Ground) -> None:
    a, b, link = linked(ground)
    sent = []
    for number in range(200):
        sent.append([str(number).encode()])
        b.send(link, *sent[-1])
        if number % QUEUE == 0:
            ground.wait(lambda: a.heard() == sent)
    ground.wait(lambda: a.heard() == sent)


def test_what_is_sent_to_nobody_is_lost_and_never_comes_later(ground: Ground) -> None:
    """Trap 2: a DEALER would keep it, and send it on the next connection, in another order."""
    a, b, link = linked(ground)
    a.stop()
    ground.wait(lambda: link not in b.seen.up)
    for _ in range(QUEUE):
        b.send(link, b"lost")
    a.start_again()
    ground.wait(lambda: link in b.seen.up)
    b.send(link, b"kept")
    ground.wait(lambda: a.heard())
    assert a.heard() == [[b"kept"]]


def test_what_was_sent_before_the_end_arrives_before_the_link_goes_down(ground: Ground) -> None:
    a, b, link = linked(ground)
    a.send(a.served[0], b"bye")
    a.stop()
    ground.wait(lambda: link not in b.seen.up)
    assert b.heard() == [[b"bye"]]


def test_a_dial_that_nobody_answers_is_told_and_goes_on(ground: Ground) -> None:
    a, b = ground.station("a"), ground.station("b")
    a.listen()
    a.stop()
    link = b.dial(a)
    ground.wait(lambda: len(b.seen.downs) >= 2)
    assert link not in b.seen.ups
    a.start_again()
    ground.wait(lambda: link in b.seen.up)


def test_a_router_learns_that_a_node_has_gone_when_it_sends(ground: Ground) -> None:
    a, b, link = linked(ground)
    (served,) = a.served
    b.hang_up(link)

    def is_known() -> bool:
        a.send(served, b"x")
        return served not in a.seen.up

    ground.wait(is_known)
    assert [down for down, _ in a.seen.downs] == [served]
    assert b.seen.downs == [], "who hangs up is not told"


def test_a_served_link_that_was_hung_up_is_dialled_anew_once_something_is_said_on_it(ground: Ground) -> None:
    a, b, link = linked(ground)
    a.hang_up(a.served[0])
    b.send(link, b"not passed on")
    ground.wait(lambda: len(b.seen.ups) == 2)
    b.send(link, b"passed on")
    ground.wait(lambda: a.heard())
    assert a.heard() == [[b"passed on"]]


def test_a_node_that_reads_no_more_is_given_up_by_who_dialled_it(ground: Ground) -> None:
    """Trap 2: the queue is bounded, whoever fills it is told; the link comes back."""
    a, b, link = linked(ground)
    a.stall(b)

    def is_given_up() -> bool:
        b.send(link, bytes(ground.message_bytes))
        return bool(b.seen.downs)

    ground.wait(is_given_up)
    a.resume()
    ground.wait(lambda: len(b.seen.ups) >= 2)


# Publications


def subscribed(ground: Ground) -> tuple[Station, Station]:
    """b takes what a publishes."""
    a, b = ground.station("a"), ground.station("b")
    a.listen()
    b.subscribe(a)

    def is_effective() -> bool:
        a.publish(b"first")
        return [b"first"] in b.read()

    ground.wait(is_effective)
    return a, b


def test_what_was_published_before_somebody_subscribes_is_lost(ground: Ground) -> None:
    a, b = ground.station("a"), ground.station("b")
    a.listen()
    a.publish(b"too early")
    b.subscribe(a)

    def is_effective() -> bool:
        a.publish(b"first")
        return bool(b.read())

    ground.wait(is_effective)
    assert [b"too early"] not in b.read()


def test_publications_keep_their_order(ground: Ground) -> None:
    a, b = subscribed(ground)
    for number in range(100):
        a.publish(str(number).encode())
        if number % (QUEUE // 2) == 0:
            mark = [str(number).encode()]
            ground.wait(lambda mark=mark: mark in b.read())  # type: ignore[misc]
    ground.wait(lambda: b.read()[-1] == [b"99"])
    assert [frames for frames in b.read() if frames != [b"first"]] == [[str(number).encode()] for number in range(100)]


def test_a_publisher_drops_the_tail_beyond_a_full_queue_and_says_nothing(ground: Ground) -> None:
    """Trap 1: the loss shows only in the next message."""
    a, b = subscribed(ground)
    b.stall(a)
    count = 100
    for number in range(count):
        a.publish(str(number).encode(), bytes(ground.message_bytes))
    b.resume()

    def is_next() -> bool:
        a.publish(b"next")
        return [b"next"] in b.read()

    ground.wait(is_next)
    arrived = [int(frames[0]) for frames in b.read() if len(frames) == 2]
    assert arrived == sorted(arrived)
    assert len(arrived) < count
    assert count - 1 not in arrived, "the last ones are lost"
    assert a.seen.downs == []


def test_a_subscription_comes_back_by_itself_and_what_was_published_meanwhile_is_lost(ground: Ground) -> None:
    a, b = subscribed(ground)
    a.stop()
    a.start_again()
    a.publish(b"meanwhile")

    def is_back() -> bool:
        a.publish(b"again")
        return [b"again"] in b.read()

    ground.wait(is_back)
    assert [b"meanwhile"] not in b.read()


# What only the model can do


def names(*stations: Station) -> list[str]:
    return [station._name for station in stations if isinstance(station, SimulatedStation)]


@pytest.fixture
def model() -> Simulated:
    return Simulated(latency_s=0.001)


def test_what_is_published_while_a_subscription_is_on_its_way_is_lost(model: Simulated) -> None:
    """Trap 9, the slow joiner: real sockets lost it nearly always, so the model always does."""
    a, b = model.station("a"), model.station("b")
    a.listen()
    b.subscribe(a)
    model.time.run(0.0025)
    a.publish(b"too early")
    model.time.run(1.0)
    a.publish(b"in time")
    model.wait(lambda: b.read() == [[b"in time"]])


def test_two_sockets_have_no_common_order() -> None:
    """What is published and what is answered overtake each other, both ways."""
    seen = set()
    for seed in range(20):
        ground = Simulated(seed, latency_s=0.001, jitter_s=0.05)
        a, b = subscribed(ground)
        link = b.dial(a)
        ground.wait(lambda a=a, b=b, link=link: link in b.seen.up and a.served)  # type: ignore[misc]
        a.publish(b"published")
        a.send(a.served[0], b"sent")
        order: list[str] = []
        ground.wait(
            lambda b=b, order=order: (  # type: ignore[misc]
                [b"published"] in b.read() and "published" not in order and order.append("published"),
                b.heard() and "sent" not in order and order.append("sent"),
                len(order) == 2,
            )[-1]
        )
        seen.add(tuple(order))
    assert len(seen) == 2


def test_a_way_blocked_for_a_moment_delays_and_loses_nothing(model: Simulated) -> None:
    a, b, link = linked(model)
    model.network.block(*names(b, a))
    for number in range(QUEUE):
        b.send(link, str(number).encode())
    model.time.run(2.0)
    assert a.heard() == []
    model.network.heal()
    model.wait(lambda: a.heard() == [[str(number).encode()] for number in range(QUEUE)])
    assert b.seen.downs == []


def test_a_way_blocked_for_long_leaves_the_link_half_open(model: Simulated) -> None:
    """TCP gives it up on the dialling side, where the sessions would do it sooner; the other still believes in it."""
    a, b, link = linked(model)
    (served,) = a.served
    model.network.block(*names(a, b))
    b.send(link, b"this way is open")
    began = model.time.now
    model.wait(lambda: link not in b.seen.up)
    assert 15.0 <= model.time.now - began <= 30.1
    assert served in a.seen.up
    assert a.heard() == [[b"this way is open"]]
    model.network.heal()
    model.wait(lambda: link in b.seen.up)
    assert len(a.served) == 2, "the old one is not known to be over"
    a.send(served, b"?")
    model.wait(lambda: served not in a.seen.up)


def test_a_cut_is_seen_by_both_and_refuses_until_it_heals(model: Simulated) -> None:
    a, b, link = linked(model)
    model.network.cut_between(*names(a, b))
    model.wait(lambda: link not in b.seen.up)
    model.time.run(20.0)
    assert link not in b.seen.up
    model.network.heal()
    model.wait(lambda: link in b.seen.up)
    assert len(b.seen.ups) == 2


def test_a_machine_without_power_is_missed_by_its_silence_only(model: Simulated) -> None:
    a, b, link = linked(model)
    assert isinstance(a, SimulatedStation)
    a.host.crash(is_silent=True)
    model.time.run(4.0)
    assert link in b.seen.up
    model.wait(lambda: link not in b.seen.up)
    count = len(b.seen.downs)
    model.time.run(60.0)
    assert len(b.seen.downs) - count <= 12, "each attempt takes its five seconds"


def test_a_killed_process_is_missed_at_once(model: Simulated) -> None:
    a, b, link = linked(model)
    assert isinstance(a, SimulatedStation)
    a.host.crash(is_silent=False)
    model.time.run(0.1)
    assert link not in b.seen.up


def test_lost_packets_delay_and_lose_nothing(model: Simulated) -> None:
    a, b, link = linked(model)
    model.network.options.loss_share = 0.5
    for number in range(50):
        b.send(link, str(number).encode())
    model.time.run(0.1)
    assert 0 < len(a.heard()) < 50
    model.wait(lambda: a.heard() == [[str(number).encode()] for number in range(50)])


def test_nothing_is_left_of_connections_that_are_over(model: Simulated) -> None:
    a, b, link = linked(model)
    for _ in range(5):
        model.network.reset_between(*names(a, b))
        model.wait(lambda: link in b.seen.up)
    assert isinstance(a, SimulatedStation)
    assert len(model.network.connections_of(a.host)) == 1
