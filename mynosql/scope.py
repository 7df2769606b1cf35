"""Which ids a peer's index takes in: a set of id prefixes, and how two of them compare. Pure values.

A scope is a sorted tuple of prefixes of str ids of which none begins with another; () is nothing at all, None
everything, ids that are no str included. What follows from it stands in docs/PROTOCOL.md, "Scope".
"""

from __future__ import annotations

from collections.abc import Iterable

from mynosql.errors import OptionInvalid
from mynosql.idkey import prefix_range

Scope = tuple[str, ...]

PREFIXES_MAX = 64
PREFIX_CHARACTERS_MAX = 200
"""What one Pull carries."""


def check_scope(prefixes: Iterable[str] | None) -> Scope | None:
    """The scope that a caller means, in its normal form. Raises OptionInvalid."""
    if prefixes is None:
        return None
    if isinstance(prefixes, str):
        raise OptionInvalid(f"scope {prefixes!r}: expected a list of id prefixes, such as [{prefixes!r}]")
    found = list(prefixes)
    for prefix in found:
        if not isinstance(prefix, str) or len(prefix) > PREFIX_CHARACTERS_MAX:
            raise OptionInvalid(
                f"scope: {prefix!r:.80} is no id prefix; a str of up to {PREFIX_CHARACTERS_MAX} characters expected"
            )
    scope = added_to((), tuple(found))
    if len(scope) > PREFIXES_MAX:
        raise OptionInvalid(f"scope of {len(scope)} prefixes: at most {PREFIXES_MAX} are possible; take shorter ones")
    return scope


def is_within(scope: Scope | None, id_key: bytes) -> bool:
    """The index takes in that id."""
    return scope is None or id_key.startswith(tuple(prefix_range(prefix)[0] for prefix in scope))


def added_to(old: Scope, new: Scope) -> Scope:
    """The prefixes of new that old does not cover."""
    found: list[str] = []
    for prefix in sorted(new):  # a prefix sorts before all that begin with it
        if not prefix.startswith((*old, *found)):
            found.append(prefix)
    return tuple(found)


def covers(wide: Scope | None, narrow: Scope | None) -> bool:
    """Whatever the narrow one takes in the wide one takes in too."""
    if wide is None:
        return True
    return narrow is not None and not added_to(wide, narrow)


def common(one: Scope | None, other: Scope | None) -> Scope | None:
    """What both take in."""
    if one is None or other is None:
        return other if one is None else one
    both = [prefix for prefix in one if prefix.startswith(other)]
    return added_to((), (*both, *(prefix for prefix in other if prefix.startswith(one))))
