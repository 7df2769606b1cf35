"""The last thing that went wrong in the background, as syncstatus shows it, and when it is over.

A refused connection is tried again and again: what it said is shown until that attempt ends otherwise, or something
else fails. Memory only. Driven by replica.Replica.
"""

from __future__ import annotations

from mynosql.errors import MyNoSQLError
from mynosql.sync.effects import Link

REFUSED_LINKS_MAX = 256


class Troubles:
    """Those of one node."""

    def __init__(self) -> None:
        self.last_error: str | None = None
        self._refused: dict[Link, str] = {}
        """What was shown of connections that were refused; forgotten when that is over."""
        self._ending: Link | None = None
        """Whose attempt was just refused: its end follows."""

    def on_failure(self, error: BaseException) -> None:
        """Something failed."""
        self.last_error = f"{type(error).__name__}: {error}"

    def on_refused(self, link: Link, error: MyNoSQLError) -> None:
        """A connection was refused; on_down() follows, for the same attempt."""
        self.on_failure(error)
        self._ending = link
        self._refused[link] = self.last_error or ""
        while len(self._refused) > REFUSED_LINKS_MAX:
            del self._refused[next(iter(self._refused))]

    def on_down(self, link: Link) -> None:
        """An attempt ended."""
        if link != self._ending:
            self.forget(link)
        self._ending = None

    def forget(self, link: Link) -> None:
        """What was refused there is so no longer, or not known to be, or nobody wants it any more."""
        if self._refused.pop(link, "") == self.last_error:
            self.last_error = None
