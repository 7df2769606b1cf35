"""A store against a dict, through saves, seals in every stage, restarts, kills and power cuts.

`tox -e deep` looks for new counterexamples, 2,000 times 50 steps; everywhere else the same few are run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from random import Random

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mynosql.errors import StorageFull
from mynosql.row import Row, StaleBody
from mynosql.store.files import DiskFiles
from mynosql.store.index import SqliteIndex
from mynosql.store.rewriting import RewriteJob
from mynosql.store.seal import SealJob, SyncJob
from mynosql.store.store import Counters, Store, StoreOptions
from tests.sim.memory_files import MemoryFiles
from tests.sim.memory_index import MemoryIndex
from tests.store.making import (
    NODE,
    body_of,
    conflict_row,
    entry_of,
    feed_rows,
    key,
    remote_row,
    row_of,
    tombstone,
)

IS_DEEP = bool(os.environ.get("MYNOSQL_DEEP"))
OPTIONS = StoreOptions(memtable_bytes_max=3000, unsealed_bytes_max=1 << 30)
IDS = [f"id-{number:02d}" for number in range(24)]
ids = st.sampled_from(IDS)
values = st.integers(0, 1 << 40) | st.sampled_from([900, 5_000, 70_000]).map(lambda count: "x" * count)
"""Small ones, and some that fill a memtable, a block, or need pieces."""


class StoreMachine(RuleBasedStateMachine):
    """rows: what must be in the store. A kill keeps all of it, a power cut what was durable, and maybe more."""

    def __init__(self) -> None:
        super().__init__()
        self.files = MemoryFiles()
        self.index = MemoryIndex()
        self.rows: dict[bytes, Row] = {}
        self.notes: dict[str, bytes] = {}
        self.frames: list[tuple[list[Row], dict[str, bytes]]] = []
        """Every frame since the last restart, in order: what a power cut may or may not leave."""
        self.delivered = 0
        self.hlc = 10_000
        self.sealing: SealJob | RewriteJob | None = None
        self.is_run = False
        """The job that is under way has done its heavy half."""
        self.now = 0.0
        self.syncing: SyncJob | None = None
        self.cut_journals: set[str] = set()

    @initialize()
    def opened(self) -> None:
        self.open()

    def open(self) -> None:
        self.store = Store.open(self.files, self.index, OPTIONS, node=NODE)
        self.sealing = self.syncing = None
        self.frames = []
        if self.cut_journals & {self.files.path(name) for name in self.files.list()}:
            # A journal with a gap is replayed once more: cursors behind it are not believed again.
            self.notes.pop("cursor/other", None)
            self.notes.update(self.store.notes("cursor/"))
        self.base = (dict(self.rows), dict(self.notes))

    # Writing

    def written(self, rows: list[Row], notes: dict[str, bytes], seq_before: int) -> None:
        numbered = []
        for row in rows:
            if not row.stray:
                seq_before += 1
                row = row._replace(seq=seq_before)
            self.rows[row.id_key] = row._replace(stray=False)
            numbered.append(row)
        assert self.store.head_seq == seq_before
        self.notes.update(notes)
        self.notes = {name: value for name, value in self.notes.items() if value}
        self.frames.append((numbered, notes))

    def next_hlc(self) -> int:
        self.hlc += 1
        return self.hlc

    @rule(id=ids, value=values, owed=st.booleans())
    def save(self, id: str, value: object, owed: bool) -> None:
        before = self.store.head_seq
        row = row_of(id, value, owed=owed, hlc=self.next_hlc())
        assert self.store.put_one(row) == before + 1
        self.written([row], {}, before)

    @rule(id=ids)
    def delete(self, id: str) -> None:
        before = self.store.head_seq
        row = tombstone(id, owed=True, hlc=self.next_hlc())
        self.store.put_one(row)
        self.written([row], {}, before)

    @rule(some=st.lists(st.tuples(ids, values), max_size=8, unique_by=lambda pair: pair[0]), owed=st.booleans())
    def save_batch(self, some: list[tuple[str, object]], owed: bool) -> None:
        before = self.store.head_seq
        rows = [row_of(id, value, owed=owed, hlc=self.next_hlc()) for id, value in some]
        notes = {"cursor/other": b"%d" % len(self.frames)}
        self.store.put(rows, notes=notes)
        self.written(rows, notes, before)

    @rule(id=ids, value=values, is_conflict=st.booleans())
    def learn(self, id: str, value: object, is_conflict: bool) -> None:
        """Another node's change arrives without its body; what was held becomes stale."""
        before = self.store.head_seq
        known = self.rows.get(key(id))
        row = conflict_row(id, value, "loser", "lost") if is_conflict else remote_row(id, value, hlc=self.next_hlc())
        if not is_conflict and known is not None and known.bodies[0] is not None:
            row = row._replace(stale=StaleBody(known.leaves[0], known.bodies[0]))
        self.store.put([row])
        self.written([row], {}, before)

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), value=values, is_fetched=st.booleans())
    def fetch_or_evict(self, data: st.DataObject, value: object, is_fetched: bool) -> None:
        """A body comes or goes: a stray row under the same seq."""
        row = self.rows[data.draw(st.sampled_from(sorted(self.rows)))]
        before = self.store.head_seq
        if is_fetched:
            body = body_of(value)
            leaf = row.leaves[0]._replace(size=len(body), digest=row_of("", value).leaves[0].digest, deleted=False)
            row = row._replace(leaves=(leaf, *row.leaves[1:]), bodies=(body, *row.bodies[1:]), stray=True, stale=None)
        else:
            row = row._replace(bodies=(None,) * len(row.leaves), stray=True)
        self.store.put_one(row)
        self.written([row], {}, before)

    @rule(step=st.integers(-5, 20))
    def confirm(self, step: int) -> None:
        self.delivered = min(max(0, self.delivered + step), self.store.head_seq)
        notes = {"delivered": b"%d" % self.delivered}
        before = self.store.head_seq
        self.store.put([], notes=notes)
        self.written([], notes, before)

    @rule(id=ids, value=values)
    def full_disk(self, id: str, value: object) -> None:
        self.files.space_bytes = self.files.used_bytes + 10
        before = self.store.head_seq, self.store.written, self.store.counters
        try:
            self.store.put_one(row_of(id, value))
        except StorageFull:
            pass
        else:
            raise AssertionError("ten bytes held a record")
        finally:
            self.files.space_bytes = 1 << 50
        assert before == (self.store.head_seq, self.store.written, self.store.counters)

    # Sealing and durability

    @precondition(lambda self: self.sealing is None)
    @rule(force=st.booleans())
    def seal_begins(self, force: bool) -> None:
        self.now += 5.0
        self.sealing, self.is_run = self.store.seal_job(self.now, force=force), False

    @precondition(lambda self: self.sealing is None)
    @rule()
    def compaction_is_asked(self) -> None:
        self.store.ask_compaction()

    @precondition(lambda self: self.sealing is None and self.syncing is None)
    @rule()
    def all_is_compacted(self) -> None:
        self.store.ask_compaction()
        while (job := self.store.seal_job(self.now)) is not None:
            job.run()
            self.store.finish(job)
            self.now += 5.0
        assert not self.store.is_compaction_asked
        assert all(segment.dead == 0 for segment in self.index.segments())

    @precondition(lambda self: self.sealing is not None)
    @rule(is_run_only=st.booleans())
    def seal_ends(self, is_run_only: bool) -> None:
        assert self.sealing is not None
        if not self.is_run:
            self.sealing.run()
            self.is_run = True
        if not is_run_only:
            self.store.finish(self.sealing)
            self.sealing = None

    @precondition(lambda self: self.sealing is not None and not self.is_run)
    @rule()
    def seal_meets_a_full_disk(self) -> None:
        assert self.sealing is not None
        self.files.space_bytes = self.files.used_bytes + 50
        error = None
        try:
            self.sealing.run()
        except StorageFull as full:
            error = full
        self.files.space_bytes = 1 << 50
        self.store.finish(self.sealing, error)
        self.sealing = None

    @precondition(lambda self: self.syncing is None)
    @rule()
    def sync_begins(self) -> None:
        self.syncing = self.store.sync_job()

    @precondition(lambda self: self.syncing is not None)
    @rule()
    def sync_ends(self) -> None:
        assert self.syncing is not None
        self.syncing.run()
        self.store.finish(self.syncing)
        self.syncing = None

    # Endings

    @rule()
    def close_and_open(self) -> None:
        for job in (self.sealing, self.syncing):
            if job is not None:
                if job is not self.sealing or not self.is_run:
                    job.run()
                self.store.finish(job)
        self.store.close()
        assert not [name for name in self.files.list() if name.startswith("journal")]
        self.index = self.index.crash()
        self.open()

    @rule()
    def kill(self) -> None:
        self.files, self.index = self.files.copy(), self.index.crash()
        self.open()

    @rule(seed=st.integers(0, 1 << 30))
    def power_cut(self, seed: int) -> None:
        durable = self.store.durable
        durable_seq = self.store.durable_seq
        frames, (rows, notes) = self.frames, self.base
        self.files, self.index = self.files.crash(Random(seed)), self.index.crash()
        allowed = {id_key: [row] for id_key, row in rows.items()}
        for number, (written, noted) in enumerate(frames):
            for row in written:
                row = row._replace(stray=False)
                allowed[row.id_key] = [*([] if number < durable else allowed.get(row.id_key, [None])), row]
            if number < durable:
                notes.update(noted)
        store = Store.open(self.files, self.index, OPTIONS, node=NODE)
        self.check_survivors(store, allowed, notes, frames[durable:])
        assert store.head_seq >= durable_seq
        self.adopt(store)
        self.cut_journals = {self.files.path(name) for name in self.files.list() if name.startswith("journal")}

    def check_survivors(self, store: Store, allowed: dict, notes: dict, later: list) -> None:  # type: ignore[type-arg]
        for id_key, rows in allowed.items():
            entry = store.find(id_key)
            choices = [None if row is None else entry_of(row) for row in rows]
            # A stray of a lost change is dropped, one of an older row may be lost: leaves must be those of a choice.
            assert (entry and entry.leaves) in [choice and choice.leaves for choice in choices], (entry, choices)
        cursor = store.note("cursor/other")
        if cursor and cursor != notes.get("cursor/other"):
            position = next(place for place, (_, noted) in enumerate(later) if noted.get("cursor/other") == cursor)
            for written, _ in later[: position + 1]:
                for row in written:
                    entry = store.find(row.id_key)
                    assert entry is not None, "the cursor passed a change that is not here"
                    assert entry.seq >= row.seq, "the cursor passed a change that is not here"

    def adopt(self, store: Store) -> None:
        """Go on from what the power cut left; whether it is consistent the invariants check."""
        self.rows = {}
        for entry in store.entries(b"", None, live_only=False, limit=1000):
            bodies = tuple(store.read_body(entry.id_key, place) for place in range(len(entry.leaves)))
            stale = store.read_stale(entry.id_key)
            self.rows[entry.id_key] = Row(
                entry.id_key, entry.leaves, bodies, entry.seq, entry.owed, False,
                None if entry.stale is None or stale is None else StaleBody(entry.stale, stale),
            )
        self.notes = store.notes()
        self.delivered = int(self.notes.get("delivered", b"0"))
        self.store, self.sealing, self.syncing, self.frames = store, None, None, []
        self.base = (dict(self.rows), dict(self.notes))

    # What always holds

    @invariant()
    def counts_are_exact(self) -> None:
        if not hasattr(self, "store"):
            return
        live = [row for row in self.rows.values() if not row.leaves[0].deleted]
        held = sum(row.bodies[0] is not None for row in live)
        assert self.store.counters == Counters(
            len(live), held, sum(row.bodies[0] is None and row.stale is not None for row in live), len(live) - held,
            sum(len(row.leaves) > 1 for row in live),
            sum(row.owed and row.seq > self.delivered for row in self.rows.values()),
        )
        assert self.store.notes() == self.notes

    @rule(id=ids)
    def one_is_as_written(self, id: str) -> None:
        self.check_one(key(id))

    def check_one(self, id_key: bytes) -> None:
        row = self.rows.get(id_key)
        if row is None:
            assert self.store.find(id_key) is None
            assert self.store.read(id_key) is None
            return
        assert self.store.find(id_key) == entry_of(row)
        assert self.store.read(id_key) == (entry_of(row), row.bodies[0])
        for place, body in enumerate(row.bodies):
            assert self.store.read_body(id_key, place) == body
            if body is not None:
                assert self.store.read_piece(id_key, place, 10, 100) == body[10:110]
        assert self.store.read_stale(id_key) == (row.stale.body if row.stale else None)

    @rule()
    def all_is_as_written(self) -> None:
        for id in IDS:
            self.check_one(key(id))
        entries = self.store.entries(b"", None, live_only=False, limit=1000)
        assert entries == [entry_of(row) for _, row in sorted(self.rows.items())]
        missing = [entry for entry in entries if not entry.is_fresh and entry.is_live]
        assert self.store.missing(b"", 1000) == missing
        assert self.store.missing(key(IDS[9]), 3) == [entry for entry in missing if entry.id_key > key(IDS[9])][:3]

    @rule(after=st.integers(0, 60), owed_only=st.booleans(), body_bytes_max=st.sampled_from([-1, 500, 1 << 30]))
    def feed_is_complete(self, after: int, owed_only: bool, body_bytes_max: int) -> None:
        after = min(after, self.store.head_seq)
        low, high = key(IDS[2]), key(IDS[-2])
        rows = feed_rows(
            self.store, after, owed_only=owed_only, low=low, high=high, bodies=body_bytes_max >= 0,
            body_bytes_max=body_bytes_max,
        )
        expected = [
            row._replace(
                stale=None,
                bodies=tuple(None if body is None or len(body) > body_bytes_max else body for body in row.bodies),
            )
            for row in sorted(self.rows.values(), key=lambda row: row.seq)
            if row.seq > after and low <= row.id_key < high and (row.owed or not owed_only)
        ]
        assert rows == expected

    @rule()
    def check_finds_nothing(self) -> None:
        report = self.store.check()
        # A power cut may lose unsynced saves out of the middle of a journal; its next check says so.
        assert [problem for problem in report.problems if problem.file not in self.cut_journals] == []
        assert report.records == self.store.records

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.all_is_as_written()
            self.check_finds_nothing()


