"""The interpreter: what it does with effects, in their order, and what waits for which fsync. A scripted node asks."""

from __future__ import annotations

import random
from typing import Any

import pytest

from mynosql.address import Address
from mynosql.errors import PeerError, StorageError, StorageFailed, StorageFull
from mynosql.ledger import Save
from mynosql.replica import COMPLETE_NOTE, DISK_RETRY_S, INDEX_NOTE, MODE_NOTE, Replica, World
from mynosql.row import Version
from mynosql.store.store import Store
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.memory import Rejected
from mynosql.views import Level
from tests.sim.memory_files import NO_LIMIT, MemoryFiles
from tests.sim.memory_index import MemoryIndex
from tests.store.making import NODE, key, open_memory, remote_row, reopen_killed, row_of, sync

LINK = fx.Link.served("aa")
PING = ms.Ping(number=1)
ACK = ms.Ack(request=1, index_id=bytes(16), last=1, seq=1, refused=())
assert ACK.is_gated
assert not PING.is_gated


class ScriptedNode:
    """Stands for the protocol: every input is written down and answered with the effects that are due."""

    is_mirror = False
    connected = 0

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.results: list[fx.Result] = []
        self.answers: dict[str, list[list[fx.Effect]]] = {}
        self.rejected: dict[int, Rejected] = {}

    def addresses(self) -> list[Address]:
        return []

    def on_result(self, token: int, result: fx.Result, now: float) -> list[fx.Effect]:
        self.results.append(result)
        return self._next("on_result")

    def cancel_fetch(self, request: int) -> None:
        self.calls.append(("cancel_fetch", (request,)))

    def _next(self, name: str) -> list[fx.Effect]:
        waiting = self.answers.get(name)
        return waiting.pop(0) if waiting else []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> list[fx.Effect]:
            self.calls.append((name, args))
            return self._next(name)

        return call


class Made:
    """A replica on memory doors with a scripted node, and the minted bytes counted."""

    def __init__(self, **options: Any) -> None:
        self.store: Store
        self.files: MemoryFiles
        self.index: MemoryIndex
        self.store, self.files, self.index = open_memory()
        self.minted = 0
        self.replica = self.open(self.store, **options)
        self.node = ScriptedNode()
        self.replica.node = self.node  # type: ignore[assignment]

    def mint(self, size: int) -> bytes:
        self.minted += 1
        return self.minted.to_bytes(size, "big")

    def open(
        self, store: Store, *, node: int = NODE, is_moved: bool = False, is_mirror: bool | None = None,
        acks: int | None = None,
    ) -> Replica:
        world = World(wall_ms=lambda: 5_000_000, mint=self.mint, renew_node=lambda: 99, rng=random.Random(1))
        return Replica(store, name="Test", node=node, is_moved=is_moved, is_mirror=is_mirror, world=world, acks=acks)

    def perform(self, *effects: fx.Effect) -> None:
        """The node asks for these."""
        self.node.answers.setdefault("step", []).append(list(effects))
        self.replica.step(0.0)

    def taken(self) -> list[Any]:
        return [getattr(command, "message", command) for command in self.replica.take_outgoing()]


@pytest.fixture
def made() -> Made:
    return Made()


def apply(*rows: Any, **options: Any) -> fx.Apply:
    return fx.Apply(**{"token": 1, "rows": rows, "origin": fx.Origin.INDEX, **options})


# The gate


def test_a_gated_message_after_an_apply_leaves_only_once_that_is_fsynced(made: Made) -> None:
    made.perform(apply(row_of("a", 1)), fx.Send(link=LINK, message=ACK))
    assert made.store.find(key("a")) is not None, "applied in memory at once"
    assert made.taken() == []
    assert made.replica.is_waiting_for_sync
    sync(made.store)
    assert made.taken() == [ACK]
    assert not made.replica.is_waiting_for_sync


def test_a_message_that_speaks_of_nothing_written_passes_at_once(made: Made) -> None:
    made.perform(apply(row_of("a", 1)), fx.Send(link=LINK, message=PING))
    assert made.taken() == [PING]


