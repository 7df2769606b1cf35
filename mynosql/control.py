"""The verbs by which a command works on a database that another process has open, both halves of them.

answer() runs inside that process: packed request in, packed answer out, it never raises. RemoteDatabase is the other
side: the same method names as MyNoSQL, an error comes back as the class it was. Owns the shape of these messages,
never how they travel: `request` is given (net/local.py), answer() is called by whoever owns the socket.

A request is the map {"v": 1, "verb": …, arguments}; an answer {"ok": result} or {"error": class, "text": …,
"with": attributes}. Records travel as packed bytes inside, so that depth is counted for each record by itself.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from mynosql import errors
from mynosql.codec import pack_value, unpack_value
from mynosql.errors import MyNoSQLError, OptionInvalid, PeerError, RecordInvalid
from mynosql.feed import pack_token
from mynosql.views import Change, CheckReport, Conflict, DocInfo, Problem, Rejection, SyncStatus

if TYPE_CHECKING:
    from mynosql.database import MyNoSQL

log = logging.getLogger("mynosql")

CONTROL_VERSION = 1
LIST_PAGE_MAX = 4096
"""Ids in one answer: at most 4 MiB of id keys, whatever the number of records."""
CHANGES_PAGE_MAX = 1000
"""Changes in one answer, for the same reason."""
WAIT_S_MAX = 20.0
"""The longest that one request may wait inside the process, so that a command that was killed frees its place soon."""
ANSWER_MARGIN_S = 10.0
"""Beyond its own waiting a request may take this long: the process can be busy with a seal or a first sync."""
WHOLE_TIMEOUT_S = 3600.0
"""checkdb and the like read the whole folder; a disk of a terabyte takes its time."""
NOW = "now"
"""In place of a token: the point that the feed has reached."""

Record = dict[Any, Any]
T = TypeVar("T")

# Inside the process that has the database open


def answer(db: MyNoSQL, payload: bytes) -> bytes:
    """The packed answer to one packed request. Never raises; blocks for WAIT_S_MAX at most (checkdb …: as it takes)."""
    try:
        return pack_value({"ok": _perform(db, payload)})
    except Exception as error:
        return pack_value(_describe(error))


def refusal(error: MyNoSQLError) -> bytes:
    """The packed answer to a request of which nothing was done."""
    return pack_value(_describe(error))


def _perform(db: MyNoSQL, payload: bytes) -> Any:
    try:
        request = unpack_value(payload)
    except ValueError as error:
        raise PeerError(f"a request to this database is not readable ({error}); nothing was done") from error
    if not isinstance(request, dict) or request.get("v") != CONTROL_VERSION:
        version = request.get("v") if isinstance(request, dict) else None
        raise PeerError(
            f"a request of control version {version!r}, but the process that has the database open speaks version "
            f"{CONTROL_VERSION}: use the same release of mynosql on both sides"
        )
    verb = request.get("verb")
    perform = _VERBS.get(verb) if isinstance(verb, str) else None
    if perform is None:
        raise OptionInvalid(
            f"the process that has the database open does not know the verb {verb!r}; it knows {', '.join(_VERBS)}"
        )
    try:
        return perform(db, request)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, MyNoSQLError):
            raise
        raise PeerError(f"a request {verb!r} with wrong arguments ({error!r}); nothing was done") from error


def _seconds(request: dict[Any, Any], name: str) -> float:
    """A waiting time out of a request, bounded."""
    return min(max(float(request[name]), 0.0), WAIT_S_MAX)


def _put(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    recs = [_record(packed) for packed in request["records"]]
    return [(rec["id"], rec["rev"]) for rec in db.savedocs(recs)]


def _record(packed: Any) -> Record:
    try:
        rec = unpack_value(packed)
    except ValueError as error:
        raise PeerError(f"a record in a request is not readable ({error}); nothing was done") from error
    if not isinstance(rec, dict):
        raise RecordInvalid(f"a record must be a dict, found {type(rec).__name__}")
    return rec


def _get(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    return pack_value(db.readdoc(request["id"], timeout=_seconds(request, "timeout")))


def _info(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    return _fields(db.docinfo(request["id"]))


def _ls(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    limit = min(int(request["limit"]), LIST_PAGE_MAX)
    return db.listdocs(prefix=request["prefix"], after=request["after"], limit=limit)


def _status(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    return _fields(db.syncstatus())


def _watch(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    changes, token = changes_page(
        db, request["since"], prefix=request["prefix"], limit=min(int(request["limit"]), CHANGES_PAGE_MAX),
        wait_s=_seconds(request, "wait"),
    )
    return {"changes": [_fields(change) for change in changes], "token": token}


def _check(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    report = db.checkdb()
    return {**_fields(report), "problems": [_fields(problem) for problem in report.problems]}


def _compact(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    db.compactdb()


def _backup(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    return db.backupdb(request["folder"])


def _export(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    return db.exportdb(request["file"])


def _import(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    return db.importdb(request["file"])


def _wait(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    return db.waitsync(timeout=_seconds(request, "timeout"))


def _conflicted(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    limit = min(int(request["limit"]), LIST_PAGE_MAX)
    return db.conflicteddocs(prefix=request["prefix"], after=request["after"], limit=limit)


def _conflicts(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    found = db.getconflicts(request["id"], timeout=_seconds(request, "timeout"))
    return [{**_fields(each), "rec": None if each.rec is None else pack_value(each.rec)} for each in found]


def _resolve(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    return db.resolvedoc(request["id"], _record(request["record"]))["rev"]


def _rejected(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    return [_fields(each) for each in db.rejecteddocs()]


def _retry(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    db.retrydoc(request["id"])


def _addpeer(db: MyNoSQL, request: dict[Any, Any]) -> Any:
    db.addpeer(request["url"])


_VERBS: dict[str, Callable[[MyNoSQL, dict[Any, Any]], Any]] = {
    "put": _put, "get": _get, "info": _info, "ls": _ls, "status": _status, "watch": _watch, "check": _check,
    "wait": _wait, "addpeer": _addpeer, "conflicted": _conflicted, "conflicts": _conflicts, "resolve": _resolve,
    "rejected": _rejected, "retry": _retry, "compact": _compact, "backup": _backup, "export": _export,
    "import": _import,
}


def changes_page(
    db: MyNoSQL, since: str | None, *, prefix: str, limit: int, wait_s: float
) -> tuple[list[Change], str]:
    """At most `limit` changes after `since` and the token of the point reached.

    With none there, waits up to wait_s seconds for the first. since: a token, None for all changes, or NOW.
    """
    if since == NOW:
        node = db._node()
        since = pack_token(node.index_id, node.store.head_seq)
    with db.changes(since=since, live=True, prefix=prefix) as feed:
        found: list[Change] = []
        while len(found) < limit:
            change = feed.next_within(0.0 if found else wait_s)
            if change is None:
                break
            found.append(change)
        return found, feed.token


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _describe(error: Exception) -> dict[str, Any]:
    if not isinstance(error, MyNoSQLError):
        log.exception("a request of a command failed")
        text = f"the process that has the database open failed: {type(error).__name__}: {error}"
        return {"error": MyNoSQLError.__name__, "text": text, "with": {}}
    attributes = {name: value for name, value in vars(error).items() if _is_storable(value)}
    return {"error": type(error).__name__, "text": str(error), "with": attributes}


def _is_storable(value: Any) -> bool:
    try:
        pack_value(value)
    except RecordInvalid:
        return False
    return True


# On the side of the command


class RemoteDatabase:
    """A database that another process has open, through that process. Methods mean what they mean on MyNoSQL."""

    def __init__(self, request: Callable[[bytes, float], bytes]) -> None:
        """request: sends a payload to that process and returns its answer within so many seconds."""
        self._request = request

    def _ask(self, verb: str, wait_s: float = 0.0, **arguments: Any) -> Any:
        payload = pack_value({"v": CONTROL_VERSION, "verb": verb, **arguments})
        found = _read_answer(self._request(payload, wait_s + ANSWER_MARGIN_S))
        if isinstance(found, dict) and "ok" in found:
            return found["ok"]
        raise _error_of(found)

    def savedoc(self, rec: Record) -> Record:
        return self.savedocs([rec])[0]

    def savedocs(self, recs: Iterable[Record]) -> list[Record]:
        given = list(recs)
        saved = self._ask("put", records=[pack_value(rec) for rec in given])
        return [{**rec, "id": id, "rev": rev} for rec, (id, rev) in zip(given, saved, strict=True)]

    def readdoc(self, id: Hashable, timeout: float = 5.0) -> Record:
        wait_s = min(timeout, WAIT_S_MAX)
        return _read_record(self._ask("get", wait_s, id=id, timeout=wait_s))

    def getconflicts(self, id: Hashable, timeout: float = 5.0) -> list[Conflict]:
        wait_s = min(timeout, WAIT_S_MAX)
        found = self._ask("conflicts", wait_s, id=id, timeout=wait_s)
        return [
            _view(Conflict, {**each, "rec": None if each["rec"] is None else _read_record(each["rec"])})
            for each in found
        ]

    def resolvedoc(self, id: Hashable, rec: Record) -> Record:
        body = {key: value for key, value in rec.items() if key not in ("id", "rev")}
        return {"id": id, "rev": self._ask("resolve", id=id, record=pack_value(body)), **body}

    def rejecteddocs(self) -> list[Rejection]:
        return [_view(Rejection, each) for each in self._ask("rejected")]

    def retrydoc(self, id: Hashable) -> None:
        self._ask("retry", id=id)

    def docinfo(self, id: Hashable) -> DocInfo:
        return _view(DocInfo, self._ask("info", id=id))

    def listdocs(self, prefix: str = "", after: Hashable | None = None, limit: int | None = None) -> list[Any]:
        return self._ids("ls", prefix, after, limit)

    def conflicteddocs(self, prefix: str = "", after: Hashable | None = None, limit: int | None = None) -> list[Any]:
        return self._ids("conflicted", prefix, after, limit)

    def _ids(self, verb: str, prefix: str, after: Hashable | None, limit: int | None) -> list[Any]:
        ids: list[Any] = []
        left = limit
        while left is None or left > 0:
            wanted = LIST_PAGE_MAX if left is None else min(left, LIST_PAGE_MAX)
            page = self._ask(verb, prefix=prefix, after=after, limit=wanted)
            ids += page
            if len(page) < wanted:
                break
            after = page[-1]
            left = None if left is None else left - len(page)
        return ids

    def syncstatus(self) -> SyncStatus:
        return _view(SyncStatus, self._ask("status"))

    def changes_page(
        self, since: str | None, *, prefix: str, limit: int, wait_s: float
    ) -> tuple[list[Change], str]:
        """As the function changes_page; waits at most WAIT_S_MAX."""
        wait_s = min(wait_s, WAIT_S_MAX)
        found = self._ask("watch", wait_s, since=since, prefix=prefix, limit=limit, wait=wait_s)
        return [_view(Change, change) for change in found["changes"]], found["token"]

    def checkdb(self) -> CheckReport:
        found = self._ask("check", WHOLE_TIMEOUT_S)
        problems = tuple(_view(Problem, problem) for problem in found["problems"])
        return _view(CheckReport, {**found, "problems": problems})

    def compactdb(self) -> None:
        self._ask("compact", WHOLE_TIMEOUT_S)

    def backupdb(self, folder: str) -> str:
        return str(self._ask("backup", WHOLE_TIMEOUT_S, folder=folder))

    def exportdb(self, file: str) -> int:
        return int(self._ask("export", WHOLE_TIMEOUT_S, file=file))

    def importdb(self, file: str) -> int:
        return int(self._ask("import", WHOLE_TIMEOUT_S, file=file))

    def waitsync(self, timeout: float) -> bool:
        left = timeout
        while left > WAIT_S_MAX:
            if self._ask("wait", WAIT_S_MAX, timeout=WAIT_S_MAX):
                return True
            left -= WAIT_S_MAX
        return bool(self._ask("wait", left, timeout=left))

    def addpeer(self, url: str) -> None:
        self._ask("addpeer", url=url)


def _read_answer(packed: bytes) -> Any:
    try:
        return unpack_value(packed)
    except RecordInvalid:
        raise
    except ValueError as error:
        raise PeerError(f"the process that has the database open sent an unreadable answer: {error}") from error


def _read_record(packed: bytes) -> Record:
    rec = _read_answer(packed)  # RecordInvalid: it holds a class that is registered only over there
    if not isinstance(rec, dict):
        raise PeerError(f"the process that has the database open sent {type(rec).__name__} as a record")
    return rec


def _view(kind: type[T], found: Any) -> T:
    """The frozen value of that class; what a newer process says beyond it is left out."""
    try:
        names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        return kind(**{name: value for name, value in found.items() if name in names})
    except (AttributeError, TypeError) as error:
        raise PeerError(
            f"the process that has the database open sent no usable {kind.__name__} ({error}): "
            "use the same release of mynosql on both sides"
        ) from error


def _error_of(found: Any) -> MyNoSQLError:
    """The error that an answer tells of, as the class it had; MyNoSQLError for a class that is unknown here."""
    if not isinstance(found, dict) or not isinstance(found.get("error"), str):
        return PeerError("the process that has the database open sent an answer that is neither result nor error")
    kind = getattr(errors, found["error"], MyNoSQLError)
    if not (isinstance(kind, type) and issubclass(kind, MyNoSQLError)):
        kind = MyNoSQLError
    error: MyNoSQLError = kind.__new__(kind)  # their __init__ take different arguments; the text is complete already
    error.args = (str(found.get("text")),)
    attributes = found.get("with")
    if isinstance(attributes, dict):
        vars(error).update({name: value for name, value in attributes.items() if isinstance(name, str)})
    return error