class DiskMachine(StoreMachine):
    """The same on a real folder with SQLite; power cuts and full disks are left to the models of the two doors."""

    files: DiskFiles  # type: ignore[assignment]
    index: SqliteIndex  # type: ignore[assignment]
    power_cut = full_disk = seal_meets_a_full_disk = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="mynosql-model-"))
        self.lives = 0
        self.use(self.folder / "0")

    def use(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.files = DiskFiles(str(folder))
        self.index = SqliteIndex(self.files.path("index"))

    @rule()
    def close_and_open(self) -> None:
        for job in (self.sealing, self.syncing):
            if job is not None:
                if job is not self.sealing or not self.is_run:
                    job.run()
                self.store.finish(job)
        self.store.close()
        assert not [name for name in self.files.list() if name.startswith("journal")]
        self.use(self.folder / str(self.lives))
        self.open()

    @rule()
    def kill(self) -> None:
        """What a killed process leaves is what its files hold: a copy of them is opened."""
        left = self.folder / str(self.lives)
        self.lives += 1
        shutil.copytree(left, self.folder / str(self.lives), ignore=shutil.ignore_patterns("*-shm"))
        self.index.close()
        self.files.close()
        shutil.rmtree(left)
        self.use(self.folder / str(self.lives))
        self.open()

    def teardown(self) -> None:
        super().teardown()
        self.index.close()
        self.files.close()
        shutil.rmtree(self.folder)


DEEP = settings(max_examples=2_000, stateful_step_count=50, derandomize=False, deadline=None, print_blob=True)
StoreMachine.TestCase.settings = DEEP if IS_DEEP else settings(max_examples=60, stateful_step_count=40)
DiskMachine.TestCase.settings = DEEP if IS_DEEP else settings(max_examples=15, stateful_step_count=40)
TestStore = StoreMachine.TestCase
TestStoreOnDisk = DiskMachine.TestCase