def test_a_gated_message_with_nothing_new_written_passes_at_once(made: Made) -> None:
    sync(made.store)
    made.perform(fx.Send(link=LINK, message=ACK))
    assert made.taken() == [ACK]


def test_nothing_overtakes_a_message_that_waits(made: Made) -> None:
    hang_up = fx.HangUp(link=LINK)
    made.perform(apply(row_of("a", 1)), fx.Send(link=LINK, message=ACK), fx.Send(link=LINK, message=PING), hang_up)
    assert made.taken() == []
    sync(made.store)
    assert made.taken() == [ACK, PING, hang_up]


def test_a_pull_overtakes_what_waits(made: Made) -> None:
    pull = ms.Pull(request=1, index_id=b"i" * 16, after=0, prefixes=(), with_bodies=True)
    made.perform(apply(row_of("a", 1)), fx.Send(link=LINK, message=ACK), fx.Send(link=LINK, message=pull))
    assert made.taken() == [pull]
    sync(made.store)
    assert made.taken() == [ACK]


def test_entries_wait_for_rows_and_not_for_notes(made: Made) -> None:
    entries = ms.Entries(request=1, index_id=b"i" * 16, after=0, last=1, head=1, more=False, rows=())
    made.perform(apply(row_of("a", 1)), fx.Send(link=LINK, message=entries))
    assert made.taken() == [], "a row that they skip could be the newest again after a power cut"
    sync(made.store)
    assert made.taken() == [entries]
    made.perform(fx.SetNote(key="note", value=b"1"), fx.Send(link=LINK, message=entries))
    assert made.store.written > made.store.durable
    assert made.taken() == [entries]


def test_a_write_behind_a_message_does_not_hold_it_back(made: Made) -> None:
    made.perform(apply(row_of("a", 1)), fx.Send(link=LINK, message=ACK))
    job = made.store.sync_job()
    assert job is not None
    made.perform(apply(row_of("b", 1)), fx.Send(link=LINK, message=ACK))
    job.run()
    made.store.finish(job)
    assert made.taken() == [ACK], "the second write is not in that fsync"
    sync(made.store)
    assert made.taken() == [ACK]


def test_the_node_hears_of_each_durable_head_once(made: Made) -> None:
    made.perform(apply(row_of("a", 1)))
    made.replica.on_durable(0.0)
    sync(made.store)
    made.replica.on_durable(1.0)
    made.replica.on_durable(2.0)
    assert [args for name, args in made.node.calls if name == "on_durable"] == [(1, 1.0)]


# Effects with results


def test_results_go_back_before_the_effects_behind_them_end_and_theirs_come_last(made: Made) -> None:
    made.node.answers["on_result"] = [[fx.SetNote(key="order", value=b"result")]]
    made.perform(apply(row_of("a", 1)), fx.SetNote(key="order", value=b"list"))
    assert made.store.note("order") == b"result"
    (applied,) = made.node.results
    assert isinstance(applied, fx.Applied)
    assert (applied.first_seq, applied.last_seq) == (1, 1)


def test_rows_and_notes_of_an_apply_are_one_frame_that_survives_a_kill(made: Made) -> None:
    written = made.store.written
    made.perform(apply(row_of("a", 1), notes={"cursor/x": b"7"}))
    assert made.store.written == written + 1
    again = reopen_killed(made.files, made.index)
    assert (again.note("cursor/x"), again.records) == (b"7", 1)


def test_only_pushed_rows_are_judged_as_pushed(made: Made) -> None:
    made.perform(apply(remote_row("a", 1), origin=fx.Origin.PUSH), apply(remote_row("b", 1), origin=fx.Origin.FETCH))
    assert [len(result.refused) for result in made.node.results if isinstance(result, fx.Applied)] == [1, 0]


def test_a_full_disk_is_the_result_and_is_shown_and_nothing_is_taken(made: Made) -> None:
    def full(operation: str, name: str) -> None:
        raise StorageFull("no room")

    made.files.on_operation = full
    made.perform(apply(row_of("a", 1)))
    (failed,) = made.node.results
    assert isinstance(failed, fx.Failed)
    assert isinstance(failed.error, StorageFull)
    assert made.replica.last_error == "StorageFull: no room"
    assert made.store.find(key("a")) is None


