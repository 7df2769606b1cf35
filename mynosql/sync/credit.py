"""How much a mirror answers to one node that does not read: answers wait once that many bytes are on their way to it.

ZeroMQ queues by messages and says nothing of what has arrived. So the mirror follows its answers with a Ping: the Pong
comes after them on the same link and gives back what they have spent. Pure; one Credit per served conversation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mynosql.errors import PeerError
from mynosql.row import Row
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.hub import Hub

QUESTIONS_MAX = 32
"""Questions of one link that wait for an answer; an honest asker has two Pulls, four Fetches and four pieces."""
MESSAGE_BYTES = 100
"""What a message or a row counts for besides its bodies."""


class Credit:
    """What is on its way to one node, and the questions of it that wait until there is less."""

    def __init__(self, hub: Hub, link: fx.Link) -> None:
        self._hub = hub
        self._link = link
        self._spent = 0
        """Bytes sent of which nobody knows whether they were read."""
        self._marked = 0
        """Of these: sent before the Ping that is open."""
        self._ping = 0
        """The number of that Ping; 0: none is open."""
        self._pinged_at = 0.0
        self._waiting: deque[Callable[[], None]] = deque()

    @property
    def is_used_up(self) -> bool:
        return self._spent >= self._hub.options.answer_credit_bytes

    def ask(self, question: Callable[[], None]) -> None:
        """The question is answered now, or when there is credit again. Raises PeerError for one too many."""
        if not self.is_used_up and not self._waiting:
            question()
            return
        if self._ping and self._hub.now >= self._pinged_at + self._hub.options.ping_s:
            self._send_ping()  # it, or its answer, may have been lost
        if len(self._waiting) >= QUESTIONS_MAX:
            raise PeerError(f"{self._link.name}: more than {QUESTIONS_MAX} questions, and it does not read the answers")
        self._waiting.append(question)

    def send(self, message: ms.Message, size: int) -> None:
        """An answer of about that many bytes leaves."""
        self._hub.send(self._link, message)
        self._spent += size + MESSAGE_BYTES
        self._mark()

    def _mark(self) -> None:
        if not self._ping and self._spent >= self._hub.options.answer_credit_bytes // 2:
            self._marked = self._spent
            self._ping = self._hub.request()
            self._send_ping()

    def _send_ping(self) -> None:
        self._pinged_at = self._hub.now
        self._hub.send(self._link, ms.Ping(number=self._ping))

    def on_pong(self, message: ms.Pong) -> None:
        """What was sent before that Ping has been read."""
        if message.number != self._ping:
            return
        self._spent -= self._marked
        self._marked = self._ping = 0
        while self._waiting and not self.is_used_up:
            self._waiting.popleft()()
        self._mark()

    def close(self) -> None:
        """The conversation is over."""
        self._waiting.clear()


def size_of(rows: tuple[Row, ...]) -> int:
    """About what these rows take in a message before compression."""
    return sum(MESSAGE_BYTES + sum(len(body) for body in row.bodies if body is not None) for row in rows)
