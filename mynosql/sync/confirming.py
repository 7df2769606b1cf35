"""More than one mirror: asking the mirror that took our changes when others have them too, and answering those who ask.

Owns no seq: what a mirror took stands in memory.Memory, what its others have comes by their Reports. With acks = 1 none
of this is used. The rules stand in docs/PROTOCOL.md, "Await". Pure; driven by pushing.Outbox and serving.Served.
"""

from __future__ import annotations

from collections.abc import Callable

from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.dialling import Dialled
from mynosql.sync.hub import Hub
from mynosql.sync.memory import Taken


class Confirming:
    """The side of the peer: one question at a time; the next one asks for all that was taken meanwhile."""

    def __init__(self, hub: Hub, on_confirmed: Callable[[int], None]) -> None:
        """on_confirmed: all that we owe up to that seq is on as many mirrors as it should be."""
        self._hub = hub
        self._on_confirmed = on_confirmed
        self._dialled: Dialled | None = None
        self._request = 0
        """Of the Await that waits for its answer; 0: none does."""
        self._asked = Taken(0, 0)
        self._tries = 0

    def attach(self, dialled: Dialled) -> None:
        """That mirror takes what we owe from here on."""
        self._dialled = dialled
        self._request = self._tries = 0
        self.ask()

    def detach(self) -> None:
        """That mirror takes no more."""
        self._dialled = None
        self._request = 0
        self._hub.timers.cancel("await")

    def ask(self) -> None:
        """Something was taken that others should have too."""
        hub = self._hub
        card = self._dialled.card if self._dialled is not None else None
        taken = hub.memory.taken.get(card.index_id) if card is not None else None
        if self._dialled is None or card is None or taken is None:
            return
        if self._request or hub.acks == 1 or taken.seq <= hub.memory.delivered:
            return
        self._request = hub.request()
        self._asked = taken
        hub.send(self._dialled.link, ms.Await(
            request=self._request, index_id=card.index_id, seq=taken.theirs, count=hub.acks - 1,
        ))
        wait_s = hub.backoff(self._tries + 1, hub.options.await_retry_s, hub.options.await_retry_s_max)
        hub.timers.set("await", hub.now + wait_s, self._again)

    def _again(self) -> None:
        self._tries += 1
        self._request = 0
        self.ask()

    def on_confirmed(self, dialled: Dialled, message: ms.Confirmed) -> None:
        """An answer to what is not asked any more is ignored."""
        if dialled is not self._dialled or message.request != self._request:
            return
        hub = self._hub
        self._request = self._tries = 0
        hub.timers.cancel("await")
        taken = hub.memory.taken.get(message.index_id, self._asked)
        # Behind what was asked for nothing was owed if the mirror has taken nothing since.
        self._on_confirmed(taken.seq if taken.theirs == self._asked.theirs else self._asked.seq)
        self.ask()


class Awaits:
    """The side of the mirror: at most one open question of each conversation."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._open: dict[fx.Link, ms.Await] = {}

    def take(self, link: fx.Link, message: ms.Await) -> None:
        """It is answered once that is so; a newer one takes its place."""
        if message.index_id == self._hub.index_id:
            self._open[link] = message
            self._answer(link, message)

    def on_report(self) -> None:
        """Another mirror has more of our feed."""
        for link, message in list(self._open.items()):
            self._answer(link, message)

    def drop(self, link: fx.Link) -> None:
        self._open.pop(link, None)

    def _answer(self, link: fx.Link, message: ms.Await) -> None:
        if self._hub.memory.confirmed_by(message.count) >= message.seq:
            del self._open[link]
            self._hub.send(link, ms.Confirmed(request=message.request, index_id=message.index_id))