def test_a_note_that_a_full_disk_refused_is_written_once_there_is_room(made: Made) -> None:
    """The protocol goes by it at once: seed 109 of the simulator waited for ever for `pending` to follow."""
    def full(operation: str, name: str) -> None:
        raise StorageFull("no room")

    made.files.on_operation = full
    made.perform(fx.SetNote(key="delivered", value=b"7"), fx.SetNote(key="filling", value=b"0"))
    made.perform()
    assert made.replica.last_error == "StorageFull: no room"
    assert made.store.note("delivered") == b""
    made.files.on_operation = lambda operation, name: None
    made.perform()
    assert (made.store.note("delivered"), made.store.note("filling")) == (b"7", b"0")
    written = made.store.written
    made.perform()
    assert made.store.written == written, "and only once"


# Fetches


def test_a_fetch_is_done_when_the_node_says_so(made: Made) -> None:
    row = row_of("a", 1)
    (fetch,) = made.replica.fetch([key("a")], 5.0, False, 10.0)
    (wanted,) = next(args[0] for name, args in made.node.calls if name == "fetch_many")
    assert (wanted.request, wanted.id_key, wanted.deadline, wanted.version) == (fetch.request, key("a"), 15.0, None)
    assert not fetch.is_done
    made.perform(fx.FetchDone(request=fetch.request, outcome=fx.Outcome.FOUND, row=row))
    assert (fetch.is_done, fetch.row, fetch.outcome, fetch.is_absent) == (True, row, fx.Outcome.FOUND, False)


def test_the_fetch_of_a_known_record_asks_for_what_the_index_knows(made: Made) -> None:
    row = remote_row("a", 1)
    made.perform(apply(row))
    made.replica.fetch([key("a")], 5.0, True, 0.0)
    (wanted,) = next(args[0] for name, args in made.node.calls if name == "fetch_many")
    assert (wanted.version, wanted.confirm) == (Version(row.leaves[0].hlc, row.leaves[0].node), True)


def test_a_cancelled_fetch_is_forgotten_on_both_sides_and_a_late_answer_is_nothing(made: Made) -> None:
    (fetch,) = made.replica.fetch([key("a")], 5.0, False, 0.0)
    made.replica.cancel_fetch(fetch)
    made.replica.cancel_fetch(fetch)
    made.perform(fx.FetchDone(request=fetch.request, outcome=fx.Outcome.FOUND))
    assert [name for name, _ in made.node.calls].count("cancel_fetch") == 1
    assert not fetch.is_done


def test_stopping_leaves_nobody_waiting_for_a_fetch(made: Made) -> None:
    (fetch,) = made.replica.fetch([key("a")], 5.0, False, 0.0)
    made.replica.stop(1.0)
    assert fetch.is_done


# Identity, mode, and what is remembered


def test_renew_mints_node_and_index_anew_durably_before_the_node_goes_on(made: Made) -> None:
    before = made.replica.index_id
    seen: list[bool] = []
    made.node.on_renewed = (  # type: ignore[attr-defined]
        lambda node, index_id, now: seen.append(
            (node, index_id) == (99, made.replica.index_id) and made.store.durable == made.store.written
        ) or [fx.Send(link=LINK, message=PING)]
    )
    made.perform(fx.Renew(reason="a copied folder"))
    assert seen == [True]
    assert made.replica.index_id != before
    assert (made.replica.ledger.node, made.store.node) == (99, 99)
    assert made.taken() == [PING]


