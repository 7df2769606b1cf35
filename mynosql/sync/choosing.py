"""Whom to dial: a peer follows one mirror and fails over to another, a mirror keeps a conversation with every other.

Chooser and Mesh are the two strategies; dialling.Dialled tells them when a conversation is ready or lost. The rules
stand in docs/PROTOCOL.md, "Choosing a mirror". Pure; driven by node.Node.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

from mynosql.address import Address
from mynosql.sync import messages as ms
from mynosql.sync.dialling import Dialled, Loss, Purpose
from mynosql.sync.hub import Hub


class Strategy(Protocol):
    """What a dial tells, and what others ask."""

    followed: Dialled | None

    @property
    def is_hopeful(self) -> bool:
        """No mirror is ready, but an attempt is under way that has not failed yet."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def on_given(self, address: Address) -> None:
        """The user named this address, again perhaps: what failed there before no longer counts."""

    def on_list(self) -> None:
        """The list of addresses changed."""

    def on_ready(self, dialled: Dialled, welcome: ms.Welcome) -> None: ...

    def on_lost(self, dialled: Dialled, loss: Loss) -> None: ...

    def is_failing(self, address: Address) -> bool:
        """The last attempt there failed."""

    def prefer(self, address: Address) -> None:
        """The mirror at that address was measured to be the better one."""


