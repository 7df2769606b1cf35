"""Large bodies in pieces: asking for them, putting them together, and answering those who ask. Either side may ask.

Owns the windows, the bound on what is being put together, and the parts of bodies whose link was lost. A body that does
not come whole ends in None; whoever wants it again, from the same node or another, goes on with the part that came.
The rules stand in docs/PROTOCOL.md, "FetchPiece". Pure.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial

from mynosql.row import Leaf, Version
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.hub import Hub


class Transfer:
    """One body on its way here."""

    def __init__(self, id_key: bytes, leaf: Leaf, on_done: Callable[[bytes | None], None]) -> None:
        self.id_key = id_key
        self.leaf = leaf
        self.on_done = on_done
        self.link: fx.Link | None = None
        self.part = bytearray()
        """What has come without a gap; begin() finds what came by an earlier transfer."""
        self.early: dict[int, bytes] = {}
        """Pieces behind a gap, by offset."""
        self.open: dict[int, tuple[int, int]] = {}
        """Requests under way: offset and length of each."""
        self.next_offset = 0
        self.retries = 0
        self.is_gone = False
        """The other side says that it does not hold this body (any more); else it may only be slow."""


class Pieces:
    """All transfers of a node, and the answers to those of others."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._active: list[Transfer] = []
        self._queue: deque[Transfer] = deque()
        self._by_request: dict[int, Transfer] = {}
        self._parts: OrderedDict[tuple[bytes, Version], tuple[bytearray, float]] = OrderedDict()
        """What came of bodies that nobody brings just now, and until when it is kept; oldest first."""

    # Parts

    def _keep_part(self, transfer: Transfer) -> None:
        hub, part = self._hub, transfer.part
        if not part or len(part) == transfer.leaf.size:
            return
        key = (transfer.id_key, _version(transfer))
        self._parts.pop(key, None)
        self._parts[key] = part, hub.now + hub.options.part_kept_s
        while sum(len(kept) for kept, _ in self._parts.values()) > hub.options.parts_bytes_max:
            self._parts.popitem(last=False)
        if self._parts:
            hub.timers.set("parts", next(iter(self._parts.values()))[1], self._drop_old)

    def _drop_old(self) -> None:
        while self._parts:
            due = next(iter(self._parts.values()))[1]
            if due > self._hub.now:
                self._hub.timers.set("parts", due, self._drop_old)
                return
            self._parts.popitem(last=False)

    # Asking

    def begin(self, transfer: Transfer, link: fx.Link) -> None:
        """Bring the body over this link; transfer.on_done is called once, later."""
        transfer.link = link
        kept = self._parts.pop((transfer.id_key, _version(transfer)), None)
        if kept is not None and len(kept[0]) > len(transfer.part):
            transfer.part = kept[0]
        transfer.early.clear()
        transfer.open.clear()
        transfer.next_offset = len(transfer.part)
        transfer.retries = 0
        self._queue.append(transfer)
        self._start_next()

    def cancel(self, transfer: Transfer) -> None:
        """Nobody waits for it any more; on_done is not called."""
        if transfer in self._queue:
            self._queue.remove(transfer)
        self._release(transfer)

    def drop_link(self, link: fx.Link) -> None:
        """The link is lost: its transfers end without a body."""
        lost = [transfer for transfer in (*self._active, *self._queue) if transfer.link == link]
        self._queue = deque(transfer for transfer in self._queue if transfer.link != link)
        for transfer in lost:
            self._release(transfer)
        for transfer in lost:
            transfer.on_done(None)

    def _start_next(self) -> None:
        spent = sum(transfer.leaf.size for transfer in self._active)
        limit = self._hub.options.assembly_bytes_max
        while self._queue and (not self._active or spent + self._queue[0].leaf.size <= limit):
            transfer = self._queue.popleft()
            self._active.append(transfer)
            spent += transfer.leaf.size
            self._ask_on(transfer)

    def _ask_on(self, transfer: Transfer) -> None:
        hub, size = self._hub, transfer.leaf.size
        while len(transfer.open) < hub.options.pieces_in_flight and transfer.next_offset < size:
            length = min(hub.options.piece_bytes, size - transfer.next_offset)
            self._ask(transfer, transfer.next_offset, length)
            transfer.next_offset += length
        due = hub.now + hub.options.piece_retry_s
        hub.timers.set(("pieces", id(transfer)), due, partial(self._ask_again, transfer))

    def _ask(self, transfer: Transfer, offset: int, length: int) -> None:
        assert transfer.link is not None
        request = self._hub.request()
        transfer.open[request] = (offset, length)
        self._by_request[request] = transfer
        self._hub.send(transfer.link, ms.FetchPiece(
            request=request, id_key=transfer.id_key, version=_version(transfer), offset=offset, length=length,
        ))

    def _ask_again(self, transfer: Transfer) -> None:
        transfer.retries += 1
        if transfer.retries > self._hub.options.piece_retries:
            self._finish(transfer, None)
            return
        lost = list(transfer.open.items())
        for request, _ in lost:
            del self._by_request[request]
        transfer.open.clear()
        for _, (offset, length) in lost:
            self._ask(transfer, offset, length)
        self._ask_on(transfer)

    def on_piece(self, link: fx.Link, message: ms.Piece) -> None:
        """A piece that was not asked for, or not over this link, is ignored: an answer to what was given up."""
        transfer = self._by_request.get(message.request)
        if transfer is None or transfer.link != link:
            return
        del self._by_request[message.request]
        offset, length = transfer.open.pop(message.request)
        if not message.is_held or len(message.data) != length:
            transfer.is_gone = True
            self._finish(transfer, None)
            return
        transfer.retries = 0
        transfer.early[offset] = message.data
        while (piece := transfer.early.pop(len(transfer.part), None)) is not None:
            transfer.part += piece
        if len(transfer.part) == transfer.leaf.size:
            self._finish(transfer, bytes(transfer.part))
            return
        self._ask_on(transfer)

    def _finish(self, transfer: Transfer, body: bytes | None) -> None:
        if transfer in self._queue:
            self._queue.remove(transfer)
        self._release(transfer)
        transfer.on_done(body)

    def _release(self, transfer: Transfer) -> None:
        self._hub.timers.cancel(("pieces", id(transfer)))
        for request in transfer.open:
            self._by_request.pop(request, None)
        transfer.open.clear()
        self._keep_part(transfer)
        if transfer in self._active:
            self._active.remove(transfer)
            self._start_next()

    # Answering

    def serve(self, message: ms.FetchPiece, send: Callable[[ms.Piece, int], None]) -> None:
        """Answer with the stretch as this store holds it. send: the answer and about how many bytes it has."""
        self._hub.ask(
            lambda token: fx.ReadPiece(
                token=token, id_key=message.id_key, version=message.version, offset=message.offset,
                length=message.length,
            ),
            partial(self._on_stretch, send, message.request),
        )

    def _on_stretch(
        self, send: Callable[[ms.Piece, int], None], request: int, result: fx.Stretch | fx.Failed
    ) -> None:
        data = result.data if isinstance(result, fx.Stretch) else None
        send(ms.Piece(request=request, is_held=data is not None, data=data or b""), len(data or b""))


def _version(transfer: Transfer) -> Version:
    return Version(transfer.leaf.hlc, transfer.leaf.node)
