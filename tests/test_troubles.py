"""What syncstatus shows of background failures, and when it forgets a refused connection."""

from __future__ import annotations

from mynosql.address import Address
from mynosql.errors import PeerError
from mynosql.sync.effects import Link
from mynosql.troubles import REFUSED_LINKS_MAX, Troubles

LINK, OTHER = (Link.dial(Address("host", port)) for port in (1, 2))


def test_a_refusal_is_shown_until_its_next_attempt_ends_otherwise() -> None:
    troubles = Troubles()
    troubles.on_refused(LINK, PeerError("compare the secrets"))
    troubles.on_down(LINK)  # the end of the attempt that was refused
    troubles.on_down(OTHER)
    assert troubles.last_error == "PeerError: compare the secrets"
    troubles.on_down(LINK)
    assert troubles.last_error is None


def test_a_failure_that_came_later_stays() -> None:
    troubles = Troubles()
    troubles.on_refused(LINK, PeerError("compare the secrets"))
    troubles.on_failure(OSError("no route"))
    troubles.forget(LINK)
    assert troubles.last_error == "OSError: no route"


def test_what_is_remembered_of_connections_is_bounded() -> None:
    troubles = Troubles()
    for port in range(1, REFUSED_LINKS_MAX + 50):
        troubles.on_refused(Link.dial(Address("host", port)), PeerError("no"))
    assert len(troubles._refused) == REFUSED_LINKS_MAX