class Failures:
    """Which addresses failed, and until when they are left alone."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._tries: dict[Address, int] = {}
        self._since: dict[Address, float] = {}
        self._until: dict[Address, float] = {}

    def add(self, address: Address, loss: Loss) -> None:
        hub, options = self._hub, self._hub.options
        self._tries[address] = self._tries.get(address, 0) + 1
        since = self._since.setdefault(address, hub.now)
        if loss is Loss.REFUSED:
            wait_s = hub.jitter(options.refused_retry_s)
        elif loss is Loss.BYE:
            wait_s = hub.backoff(self._tries[address], options.retry_s, options.retry_s_max)
        else:
            longest_s = min(options.retry_s_max, max(options.retry_s, options.retry_share * (hub.now - since)))
            wait_s = hub.backoff(self._tries[address], options.retry_s, longest_s)
        self._until[address] = hub.now + wait_s

    def clear(self, address: Address) -> None:
        self._tries.pop(address, None)
        self._since.pop(address, None)
        self._until.pop(address, None)

    def has(self, address: Address) -> bool:
        return address in self._tries

    def until(self, address: Address) -> float:
        """When it may be tried again."""
        return self._until.get(address, float("-inf"))


class Chooser:
    """The strategy of a peer."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.followed: Dialled | None = None
        self._trying: Dialled | None = None
        self._probing: Dialled | None = None
        self._failures = Failures(hub)
        self._probe_turn = 0
        self._preferred: Address | None = None
        """Measured to be better than the one that was followed then."""

    @property
    def is_hopeful(self) -> bool:
        if self.followed is not None:
            return not self.followed.is_ready  # it greets us again
        return self._trying is not None and not self._failures.has(self._trying.address)

    def start(self) -> None:
        self._seek()

    def stop(self) -> None:
        for key in ("seek", "try", "probe"):
            self._hub.timers.cancel(key)
        self.followed = self._trying = self._probing = None
        self._hub.surveyor.stop()

    def is_failing(self, address: Address) -> bool:
        return self._failures.has(address)

    def prefer(self, address: Address) -> None:
        """It is the first choice from here on, and tried at once."""
        self._preferred = address
        if self._probing is None:
            self._probe()

    def _candidates(self) -> list[Address]:
        """Best first: full before filling, what was measured to be better, much slower ones last, else as known."""
        members, surveyor = self._hub.members, self._hub.surveyor
        return sorted(members.candidates(), key=lambda address: (
            members.is_filling_at(address), address != self._preferred, surveyor.is_slow(address),
        ))

    def on_given(self, address: Address) -> None:
        self._failures.clear(address)

    def on_list(self) -> None:
        """An address that was taken back is dropped; a better one is tried soon."""
        known = set(self._hub.members.addresses())
        for dialled in self._hub.dials:
            if dialled.address not in known:
                self._drop(dialled)
        trying = self._trying
        if trying is not None and not self._hub.timers.is_set("try") and len(self._hub.members.candidates()) > 1:
            if self._failures.has(trying.address):
                self._end_try(trying, Loss.DOWN)
            else:
                self._hub.timers.set("try", self._hub.now + self._hub.options.connect_s_max, self._on_try_over)
        self._seek()
        self._plan_probe()
        self._hub.surveyor.plan()

    def _drop(self, dialled: Dialled) -> None:
        if dialled is self.followed:
            self.followed = None
        if dialled is self._trying:
            self._trying = None
        if dialled is self._probing:
            self._probing = None
        self._failures.clear(dialled.address)
        self._hub.surveyor.on_lost(dialled)
        self._hub.dials.close(dialled)

    # Looking for a mirror

    def _seek(self) -> None:
        """Somebody is followed, or tried, or the next try is due later."""
        hub = self._hub
        if self.followed is not None or self._trying is not None or not hub.is_running:
            return
        candidates = self._candidates()
        ready = [address for address in candidates if self._failures.until(address) <= hub.now]
        if ready:
            self._try(ready[0], len(candidates))
        elif candidates:
            hub.timers.set("seek", min(map(self._failures.until, candidates)), self._seek)

    def _try(self, address: Address, candidate_count: int) -> None:
        hub = self._hub
        hub.timers.cancel("seek")
        dialled = hub.dials.open(address, Purpose.FOLLOW)
        self._trying = dialled
        if dialled is self._probing:
            self._probing = None
            hub.timers.cancel("probe")
        if dialled.is_ready:  # it was dialled for something else
            dialled.greet()
        if candidate_count > 1:
            hub.timers.set("try", hub.now + hub.options.connect_s_max, self._on_try_over)

    def _on_try_over(self) -> None:
        dialled = self._trying
        if dialled is not None:
            self._end_try(dialled, Loss.DOWN)

    def _end_try(self, dialled: Dialled, loss: Loss) -> None:
        """It did not work: the next one; the only one is dialled on, unless it refused."""
        hub = self._hub
        self._failures.add(dialled.address, loss)
        hub.surveyor.forget(dialled.address)
        is_only = hub.members.candidates() == [dialled.address]
        if is_only and loss is Loss.DOWN:
            return  # the network keeps dialling by itself
        self._trying = None
        hub.timers.cancel("try")
        self._seek()  # before the old one is released: what was asked of it may wait for the next
        hub.dials.release(dialled, Purpose.FOLLOW)

    # What the dials tell

    def on_ready(self, dialled: Dialled, welcome: ms.Welcome) -> None:
        hub = self._hub
        self._failures.clear(dialled.address)
        if dialled is self._probing:
            self._end_probe(dialled, welcome)
        elif dialled is self._trying:
            self._trying = None
            hub.timers.cancel("try")
            self._follow(dialled, welcome)
        elif dialled is self.followed:  # it greeted us again
            self._follow(dialled, welcome)
        hub.fetcher.on_ready(dialled)
        hub.surveyor.on_ready(dialled)

    def _follow(self, dialled: Dialled, welcome: ms.Welcome) -> None:
        self.followed = dialled
        self._hub.followers.begin(dialled, welcome)
        self._hub.outbox.attach(dialled)
        if self._hub.followers.find(dialled) is None:  # nothing of its feed is wanted: what we hold is, all the same
            self._hub.outbox.on_caught_up(dialled, welcome.card.index_id)
        self._plan_probe()
        self._hub.surveyor.plan()

    def on_lost(self, dialled: Dialled, loss: Loss) -> None:
        hub = self._hub
        hub.surveyor.on_lost(dialled)
        if dialled is self._probing:
            self._failures.add(dialled.address, loss)
            self._stop_probe()
        elif dialled is self._trying:
            self._end_try(dialled, loss)
        elif dialled is self.followed:
            self.followed = None
            hub.timers.cancel("probe")
            if self._probing is not None:
                self._stop_probe()
            self._trying = dialled
            self._end_try(dialled, loss)

    # Going back to the first choice

    def _plan_probe(self) -> None:
        hub = self._hub
        if self.followed is None or hub.timers.is_set("probe") or not self._better():
            return
        hub.timers.set("probe", hub.now + hub.jitter(hub.options.probe_s), self._probe)

    def _better(self) -> list[Address]:
        """Candidates that come before the one that is followed."""
        candidates = self._candidates()
        if self.followed is None or self.followed.address not in candidates:
            return candidates
        return candidates[: candidates.index(self.followed.address)]

    def _probe(self) -> None:
        hub = self._hub
        better = [address for address in self._better() if self._failures.until(address) <= hub.now]
        if self.followed is None:
            return
        if not better:
            self._plan_probe()
            return
        address = better[0] if better[0] == self._preferred else better[self._probe_turn % len(better)]
        self._probe_turn += 1
        self._probing = hub.dials.open(address, Purpose.PROBE)
        if self._probing.is_ready:
            self._probing.greet()
        hub.timers.set("probe", hub.now + hub.options.connect_s_max, self._stop_probe)

    def _stop_probe(self) -> None:
        dialled, self._probing = self._probing, None
        self._hub.timers.cancel("probe")
        if dialled is not None:
            self._hub.dials.release(dialled, Purpose.PROBE)
        self._plan_probe()

    def _end_probe(self, dialled: Dialled, welcome: ms.Welcome) -> None:
        """The better one answers: it is followed from here on, unless it is filling while ours is full."""
        hub = self._hub
        old = self.followed
        if old is None or dialled.address not in self._better():
            self._stop_probe()
            return
        self._probing = None
        hub.timers.cancel("probe")
        hub.dials.open(dialled.address, Purpose.FOLLOW)
        dialled.purposes.discard(Purpose.PROBE)
        self.followed = None
        hub.followers.end(old)
        hub.outbox.detach(old)
        hub.dials.release(old, Purpose.FOLLOW)
        self._follow(dialled, welcome)