@pytest.mark.parametrize("error", [StorageFull("no room"), StorageFailed("input/output error")])
def test_a_renewal_that_the_disk_does_not_take_is_put_off_not_raised(made: Made, error: StorageError) -> None:
    """It was raised out of the message that asked for it, and the network thread died. Nothing is said meanwhile."""
    before = made.replica.index_id

    def fail(operation: str, name: str) -> None:
        raise error

    made.files.on_operation = fail
    made.perform(fx.Renew(reason="a copied folder"))
    assert made.replica.last_error == f"{type(error).__name__}: {error}"
    assert [name for name, _ in made.node.calls if name == "on_renewed"] == []
    made.files.on_operation = lambda operation, name: None
    made.perform()
    made.perform()
    is_writable = isinstance(error, StorageFull)
    renewed = [args for name, args in made.node.calls if name == "on_renewed"]
    assert renewed == ([(99, made.replica.index_id, 0.0)] if is_writable else [])
    assert (made.replica.index_id != before) is is_writable


@pytest.mark.parametrize("refused", [fx.Renew(reason="a folder that was rolled back"), fx.SetNote(key="k", value=b"v")])
def test_what_a_full_disk_refused_is_tried_again_although_nothing_else_is_due(made: Made, refused: fx.Effect) -> None:
    """A mirror that nobody was connected to never tried: it heard and said nothing until it was opened again."""
    made.node.next_due = lambda now: None  # type: ignore[attr-defined]
    assert made.replica.next_due(0.0) is None

    def full(operation: str, name: str) -> None:
        raise StorageFull("no room")

    made.files.on_operation = full
    made.perform(refused)
    due = made.replica.next_due(0.0)
    assert due == DISK_RETRY_S
    made.replica.step(due)
    assert made.replica.next_due(due) == 2 * DISK_RETRY_S
    made.files.on_operation = lambda operation, name: None
    made.replica.step(2 * DISK_RETRY_S)
    assert made.replica.next_due(2 * DISK_RETRY_S) is None
    assert made.replica.index_id == made.store.note(INDEX_NOTE)


def test_a_renewal_that_a_power_cut_ended_halfway_is_completed_at_the_next_opening(made: Made) -> None:
    """The node id was new, the index id that of the lost history: cursors of others counted what was not there."""
    before = made.replica.index_id

    def full(operation: str, name: str) -> None:
        raise StorageFull("no room")

    made.files.on_operation = full
    made.perform(fx.Renew(reason="a folder that was rolled back"))
    assert made.replica.is_renewal_due
    made.files.on_operation = lambda operation, name: None
    again = made.open(reopen_killed(made.files, made.index), node=99)
    assert again.index_id != before
    kept = made.open(reopen_killed(made.files, made.index), node=99)
    assert kept.index_id == again.index_id


def test_closing_on_a_full_disk_ends_in_order(made: Made) -> None:
    def full(operation: str, name: str) -> None:
        raise StorageFull("no room")

    made.perform(fx.Announce(kind=fx.Kind.CAUGHT_UP))
    made.files.on_operation = full
    (fetch,) = made.replica.fetch([key("a")], 1.0, False, 0.0)
    made.replica.stop(1.0)
    assert fetch.is_done
    assert made.replica.last_error == "StorageFull: no room"


@pytest.mark.parametrize(("node", "is_moved", "is_kept"), [
    (NODE, False, True), (NODE, True, False),
    (NODE + 1, False, False),  # put back without its identity
])
def test_the_index_id_is_kept_unless_the_folder_moved(made: Made, node: int, is_moved: bool, is_kept: bool) -> None:
    before = made.store.note(INDEX_NOTE)
    again = made.open(reopen_killed(made.files, made.index), node=node, is_moved=is_moved)
    assert (again.index_id == before) is is_kept


def test_the_mode_is_remembered_and_an_option_overrides_it() -> None:
    made = Made(is_mirror=True)
    assert made.store.note(MODE_NOTE) == b"mirror"
    assert made.open(reopen_killed(made.files, made.index)).is_mirror
    assert not made.open(reopen_killed(made.files, made.index), is_mirror=False).is_mirror


def test_acks_are_remembered_and_an_option_overrides_them() -> None:
    store = Made(acks=3).store
    assert Made().open(store).node.acks == 3
    assert Made().open(store, acks=2).node.acks == 2
    assert Made().open(store).node.acks == 2
    assert Made().open(Made().store).node.acks == 1


