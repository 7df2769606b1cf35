"""What the parts share: effects in order, questions answered once, silence while the identity is renewed."""

from __future__ import annotations

import random

from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.hub import Hub, NodeConfig
from mynosql.sync.options import SyncOptions

LINK = fx.Link.served("1")


def make() -> Hub:
    config = NodeConfig(database="Test", node=1, index_id=b"I" * 16, nonce=2, is_mirror=True)
    return Hub(config, head=0, hlc=0, rng=random.Random(1), options=SyncOptions())


def test_effects_are_taken_once_and_in_order() -> None:
    hub = make()
    hub.announce(fx.Kind.MIRRORS)
    hub.send(LINK, ms.Ping(number=1))

    assert [type(effect) for effect in hub.take()] == [fx.Announce, fx.Send]
    assert hub.take() == []


def test_nothing_is_sent_while_the_identity_is_renewed_and_it_is_asked_for_once() -> None:
    hub = make()
    hub.renew("copied")
    hub.renew("copied again")
    hub.send(LINK, ms.Ping(number=1))

    assert hub.take() == [fx.Renew(reason="copied")]


def test_a_question_is_answered_once() -> None:
    hub = make()
    answers: list[fx.Missing] = []
    hub.ask(lambda token: fx.ReadMissing(token=token, after_key=b"", limit=1), answers.append)
    (asked,) = hub.take()
    assert isinstance(asked, fx.ReadMissing)

    for _ in range(2):
        hub.answer(asked.token, fx.Missing(id_keys=()))

    assert answers == [fx.Missing(id_keys=())]


def test_requests_never_repeat_not_even_after_a_restart() -> None:
    hub = make()
    first = [hub.request() for _ in range(1000)]
    other = Hub(
        NodeConfig(database="Test", node=1, index_id=b"I" * 16, nonce=3, is_mirror=True), head=0, hlc=0,
        rng=random.Random(2), options=SyncOptions(),
    )

    assert len(set(first)) == 1000
    assert max(first) < 1 << 63
    assert set(first).isdisjoint(other.request() for _ in range(1000))


def test_pauses_grow_to_their_bound_with_jitter() -> None:
    hub = make()
    pauses = [[hub.backoff(tries, 1.0, 10.0) for _ in range(50)] for tries in (1, 2, 3, 20, 10_000)]

    for (low, high), found in zip(((0.75, 1.25), (1.5, 2.5), (3, 5), (7.5, 12.5), (7.5, 12.5)), pauses, strict=True):
        assert low <= min(found) < max(found) <= high
