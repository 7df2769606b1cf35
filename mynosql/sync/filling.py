"""A mirror gets the bodies that its index names: those of changes that came without them, and all when it is filling.

Owns the list of ids that may lack a body, the scan when that list is not enough, and whether this mirror is full. The
rules stand in docs/PROTOCOL.md, "Filling". Pure; driven by node.Node.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from mynosql.sync import effects as fx
from mynosql.sync.borrowing import Borrower
from mynosql.sync.hub import Hub

SCAN_IDS = 256


class Filler:
    """The bodies that a mirror lacks."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._borrower = Borrower(hub)
        self._wanted: dict[bytes, None] = {}
        """Ids that may lack a body, oldest first."""
        self._asked: set[bytes] = set()
        self._again: set[bytes] = set()
        """Of those: ids found missing again meanwhile, because a newer revision came without its body."""
        self._is_scanning = False
        self._scan_after = b""
        self._must_scan = False
        self._is_looking = False
        self._rest_until = float("-inf")
        self._tries = 0
        """How often in a row something was held by nobody."""
        self._is_scanned = False
        """The last scan found nothing missing, and nothing came without its body since."""
        self._has_found = False
        self._has_failed = False
        """In this scan some body was held by nobody."""

    def start(self) -> None:
        """This node is a mirror from here on: look what is missing."""
        self._hub.is_filling = not self._hub.memory.is_filled
        if self._hub.is_filling and not self._hub.memory.is_filling:
            self._hub.memory.set_filling(True)
        self._scan()

    def stop(self) -> None:
        """This node is a mirror no more."""
        self._wanted.clear()
        self._borrower.stop()
        self._is_scanning = self._must_scan = False
        self._hub.timers.cancel("fill")
        if self._hub.is_filling:
            self._hub.is_filling = False
            self._hub.announce(fx.Kind.FILLING)

    def want(self, id_keys: Iterable[bytes]) -> None:
        """Rows of these ids came without all bodies: what is not here after the grace is asked for."""
        hub = self._hub
        for id_key in id_keys:
            if len(self._wanted) >= hub.options.fill_ids_max:
                self._must_scan = True
                break
            self._wanted[id_key] = None
        if self._wanted or self._must_scan:
            hub.timers.set_earlier("fill", hub.now + hub.options.fill_grace_s, self._look)

    def on_list(self) -> None:
        """The list of other mirrors changed: before a first feed is taken in, nobody can tell what is missing here."""
        hub = self._hub
        if hub.members.candidates() and not hub.memory.cursors and not hub.memory.is_synced:
            self._set_filling(True)
        elif hub.is_filling:
            hub.timers.set_earlier("fill", hub.now + hub.options.fill_grace_s, self._look)

    def _set_filling(self, is_filling: bool) -> None:
        hub = self._hub
        if hub.is_filling != is_filling:
            hub.is_filling = is_filling
            hub.memory.set_filling(is_filling)
            hub.announce(fx.Kind.FILLING)

    def on_caught_up(self) -> None:
        """A mirror's feed was taken in whole."""
        if self._hub.is_filling:
            self._hub.timers.set_earlier("fill", self._hub.now + self._hub.options.fill_grace_s, self._look)

    # Looking

    def _scan(self) -> None:
        self._must_scan = True
        self._look()

    def _look(self) -> None:
        """Find out which of the wanted are missing still, or scan on; then ask for them."""
        hub = self._hub
        room = hub.options.fill_in_flight - len(self._asked)
        if self._is_looking or not hub.is_mirror or room <= 0:
            return
        if hub.followers.is_catching_up():  # most bodies are on their way
            hub.timers.set_earlier("fill", hub.now + hub.options.fill_grace_s, self._look)
            return
        if self._wanted and not self._is_scanning:
            batch = tuple(id_key for id_key, _ in zip(self._wanted, range(room), strict=False))
            for id_key in batch:
                del self._wanted[id_key]
            self._is_looking = True
            hub.ask(
                lambda token: fx.ReadBodies(token=token, id_keys=batch, body_bytes_max=0, bytes_max=1 << 60),
                partial(self._on_held, batch),
            )
        elif self._is_scanning or (self._must_scan and not self._asked and hub.now >= self._rest_until):
            self._scan_on(min(SCAN_IDS, room))
        elif not self._must_scan:
            self._check_full()
        elif not self._asked and (hub.dials.ready() or hub.server.peer_links()):
            hub.timers.set_earlier("fill", self._rest_until, self._look)

    def _scan_on(self, limit: int) -> None:
        if not self._is_scanning:
            self._is_scanning = True
            self._must_scan = self._has_failed = self._has_found = False
            self._scan_after = b""
        self._is_looking = True
        self._hub.ask(
            lambda token: fx.ReadMissing(token=token, after_key=self._scan_after, limit=limit),
            partial(self._on_missing, limit),
        )

    def _on_held(self, batch: tuple[bytes, ...], result: fx.Held | fx.Failed) -> None:
        self._is_looking = False
        if isinstance(result, fx.Failed):
            self._rest()
            return
        missing = []
        for id_key, found in zip(batch, result.rows, strict=False):
            if found is not None and found.held != (1 << len(found.row.leaves)) - 1:
                missing.append(id_key)
        self._hub.followers.settle(set(batch).difference(missing))
        self._ask(missing)
        self._look()

    def _on_missing(self, limit: int, result: fx.Missing | fx.Failed) -> None:
        self._is_looking = False
        if isinstance(result, fx.Failed):
            self._rest()
            return
        if result.id_keys:
            self._scan_after = result.id_keys[-1]
        self._has_found |= bool(result.id_keys)
        if len(result.id_keys) < limit:
            self._is_scanning = False
            self._is_scanned = not self._has_found
            if self._is_scanned:
                self._tries = 0
            self._must_scan |= self._has_found  # once more, to see that all came
        self._ask(result.id_keys)
        self._look()

    def _ask(self, id_keys: Iterable[bytes]) -> None:
        id_keys = list(id_keys)
        self._again.update(id_key for id_key in id_keys if id_key in self._asked)
        fresh = [id_key for id_key in id_keys if id_key not in self._asked]
        self._asked.update(fresh)
        if fresh:
            self._hub.fetcher.fill(fresh)

    # Answers

    def on_filled(self, id_key: bytes) -> None:
        """A mirror gave all that this id lacked when it was asked for."""
        self._asked.discard(id_key)
        if id_key in self._again:
            self._again.discard(id_key)
            self.want((id_key,))
        else:
            self._hub.followers.settle({id_key})
        if len(self._asked) <= self._hub.options.fill_in_flight // 2:
            self._look()

    def on_not_filled(self, id_key: bytes) -> None:
        """No mirror that can be reached holds it: look again later."""
        self._asked.discard(id_key)
        if id_key in self._again:  # news came while it was being asked for: whoever had it then has it now
            self._again.discard(id_key)
            self.want((id_key,))
            return
        self._has_failed = True
        self._rest()
        self._borrower.want(id_key)

    def on_peer(self) -> None:
        """A peer is served that may hold what no mirror does."""
        if self._has_failed and not self._hub.dials.ready():
            self._hub.timers.set_earlier("fill", max(self._rest_until, self._hub.now), self._look)

    def on_ready(self) -> None:
        """Another mirror can be asked."""
        if self._has_failed or self._hub.is_filling:
            self._must_scan = True
            self._rest_until = self._hub.now
            self._tries = 0
            self._hub.timers.set_earlier("fill", self._hub.now + self._hub.options.fill_grace_s, self._look)

    def _rest(self) -> None:
        """What failed is tried again later, or when another mirror can be asked."""
        hub = self._hub
        self._must_scan = True
        if self._rest_until <= hub.now:
            self._tries += 1
            wait_s = hub.backoff(self._tries, hub.options.fill_retry_s, hub.options.fill_retry_s_max)
            self._rest_until = hub.now + wait_s
            if hub.dials.ready() or hub.server.peer_links():
                hub.timers.set_earlier("fill", self._rest_until, self._look)

    # Full

    def _check_full(self) -> None:
        """Full: nothing is missing, and the feed of at least one other mirror was taken in whole if any is known."""
        hub = self._hub
        if self._asked or self._has_failed:
            return
        if self._is_scanned:
            hub.followers.settle(None)
        if not hub.is_filling:
            return
        if hub.members.candidates() and not hub.followers.is_any_caught_up():
            return
        self._set_filling(False)
