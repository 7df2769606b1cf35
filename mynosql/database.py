"""The face: MyNoSQL, the object that an application holds, and opendb.

Owns the checks of what the caller gives, the lock around every call, and the life of the parts below (folder, store,
ledger, replica, threads, sockets). Never speaks the protocol and never touches a file itself. Thread-safe: any thread
may call anything; a blocking call releases the lock while it waits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, get_args

from mynosql.backup import back_up
from mynosql.codec import pack_body, pack_record, pack_whole, unpack_body, unpack_whole
from mynosql.control import answer, refusal
from mynosql.errors import (
    ForkError,
    MyNoSQLError,
    NotOpen,
    OptionInvalid,
    RecordInvalid,
    RecordNotFound,
    RecordUnavailable,
    StorageCorrupt,
)
from mynosql.exporting import export_records, import_records
from mynosql.feed import Feed, Watchers
from mynosql.idkey import all_range, pack_id, prefix_range, unpack_id
from mynosql.ledger import Save, check_given
from mynosql.merging import MergeFn, Merger
from mynosql.opened import OpenDatabase
from mynosql.options import OpenOptions, check_mode
from mynosql.record import join, split
from mynosql.rejecting import RejectWatchers, rejections_of
from mynosql.revision import conflicts_of, rev_string
from mynosql.row import Entry, Leaf, Leaves
from mynosql.scope import check_scope, is_within
from mynosql.views import Change, CheckReport, Conflict, DocInfo, Level, Rejection, SyncStatus

LIST_PAGE = 512
CACHE_SIZE_MIN = 64 << 10
"""Ids that iter() reads at a time: bounds its memory, whatever the number of records."""

Record = dict[Any, Any]


class _Forks:
    """How often this process was forked off another one: a comparison of ints where getpid would be a system call."""

    count = 0

    def add(self) -> None:
        self.count += 1


_forks = _Forks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forks.add)


class MyNoSQL:
    """A document database in this process, kept in step with its other copies in the background."""

    def __init__(self) -> None:
        self._location: str | None = None
        self._open: OpenDatabase | None = None
        self._forks = _forks.count

    # Opening and closing

    def setdblocation(self, folder: str | os.PathLike[str]) -> None:
        """Databases opened from now on live in this folder, each in a folder of its own name; made if missing."""
        if self._open is not None:
            raise OptionInvalid("setdblocation comes before opendb; close the database first")
        self._location = os.fspath(folder)

    def opendb(self, name: str, *, location: str | os.PathLike[str] | None = None, **options: Any) -> MyNoSQL:
        """The database is open: created if it is new, recovered if its process was killed. Returns self.

        options: the fields of OpenOptions (mode, listen, peers, secret, insecure, advertise, acks, scope, durability,
        fsync_interval_s, memtable_bytes_max, cache_bytes_max). Raises OptionInvalid, AddressInvalid, ListenFailed,
        DatabaseLocked, FormatUnknown, StorageCorrupt, StorageFailed; nothing stays open then.
        """
        if self._open is not None:
            raise OptionInvalid(f"{self._open.options.name!r} is open here; close it, or make another MyNoSQL()")
        if options.get("scope") is not None:
            options["scope"] = check_scope(options["scope"])
        if "peers" in options:
            peers = options["peers"]
            options["peers"] = (peers,) if isinstance(peers, str) else tuple(peers)
        try:
            checked = OpenOptions(name=name, **options)
        except TypeError as error:
            raise OptionInvalid(f"opendb: {error}; see mynosql.OpenOptions for what it takes") from error
        folder = os.path.join(os.fspath(location) if location is not None else self._location or home_folder(), name)
        self._open = OpenDatabase(folder, checked, answer=self._answer)
        self._forks = _forks.count
        return self

    def closedb(self) -> None:
        """All that was saved is sealed, the network is left, the folder is free. A second call does nothing."""
        node = self._open
        if node is None:
            return
        if self._forks != _forks.count:
            self._open = None
            return
        try:
            node.close()
        finally:
            self._open = None

    def __enter__(self) -> MyNoSQL:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closedb()

    def _node(self) -> OpenDatabase:
        node = self._open
        if node is None:
            raise NotOpen("no database is open here: call opendb(name) first")
        if self._forks != _forks.count:
            raise ForkError("this database was opened before the fork; in the child, open one in a folder of its own")
        if node.workers.failure is not None:
            node.workers.check()
        return node

    # The mesh

    def setdbmode(self, mode: str) -> None:
        """The node is a "Mirror" (keeps every record, serves others) or a "Peer" (keeps what it used); remembered."""
        is_mirror = check_mode(mode)
        if is_mirror is None:
            raise OptionInvalid("setdbmode needs 'Peer' or 'Mirror'")
        self._node().set_mode(is_mirror)

    def getdbmode(self) -> str:
        """ "Peer" or "Mirror"."""
        return "Mirror" if self._node().is_mirror else "Peer"

    def addpeer(self, url: str, merge: bool = False) -> None:
        """This node keeps in touch with the node at that address, such as "http://host:8800"; remembered.

        Returns at once; syncstatus() tells how it goes. merge: accept a database that was created apart from this
        one. Raises AddressInvalid, also for a host that is not loopback while there is no secret.
        """
        self._node().add_peer(url, merge)

    def delpeer(self, url: str) -> None:
        """The address is forgotten and its conversation ended; an unknown address is no error."""
        self._node().del_peer(url)

    def listpeers(self) -> list[str]:
        """The addresses known: those given to addpeer first, then those learned from other nodes."""
        return self._node().list_peers()

    def setindexscope(self, prefixes: Iterable[str] | None) -> None:
        """A peer's index takes in only ids that begin with one of these; [] none: a write-only logger. Remembered.

        None: every id again. What is saved here is delivered and what is read is fetched in any case. Outside of the
        scope docinfo says "unknown", unless the record is pending here, and readdoc asks the mirror each time; the
        copy held is what it returns with no mirror live. A wider scope fetches what is missing; with a narrower one,
        ids that are neither held nor owed are forgotten. Raises OptionInvalid on a mirror, which keeps every record.
        """
        self._node().set_scope(check_scope(prefixes))

    def getindexscope(self) -> tuple[str, ...] | None:
        """The id prefixes that the index is limited to, without what others of them cover; None: it is not."""
        return self._node().scope

    @property
    def location(self) -> str | None:
        """The folder in which the open database has its own folder; None while none is open."""
        return None if self._open is None else os.path.dirname(self._open.folder)

    @property
    def endpoint(self) -> str | None:
        """Where this node really listens, such as "http://127.0.0.1:8800"; None when it does not."""
        return self._node().endpoint

    def _answer(self, request: bytes) -> bytes:
        """A command on this folder, from another process of this user. Not begun any more once closing has begun."""
        node = self._open
        if node is None or node.is_closed:
            return refusal(NotOpen("the process that has the database open is opening or closing it: ask again"))
        return answer(self, request)

    # Saving

    def savedoc(self, rec: Record, branch: bool = False) -> Record:
        """The record is saved here and will be everywhere; returns it with its `id` and new `rev`.

        rec is not changed. A record equal to the one that is there is no change. branch: when rec's rev is no longer
        the newest, keep both as concurrent revisions. Raises RecordInvalid, RevisionConflict, StorageFull,
        StorageFailed; nothing is saved then.
        """
        node = self._open
        if node is None or self._forks != _forks.count or node.workers.failure is not None:
            node = self._node()
        id, given, body = split(rec)
        if id is None:
            id = node.next_id()
        if given is not None:
            given = check_given(given)
        packed, unpack = pack_record(body)
        leaf = node.save(pack_id(id), given, packed, branch)
        return {"id": id, "rev": rev_string(leaf), **(body if unpack is None else unpack(packed))}

    def savedocs(self, recs: Iterable[Record]) -> list[Record]:
        """All records are saved, in one journal frame, or none is; returns them with `id` and `rev`, in order.

        Raises what savedoc raises, with `.position` naming the record.
        """
        node = self._node()
        ids: list[Hashable] = []
        copies: list[Record] = []
        saves: list[Save] = []
        for position, rec in enumerate(recs):
            try:
                id, given, body = split(rec)
                if id is None:
                    id = node.next_id()
                packed, unpack = pack_record(body)
                saves.append(Save(pack_id(id), check_given(given), packed))
            except RecordInvalid as error:
                raise RecordInvalid(
                    f"record {position} of the batch: {error}; none of the batch was saved",
                    path=error.path, position=position,
                ) from error
            ids.append(id)
            copies.append(body if unpack is None else unpack(packed))
        leaves = node.save_many(saves)
        return [{"id": id, "rev": rev_string(leaf), **body} for id, leaf, body in zip(ids, leaves, copies, strict=True)]

    def deletedoc(self, id_or_rec: Any) -> None:
        """The record is deleted here and will be everywhere, with all its concurrent revisions.

        A record (a dict with `id` and `rev`) must carry a current rev, else RevisionConflict. A deleted one is no
        change; raises RecordNotFound for an absent id.
        """
        given = None
        id = id_or_rec
        if isinstance(id_or_rec, dict):
            id, given, _ = split(id_or_rec)
            given = check_given(given)
        self._node().delete(pack_id(id), given)

    # Reading

    def readdoc(self, id: Hashable, timeout: float = 5.0, stale: bool = True, confirm: bool = False) -> Record:
        """The newest revision that this node knows of, as a dict of the caller's own.

        Held here: at once. Else fetched from a mirror within timeout seconds; with no live mirror an older held
        copy is returned, unless stale=False. confirm: ask the mirror before saying that an id does not exist.
        Raises RecordNotFound, RecordUnavailable, StorageCorrupt.
        """
        node = self._open
        if node is None or self._forks != _forks.count or node.workers.failure is not None:
            node = self._node()
        if type(id) is str:
            hit = node.wholes.young.get(id)
            whole = node.reading.read_whole(id) if hit is None else hit
            if whole is not None:
                return unpack_whole(whole)
        id_key = pack_id(id)
        found = node.reading.read(id_key)
        if found is None or found[1] is None or (node.scope is not None and node.reading.is_doubtful(id_key)):
            found = node.reading.read_remote(id_key, id, timeout_s=timeout, allow_stale=stale, confirm=confirm)
        leaf, body = found[0], found[1]
        assert body is not None
        try:
            rec = {"id": id, "rev": rev_string(leaf), **unpack_body(body)}
        except ValueError as error:
            raise StorageCorrupt(
                node.folder, None, f"record {id!r} cannot be unpacked: {error}; run 'mynosql check'"
            ) from error
        if type(id) is str and (node.scope is None or is_within(node.scope, id_key)):
            node.reading.keep_whole(id_key, leaf, pack_whole(id, rec["rev"], body))
        return rec

    def readdocs(self, ids: Iterable[Hashable], timeout: float = 5.0) -> list[Record]:
        """The records of these ids in this order; those not held are fetched together. Raises what readdoc raises."""
        wanted = list(ids)
        node = self._node()
        node.reading.prefetch([pack_id(id) for id in wanted], timeout)
        deadline = time.monotonic() + timeout
        return [self.readdoc(id, timeout=max(deadline - time.monotonic(), 0.0)) for id in wanted]

    def evictdoc(self, id: Hashable) -> bool:
        """This peer holds the record's content no more, but knows of it as before; readdoc fetches it again.

        Nothing is sent. Returns False, and keeps it, while it is pending or set aside: then no mirror has it. The space
        on disk comes back by and by (compactdb). Raises RecordNotFound; OptionInvalid on a mirror, which holds all.
        """
        try:
            return self._node().evict(pack_id(id))
        except RecordNotFound:
            raise RecordNotFound(f"cannot evict {id!r}: no such record is known here", id=id) from None

    def setcachesize(self, size: int | None) -> None:
        """The content of records takes about `size` bytes of this peer's disk at most (None: no limit); remembered.

        What was not read for longest leaves first, in the background, as evictdoc() does it; never what no mirror has
        yet, nor what is pinned. When the budget is full of that, saves raise StorageFull until a mirror has taken some.
        What this node knows of records that it does not hold (some 50 bytes each) does not count.
        Raises OptionInvalid for what is no number of bytes from 65,536 up, and on a mirror, which holds all.
        """
        if size is not None and (type(size) is not int or size < CACHE_SIZE_MIN):
            raise OptionInvalid(f"setcachesize({size!r}): give a number of bytes from {CACHE_SIZE_MIN:,} up, or None")
        self._node().set_cache_size(size)

    def pindoc(self, id: Hashable, pinned: bool = True, timeout: float = 5.0) -> None:
        """Fetch the record if it is not held, and never evict it (pinned=False: not any more); remembered.

        Raises what readdoc raises.
        """
        if pinned:
            self.readdoc(id, timeout=timeout)
        self._node().pin(pack_id(id), is_pinned=pinned)

    def pindocs(self, prefix: str, pinned: bool = True) -> None:
        """Never evict records whose str id begins so, once they are held (pinned=False: not any more); remembered."""
        if type(prefix) is not str:
            raise OptionInvalid(f"pindocs({prefix!r}): a prefix is a str")
        self._node().pin_all(prefix, is_pinned=pinned)

    def docinfo(self, id: Hashable) -> DocInfo:
        """What this node knows of an id without asking anyone; never raises for an id that is not there."""
        return self._node().reading.doc_info(pack_id(id), id)

    def listdocs(self, prefix: str = "", after: Hashable | None = None, limit: int | None = None) -> list[Any]:
        """The ids of all live records the index knows, held here or not, in id order.

        prefix: only str ids that begin so. after: only ids behind this one (the last of the page before).
        """
        if limit is not None and limit < 0:
            raise OptionInvalid(f"limit {limit}: expected a number of ids from 0 up, or None for all")
        low, high = prefix_range(prefix) if prefix else all_range()
        if after is not None:
            low = max(low, pack_id(after) + b"\0")
        ids: list[Any] = []
        for entry in self._entries(low, high, limit):
            ids.append(unpack_id(entry.id_key))
        return ids

    def _entries(self, low: bytes, high: bytes | None, limit: int | None) -> Iterator[Entry]:
        while limit is None or limit > 0:
            page = self._node().reading.entries(low, high, LIST_PAGE if limit is None else min(limit, LIST_PAGE))
            yield from page
            if len(page) < LIST_PAGE:
                return
            low = page[-1].id_key + b"\0"
            if limit is not None:
                limit -= len(page)

    # The mapping protocol

    def __getitem__(self, id: Hashable) -> Record:
        return self.readdoc(id)

    def __setitem__(self, id: Hashable, rec: Record) -> None:
        """Saves rec under this id over whatever is there: the caller says what the record is from now on."""
        given = dict(rec)
        given["id"] = id
        if "rev" not in given:
            rev = self.docinfo(id).rev
            if rev is not None:
                given["rev"] = rev
        self.savedoc(given)

    def __delitem__(self, id: Hashable) -> None:
        if id not in self:
            raise RecordNotFound(f"cannot delete {id!r}: no such record", id=id)
        self.deletedoc(id)

    def __contains__(self, id: Hashable) -> bool:
        return self._node().reading.is_live(pack_id(id))

    def __len__(self) -> int:
        return self._node().reading.count()

    def __bool__(self) -> bool:
        return True  # an open but empty database is not "nothing"

    def __iter__(self) -> Iterator[Any]:
        low, high = all_range()
        for entry in self._entries(low, high, None):
            yield unpack_id(entry.id_key)

    # Conflicts

    def getconflicts(self, id: Hashable, timeout: float = 5.0) -> list[Conflict]:
        """The concurrent revisions that lost against what readdoc gives, best first; [] when there is no conflict.

        Bodies that are not here are fetched within timeout; those that no mirror delivered have held=False.
        Raises RecordNotFound for an absent id.
        """
        node = self._node()
        id_key = pack_id(id)
        losers = self._losers(node, id_key, id)
        if any(not leaf.deleted and node.reading.read_leaf(id_key, leaf) is None for leaf in losers):
            node.reading.fetch_leaves(id_key, timeout)
            losers = self._losers(node, id_key, id)  # what came may be newer
        return [self._conflict(node, id_key, id, leaf) for leaf in losers]

    def _losers(self, node: OpenDatabase, id_key: bytes, id: Hashable) -> Leaves:
        entry = node.reading.find(id_key)
        if entry is None:
            raise RecordNotFound(f"no record {id!r} is known here", id=id)
        return conflicts_of(entry.leaves)

    def _conflict(self, node: OpenDatabase, id_key: bytes, id: Hashable, leaf: Leaf) -> Conflict:
        body = None if leaf.deleted else node.reading.read_leaf(id_key, leaf)
        rev = rev_string(leaf)
        return Conflict(
            rev=rev, deleted=leaf.deleted, held=leaf.deleted or body is not None,
            rec=None if body is None else join(id, rev, unpack_body(body)), node=f"{leaf.node:016x}",
        )

    def resolvedoc(self, id: Hashable, rec: Record) -> Record:
        """rec is the record from now on, on every node: it descends from all revisions known here. Returns it saved."""
        _, _, body = split(rec)
        packed = pack_body(body)
        leaf = self._node().resolve(pack_id(id), packed)
        return join(id, rev_string(leaf), unpack_body(packed))

    def onconflict(self, fn: MergeFn | Literal["fields"], prefix: str = "") -> Callable[[], None]:
        """fn(id, revisions) merges conflicts: those that there are now, and those to come. Returns what ends it.

        revisions: the concurrent revisions as records, the winner first. What fn returns is the record from now on,
        as with resolvedoc, covering exactly those revisions; None leaves the conflict as it is until it changes.
        "fields" is the built-in merge, see merge_fields. prefix: only str ids that begin so. fn runs in a thread of
        its own and may take its time; what it raises is logged and shown in syncstatus().last_error, and leaves the
        conflict. Bodies that are not here are fetched first. Raises OptionInvalid.
        """
        return Merger.of(self._node()).add(fn, prefix)

    def conflicteddocs(self, prefix: str = "", after: Hashable | None = None, limit: int | None = None) -> list[Any]:
        """The ids of live records with concurrent revisions, in id order; arguments as for listdocs.

        Looks through the index until it has found all that there are.
        """
        low, high = prefix_range(prefix) if prefix else all_range()
        if after is not None:
            low = max(low, pack_id(after) + b"\0")
        wanted = self._node().store.counters.conflicts
        if limit is not None:
            wanted = min(wanted, limit)
        ids: list[Any] = []
        for entry in self._entries(low, high, None if wanted > 0 else 0):
            if conflicts_of(entry.leaves):
                ids.append(unpack_id(entry.id_key))
                if len(ids) >= wanted:
                    break
        return ids

    # What a mirror refused

    def rejecteddocs(self) -> list[Rejection]:
        """The changes written here that a mirror refused, oldest first. They are here as saved, and on no mirror.

        They block nothing and are sent again when their record changes, or by retrydoc. Not in pendingdocs().
        """
        return rejections_of(self._node())

    def onreject(self, fn: Callable[[Rejection], None]) -> Callable[[], None]:
        """fn is called, in a thread of its own, for each refused change, old and new; returns a function that ends it.

        An exception in fn is logged, shown in syncstatus().last_error, and does not end the calls.
        """
        return RejectWatchers.of(self._node()).add(fn)

    def retrydoc(self, id: Hashable) -> None:
        """A change that a mirror refused is sent once more. No change when there is none.

        Raises RecordNotFound for an id that is not known here.
        """
        if not self._node().retry(pack_id(id)):
            raise RecordNotFound(f"cannot retry {id!r}: no such record is known here", id=id)

    # What changes and what is owed

    def changes(self, since: str | None = None, live: bool = False, prefix: str = "") -> Feed:
        """The changes of this node after the token `since` (None: all), each id at its newest, oldest first.

        live: wait for more instead of ending; close() the result, or break out of the loop, to stop. A token of a
        folder that was rebuilt or restored starts from the beginning: nothing is missed.
        """
        return Feed(self._node(), since=since, live=live, prefix=prefix)

    def onchange(self, fn: Callable[[Change], None], prefix: str = "") -> Callable[[], None]:
        """fn is called, in a thread of its own, for each change from now on; returns a function that ends it.

        An exception in fn is logged, shown in syncstatus().last_error, and does not end the calls.
        """
        return Watchers.of(self._node()).add(fn, prefix)

    def pendingdocs(self) -> list[Any]:
        """The ids of records written here that too few mirrors (acks=) have confirmed, oldest change first.

        Without those that a mirror refused: they do not wait for anything, see rejecteddocs().
        """
        return [unpack_id(row.id_key) for row in self._node().pending_rows()]

    def waitsync(self, timeout: float | None = None, level: Level = "mirror") -> bool:
        """True once everything that was saved here before the call is as far as level says; False after timeout.

        level: "mirror": on the disk of one mirror. "mirrors": of as many as opendb's acks= asks for. "sent": handed
        to the network for a mirror, which may still lose it. On a mirror: other mirrors, and "sent" as "mirror"; one
        that knows of no other returns True, but for "mirrors". False as well, but for "sent", and as soon as all else
        is there, while a change from before the call stands in rejecteddocs(). Raises OptionInvalid for timeout=None
        while no mirror is known (it would wait for ever), and for "mirrors" where acks is 1.
        """
        if level not in get_args(Level):
            raise OptionInvalid(f"level {level!r}: expected one of {', '.join(map(repr, get_args(Level)))}")
        return self._node().wait_sync(timeout, level)

    def syncstatus(self) -> SyncStatus:
        """The state of this node and of its place in the mesh."""
        return self._node().sync_status()

    def checkdb(self, progress: Callable[[int, int], None] | None = None) -> CheckReport:
        """Every byte of the folder is read and compared; returns what is wrong. progress is called with (done, all)."""
        return self._node().check(progress)

    def exportdb(self, file: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None) -> int:
        """All live records are in the file, in id order, without their revs; returns how many.

        file: a name that ends in .jsonl keeps every type; .csv is for spreadsheets and comes back equal, too, but for
        the order of the fields; their names must be text. A peer fetches what it does not hold. An existing file is
        replaced once all is written.
        progress: (records done, all). Raises RecordUnavailable, OptionInvalid, StorageFull, StorageFailed.
        """
        return export_records(self, file, progress)

    def importdb(self, file: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None) -> int:
        """Every record of a file like exportdb's is saved, over what its id had; returns how many there were.

        Records without an id get one. What is here already with the same content is no change, so an import may be
        done again. progress: (bytes read, all). Raises RecordInvalid with the line; what stands before it is saved.
        """
        return import_records(self, file, progress)

    def backupdb(self, folder: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None) -> str:
        """A copy of this database as it is now, made while others go on saving; returns its folder, `folder`/name.

        folder: made if missing; opendb(name, location=folder) opens the copy. It is durable on return, complete or not
        there at all, and has no identity: opened, it is a node of its own and may join the mesh. A peer's copy holds
        what the peer holds. progress is called with (bytes done, all). Raises OptionInvalid when there is something
        at that place already, StorageFull, StorageFailed.
        """
        return back_up(self._node(), folder, progress)

    def compactdb(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Give back, now, the disk space of replaced revisions and join small segments; else it happens by and by.

        progress is called with (rows done, all rows). Others save and read meanwhile. Raises StorageFull when the copy
        of a part does not fit on the disk, StorageFailed.
        """
        self._node().workers.compact(progress)


def opendb(name: str, *, location: str | os.PathLike[str] | None = None, **options: Any) -> MyNoSQL:
    """An open database; the same as MyNoSQL().opendb(...). Use it in a with statement, or call closedb()."""
    return MyNoSQL().opendb(name, location=location, **options)


def home_folder() -> str:
    """Where databases live by default: $MYNOSQL_HOME, else this system's place for a user's data."""
    given = os.environ.get("MYNOSQL_HOME")
    if given:
        return given
    if os.name == "nt":
        return os.path.join(os.environ.get("LOCALAPPDATA") or os.path.expanduser("~"), "mynosql")
    if os.path.isdir(os.path.expanduser("~/Library/Application Support")):
        return os.path.expanduser("~/Library/Application Support/mynosql")
    return os.path.join(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "mynosql")


__all__ = ["MyNoSQL", "MyNoSQLError", "RecordUnavailable", "Sequence", "home_folder", "opendb"]