class Mesh:
    """The strategy of a mirror: a conversation with every other mirror that is known."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.followed: Dialled | None = None
        self._failures = Failures(hub)
        self._twins: dict[Address, Address] = {}
        """Addresses that lead to a node which is dialled at another: that other address."""

    @property
    def is_hopeful(self) -> bool:
        return any(not dialled.is_ready and not self._failures.has(dialled.address) for dialled in self._hub.dials)

    def start(self) -> None:
        self.on_list()

    def stop(self) -> None:
        for address in self._hub.members.addresses():
            self._hub.timers.cancel(("mesh", address))

    def on_given(self, address: Address) -> None:
        self._failures.clear(address)

    def on_list(self) -> None:
        hub = self._hub
        if not hub.is_running:
            return
        known = set(hub.members.addresses())
        hub.filler.on_list()
        for dialled in hub.dials:
            if dialled.address not in known:
                self._failures.clear(dialled.address)
                hub.timers.cancel(("mesh", dialled.address))
                hub.dials.close(dialled)
        for address in hub.members.candidates():
            is_planned = hub.dials.find(address) is not None or hub.timers.is_set(("mesh", address))
            if not is_planned and not self._is_twin(address):
                self._dial(address)

    def is_failing(self, address: Address) -> bool:
        return self._failures.has(address)

    def prefer(self, address: Address) -> None:
        """A mirror follows all others anyway."""

    def _is_twin(self, address: Address) -> bool:
        """Its node is dialled at another address, and that works."""
        other = self._twins.get(address)
        if other is None:
            return False
        if self._hub.dials.find(other) is not None and not self._failures.has(other):
            return True
        del self._twins[address]
        return False

    def _dial(self, address: Address) -> None:
        self._hub.dials.open(address, Purpose.MESH)

    def on_ready(self, dialled: Dialled, welcome: ms.Welcome) -> None:
        hub = self._hub
        self._failures.clear(dialled.address)
        other = next((
            found for found in hub.dials.ready() if found is not dialled and found.node == dialled.node
        ), None)
        if other is not None:
            # One node by two addresses is one conversation: the user's address stays, else the first.
            is_given = dialled.address in hub.members.given and other.address not in hub.members.given
            kept, gone = (dialled, other) if is_given else (other, dialled)
            self._twins[gone.address] = kept.address
            hub.dials.close(gone)
            if gone is dialled:
                return
        hub.followers.begin(dialled, welcome)
        hub.fetcher.on_ready(dialled)
        hub.filler.on_ready()

    def on_lost(self, dialled: Dialled, loss: Loss) -> None:
        """The network dials again by itself when a link is down; else there is a new connection, now or later."""
        hub = self._hub
        is_new = not self._failures.has(dialled.address)
        self._failures.add(dialled.address, loss)
        hub.has_news |= bool(self._twins) or loss is Loss.REFUSED
        if loss is Loss.DOWN:
            return
        if loss is Loss.DEAD and is_new:
            dialled.redial()
            return
        hub.dials.close(dialled)
        if dialled.address in hub.members.addresses():
            due = self._failures.until(dialled.address)
            hub.timers.set(("mesh", dialled.address), due, partial(self._dial_again, dialled.address))

    def _dial_again(self, address: Address) -> None:
        if address in self._hub.members.addresses() and not self._hub.members.is_own(address):
            self._dial(address)