def test_each_level_asks_for_more(made: Made) -> None:
    made.store.put([row_of("a", 1)._replace(owed=True)])
    node: Any = made.node
    node.acked_seq = node.delivered_seq = node.sent_seq = 0

    def reached() -> list[str]:
        levels: tuple[Level, ...] = ("sent", "mirror", "mirrors")
        return [level for level in levels if made.replica.is_reached(1, level)]

    assert reached() == []
    node.sent_seq = 1
    made.perform(apply(row_of("b", 1)), fx.Send(link=LINK, message=ACK))
    assert reached() == [], "it waits for its fsync"
    sync(made.store)
    made.taken()
    assert reached() == ["sent"]
    node.acked_seq = 1
    assert reached() == ["sent", "mirror"]
    node.delivered_seq = 1
    assert reached() == ["sent", "mirror", "mirrors"]
    node.acked_seq = node.delivered_seq = node.sent_seq = 0
    made.store.put([], notes={"delivered": b"1"})
    assert reached() == ["sent", "mirror", "mirrors"], "nothing is owed"


def test_a_mode_changed_on_a_full_disk_is_changed_wholly_and_remembered_once_there_is_room(made: Made) -> None:
    """It was raised after the node had changed: a mirror without an address, whose followers polled it for ever."""
    def full(operation: str, name: str) -> None:
        raise StorageFull("no room")

    made.files.on_operation = full
    made.replica.set_mode(True, 0.0)
    assert [args[0] for name, args in made.node.calls if name == "set_mode"] == [True]
    made.files.on_operation = lambda operation, name: None
    made.perform()
    assert made.store.note(MODE_NOTE) == b"mirror"


def test_a_mode_is_not_changed_when_nothing_can_be_written(made: Made) -> None:
    made.perform(apply(row_of("a", 1)))
    job = made.store.sync_job()
    assert job is not None
    made.store.finish(job, StorageFailed("input/output error"))
    with pytest.raises(StorageFailed, match="the mode stays: input/output error; open the database again"):
        made.replica.set_mode(True, 0.0)
    assert [args[0] for name, args in made.node.calls if name == "set_mode"] == []


def test_the_first_complete_index_is_remembered_at_once(made: Made) -> None:
    assert made.replica.as_of is None
    made.perform(fx.Announce(kind=fx.Kind.CONNECTED))
    assert made.replica.as_of is None
    made.perform(fx.Announce(kind=fx.Kind.CAUGHT_UP))
    assert made.replica.as_of == 5000.0
    assert reopen_killed(made.files, made.index).note(COMPLETE_NOTE) == b"5000000"




def test_what_was_refused_counts_while_its_record_is_as_it_was(made: Made) -> None:
    made.store.put([row_of("a", 1, owed=True), row_of("b", 1, owed=True)])
    made.node.rejected = {seq: Rejected(key(id), "code", "text") for seq, id in ((1, "a"), (2, "b"), (3, "gone"))}
    assert {seq: rejected.id_key for seq, (_, rejected) in made.replica.rejections().items()} == {
        1: key("a"), 2: key("b")
    }
    assert list(made.replica.rejected_seqs) == [1, 2, 3]
    made.store.put([row_of("a", 2, owed=True, hlc=2000)])
    assert list(made.replica.rejections()) == [2]


def test_what_was_refused_is_settled_when_rows_of_others_replace_it(made: Made) -> None:
    made.store.put([row_of("a", 1, owed=True), row_of("b", 1, owed=True)])
    made.node.rejected = {1: Rejected(key("a"), "code", "text"), 2: Rejected(key("b"), "code", "text")}
    made.perform(apply(row_of("a", 2, hlc=2000), row_of("c", 1)))
    assert [args[0] for name, args in made.node.calls if name == "settle_rejected"] == [key("a")]


