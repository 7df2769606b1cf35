"""Knocks: they find out whether somebody listens, keep trying while nothing answers, and leave nothing open."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from mynosql.net.knocking import Answer, Knocks
from mynosql.net.reactor import Reactor
from tests.waiting import wait_until

LOCAL = "127.0.0.1"
EVERY_S = 0.02


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    made = Reactor(lambda: None)
    yield made
    made.close()


class Door:
    """A listener whose queue is full: the kernel drops further requests without a word, as a cut link does."""

    def __init__(self) -> None:
        self._listener = socket.create_server((LOCAL, 0), backlog=0)
        self.port: int = self._listener.getsockname()[1]
        self._filler = socket.create_connection((LOCAL, self.port))

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *exception: object) -> None:
        self._filler.close()
        self._listener.close()

    def open(self) -> None:
        """There is room in the queue again."""
        self._listener.accept()[0].close()


def knocks_at(reactor: Reactor, port: int, literal: str = LOCAL) -> tuple[Knocks, list[Answer]]:
    answers: list[Answer] = []
    return Knocks(reactor, literal, port, every_s=EVERY_S, on_answer=answers.append), answers


def run_until(reactor: Reactor, answers: list[Answer]) -> list[Answer]:
    def round() -> list[Answer]:
        reactor.run_round(0.0)
        return answers

    return wait_until(round)


def test_somebody_who_listens_is_found_and_not_asked_again(reactor: Reactor) -> None:
    with socket.create_server((LOCAL, 0)) as listener:
        knocks, answers = knocks_at(reactor, listener.getsockname()[1])
        assert run_until(reactor, answers) == [Answer.OPEN]
        assert not knocks._open
        assert reactor._timeout_ms(None) is None, "a timer is left"


def test_a_machine_where_nobody_listens_is_told_from_one_that_is_silent(reactor: Reactor) -> None:
    with socket.socket() as closed:
        closed.bind((LOCAL, 0))
        _, answers = knocks_at(reactor, closed.getsockname()[1])
        assert run_until(reactor, answers) == [Answer.REFUSED]


def test_it_knocks_on_while_nothing_answers_and_is_heard_once_the_way_is_open(reactor: Reactor) -> None:
    with Door() as door:
        knocks, answers = knocks_at(reactor, door.port)

        def has_knocked_often() -> bool:
            reactor.run_round(0.0)
            return len(knocks._open) >= 4

        wait_until(has_knocked_often)
        assert answers == []
        door.open()
        assert run_until(reactor, answers) == [Answer.OPEN]
        assert not knocks._open


def test_close_leaves_no_socket_and_no_timer(reactor: Reactor) -> None:
    with Door() as door:
        knocks, answers = knocks_at(reactor, door.port)

        def has_knocked() -> bool:
            reactor.run_round(0.0)
            return len(knocks._open) >= 2

        wait_until(has_knocked)
        opened = list(knocks._open.values())
        knocks.close()
        knocks.close()
        assert [knocking.fileno() for knocking in opened] == [-1, -1]
        assert reactor._timeout_ms(None) is None, "a timer is left"
        assert answers == []


def test_an_address_that_cannot_be_dialled_here_is_tried_again(reactor: Reactor) -> None:
    knocks, answers = knocks_at(reactor, 9, "no literal")
    tries: list[int] = []
    real = knocks._knock
    knocks._knock = lambda: (tries.append(1), real())[1]  # type: ignore[method-assign, func-returns-value]

    def has_tried_twice() -> bool:
        reactor.run_round(0.0)
        return len(tries) >= 2

    wait_until(has_tried_twice)
    assert answers == []
    assert not knocks._open
    knocks.close()
