"""The built-in merge of concurrent revisions: three-way and field by field where a common base is known.

Without a base the last writer wins each field. Pure: the same revisions and base give the same record on every node,
in whatever order they are given. Driven by merging.Merger, and free for an application's own merge function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mynosql.codec import pack_value
from mynosql.errors import RecordInvalid
from mynosql.revision import parse_rev

Record = dict[Any, Any]


def merge_fields(revisions: Sequence[Record], base: Record | None = None) -> Record:
    """One record out of concurrent revisions of it; has their `id` and no `rev`. The arguments are not changed.

    revisions: records with their `rev`, as a function given to onconflict gets them. base: a revision that all of them
    descend from. A field (a key of the record, or of a dict in it) becomes what the only revision made of it that
    changed it since the base. Where several changed it differently, dicts are merged by their own fields; of anything
    else (lists and sets too, which are taken whole) the later revision's value stays, by the clock in its rev. A field
    removed in one revision is removed, unless another one changed it. Without base no removal can be told from an
    addition: every field of every revision is there, and the later revision has the last word on each. Fields stand in
    the order of the latest revision, then in that of the others.
    Raises RecordInvalid when a revision has no rev.
    """
    if not revisions:
        raise RecordInvalid("nothing to merge: expected at least one revision")
    newest_first = sorted(revisions, key=_clock_of, reverse=True)
    fields = _merge([_fields_of(revision) for revision in newest_first], None if base is None else _fields_of(base))
    return {"id": newest_first[0].get("id"), **fields}


def _clock_of(revision: Record) -> tuple[int, int]:
    rev = parse_rev(revision.get("rev"))
    if rev is None:
        raise RecordInvalid(f"rev {revision.get('rev')!r}: expected the rev that the revision came with", path="rev")
    return rev.hlc, rev.node


def _fields_of(record: Record) -> Record:
    return {key: value for key, value in record.items() if key not in ("id", "rev")}


def _merge(newest_first: Sequence[Record], base: Record | None) -> Record:
    merged: Record = {}
    for key in dict.fromkeys(key for revision in newest_first for key in revision):
        values = [revision[key] for revision in newest_first if key in revision]
        if base is None or key not in base:
            merged[key] = _pick(values, None)
            continue
        changed = [value for value in values if not _is_same(value, base[key])]
        if changed:
            merged[key] = _pick(changed, base[key])
        elif len(values) == len(newest_first):
            merged[key] = values[0]
    return merged


def _pick(newest_first: Sequence[Any], base: Any) -> Any:
    """What becomes of a field that has these values; base: what it was, None where that is not known."""
    first = newest_first[0]
    if all(_is_same(first, other) for other in newest_first[1:]):
        return first
    if all(type(value) is dict for value in newest_first):
        return _merge(newest_first, base if type(base) is dict else None)
    return first


def _is_same(one: Any, other: Any) -> bool:
    """Equal and of the same types all through: 1, 1.0 and True differ, as they do when stored."""
    return one is other or pack_value(one) == pack_value(other)