def test_trying_again_makes_a_new_owed_change_of_what_was_refused_and_of_nothing_else(made: Made) -> None:
    made.store.put([row_of("a", 1, owed=True), row_of("b", 1, owed=True)])
    made.node.rejected = {1: Rejected(key("a"), "code", "text")}
    assert made.replica.retry(key("a"), 0.0)
    assert made.replica.retry(key("b"), 0.0)
    assert not made.replica.retry(key("none"), 0.0)
    a, b = made.store.find(key("a")), made.store.find(key("b"))
    assert a is not None
    assert b is not None
    assert (a.seq, a.owed, a.held, b.seq) == (3, True, 1, 2)
    assert [args[0] for name, args in made.node.calls if name == "settle_rejected"] == [key("a")]


def test_a_failure_is_shown_in_the_status(made: Made) -> None:
    made.perform(fx.Fail(error=PeerError("odd bytes")))
    assert made.replica.last_error == "PeerError: odd bytes"


def test_what_was_said_of_a_connection_is_forgotten_when_it_is_made(made: Made) -> None:
    """A tunnel that resets connections looks like another secret, until it does not."""
    link, other = (fx.Link.dial(Address("host", port)) for port in (1, 2))
    made.replica.on_refused(link, PeerError("compare the secrets"))
    made.replica.on_link_up(other, 0.0)
    assert made.replica.last_error == "PeerError: compare the secrets"
    made.replica.on_link_up(link, 0.0)
    assert made.replica.last_error is None

    made.replica.on_refused(link, PeerError("compare the secrets"))
    made.replica.on_failure(PeerError("something else"))
    made.replica.on_link_up(link, 0.0)
    assert made.replica.last_error == "PeerError: something else"


def test_what_was_said_of_a_connection_is_forgotten_when_its_next_attempt_ends_otherwise(made: Made) -> None:
    """Whoever had another secret is gone: "nothing answers" is all that is known now."""
    link = fx.Link.dial(Address("host", 1))
    made.replica.on_refused(link, PeerError("compare the secrets"))
    made.replica.on_link_down(link, 0.0)
    assert made.replica.last_error == "PeerError: compare the secrets", "the end of the attempt that was refused"

    made.replica.on_link_down(link, 1.0)

    assert made.replica.last_error is None


def test_what_was_said_of_a_connection_is_forgotten_when_nobody_wants_it(made: Made) -> None:
    link = fx.Link.dial(Address("host", 1))
    made.replica.on_refused(link, PeerError("compare the secrets"))
    made.replica.on_link_down(link, 0.0)

    made.perform(fx.HangUp(link=link))

    assert made.replica.last_error is None


def test_a_version_of_ours_that_we_never_had_is_told_to_the_node(made: Made) -> None:
    made.perform(apply(row_of("a", 1, node=NODE + 1)))
    assert "on_foreign" not in [name for name, _ in made.node.calls]
    made.perform(apply(row_of("b", 1, node=NODE)))
    assert "on_foreign" in [name for name, _ in made.node.calls]


def test_a_refused_change_that_the_mirrors_have_after_all_is_refused_no_more(made: Made) -> None:
    """One mirror took it and was lost before its answer; the next refused it, then got it from the others."""
    made.replica.ledger.save(Save(key("a"), None, b"\x80"), branch=False, now_ms=5_000_000)
    leaves = made.store.find(key("a")).leaves
    made.node.rejected = {1: Rejected(key("a"), "code", "text")}
    made.perform(apply(row_of("a", 9, node=NODE + 1)._replace(leaves=leaves, bodies=(None,))))
    assert [args[0] for name, args in made.node.calls if name == "settle_rejected"] == [key("a")]


def test_a_cursor_is_not_written_without_the_notes_before_it_that_a_full_disk_refused(made: Made) -> None:
    """A scope that was narrowed: the cursor would count what was left out."""
    made.files.space_bytes = made.files.used_bytes
    made.perform(fx.SetNote(key="cursor-scope/01", value=b"x"))
    made.files.space_bytes = NO_LIMIT
    made.node.answers["on_message"] = [[apply(row_of("a", 1), notes={"cursor/01": b"5"})]]
    made.replica.on_message(LINK, ms.Pong(number=1), 0.0, user_id="")
    store = reopen_killed(made.files, made.index)
    assert (store.note("cursor/01"), store.note("cursor-scope/01")) == (b"5", b"x")
