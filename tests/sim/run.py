"""One run: a plan is carried out on machines over a network, then all heals, and the oracle judges.

    Run(make_plan(17)).execute()        # raises Violation; its text says how to repeat it

Deterministic: the same plan does the same, event for event, in every process.
"""

from __future__ import annotations

from collections.abc import Callable

from mynosql.codec import pack_body
from mynosql.idkey import unpack_id
from mynosql.revision import is_in_past, rev_string
from mynosql.scope import is_within
from mynosql.sync import effects as fx
from tests.sim.machine import Machine, Process
from tests.sim.oracle import leaves_of
from tests.sim.plan import Step
from tests.sim.stage import pick
from tests.sim.steps import Steps

QUIET_AFTER_S = 25.0
"""Heartbeats have slowed down, probes have gone back to the first choice."""
QUIET_S = 12.0
"""More than any timer of small talk, so that nothing hides between two windows."""
QUIET_WINDOWS = 6
SMALL_TALK = {"Heartbeat", "Ping", "Pong"}
PROBES, PROBES_MAX = {"Hello", "Welcome", "Bye"}, 3
"""A peer that measures another mirror now and then greets it and takes its leave."""
QUEUE_MAX = 300
"""Messages that wait in one connection: credit and small windows keep them few."""


class Violation(AssertionError):
    """A run that broke a promise."""


class Run(Steps):
    """Carries out one plan."""

    def execute(self) -> None:
        """The plan, the healing and the checks. Raises Violation."""
        try:
            self._build()
            for step in self.plan.steps:
                self._carry_out(step)
            self.finish()
        except Violation:
            raise
        except Exception as error:  # what the product throws at its callers is a failure of this seed, too
            raise Violation(f"{type(error).__name__}: {error}\n{self.story()}") from error

    def _carry_out(self, step: Step) -> None:
        machine = pick(self.machines, step.a)
        before = self.time.now
        action: Callable[[Machine, Step], object] = getattr(self, "_" + step.kind.replace("-", "_"))
        did = action(machine, step)
        if did is not False:
            self.log.append(f"{before:9.4f} {step} {machine.name} {'' if did in (None, True) else did}")
        if step.kind not in ("moment", "while"):
            self.time.run(step.b * step.c * 0.3)
        if step.number % 4 == 0:
            self.oracle.check_counters(machine)
            if machine.process is not None:
                self.oracle.check_cursors(machine, leaves_of(machine.process.store))
        self.check_banned()
        assert self.network.queued_max <= QUEUE_MAX, f"{self.network.queued_max} messages wait in one connection"

    def finish(self) -> None:
        """All heals, all come to rest, and the oracle judges; then once more after a power cut everywhere."""
        self.bring_together()
        self._resolve_rejected()
        self.oracle.check_all()
        for machine in self.machines:
            assert machine.process is not None
            self.oracle.check_cursors(machine, leaves_of(machine.process.store))
        self._check_fetches()
        self._check_scopes()
        if self.is_quiet_checked:
            self._check_quiet()
        self.time.run(2.0)  # the last fsyncs
        for machine in self.machines:
            machine.cut_power()
        for machine in self.machines:
            machine.start()
        self.oracle.check_all()

    def _resolve_rejected(self) -> None:
        """What a mirror refused (a ninth leaf) waits for a person."""
        for _ in range(5):
            rejected = self._rejected()
            if not rejected:
                return
            for machine, id_key in rejected:
                self._check_rejected(machine, id_key)
                if not is_within(machine.scope, id_key):  # who resolves has to see what the others have
                    self._app(machine, lambda process: process.replica.set_scope(None, self.time.now))
                    self.bring_together()
                self._cover(machine, id_key, pack_body({"resolved": True}))
            self.bring_together()

    def _check_rejected(self, machine: Machine, id_key: bytes) -> None:
        """What is called refused has indeed not reached the mirrors."""
        process = machine.process
        if process is None or all(rejected.id_key != id_key for _, rejected in process.replica.rejections().values()):
            return
        ours = leaves_of(process.store).get(id_key, ())
        for other in self.machines:
            if other.process is not None and other.process.replica.is_mirror:
                theirs = leaves_of(other.process.store).get(id_key, ())
                assert theirs != ours, f"{machine.name} calls {unpack_id(id_key)!r} refused, which {other.name} has"

    def _check_scopes(self) -> None:
        """What a peer with a scope hears does not depend on what others write elsewhere."""
        scoped = [machine for machine in self.machines if machine.scope is not None]
        writers = [machine for machine in self.machines if self._is_mirror(machine) and self._can_save(machine)]
        outside = [
            id_key for id_key in self.ids if not any(is_within(machine.scope, id_key) for machine in scoped)
        ]
        if not scoped or not writers or not outside:
            return
        before = [machine.process.rows_told for machine in scoped if machine.process is not None]
        for id_key in outside[:3]:
            self._app(writers[0], lambda process, id_key=id_key: self._save_anew(process, id_key))  # type: ignore[misc]
            self.time.run(0.5)
        self.time.run(2.0)
        after = [machine.process.rows_told for machine in scoped if machine.process is not None]
        assert after == before, "a peer is told of changes outside of its scope"
        self.bring_together()

    def _save_anew(self, process: Process, id_key: bytes) -> None:
        entry = process.store.find(id_key)
        given = None if entry is None or entry.winner.deleted else rev_string(entry.winner)
        self._save_over(process, id_key, given, pack_body({"told": self.time.count}), branch=False)

    def _check_fetches(self) -> None:
        for process, fetch, deadline, _, asked in self.fetches:
            if process.machine.process is not process:
                continue  # a killed process answers nobody
            assert fetch.is_done or self.time.now < deadline, f"{process.machine.name}: a fetch never ended"
            if fetch.outcome is fx.Outcome.FOUND and asked is not None:
                assert fetch.row is not None
                assert any(is_in_past(asked, leaf) for leaf in fetch.row.leaves), "a fetch answered something older"

    def _check_quiet(self) -> None:
        """A mesh at rest says nothing but that it lives, and writes nothing: before long there is such a time."""
        self.time.run(QUIET_AFTER_S)
        for _ in range(QUIET_WINDOWS):
            noise = self._listen()
            if not noise:
                return
        raise AssertionError(f"at rest for long, and not quiet: {'; '.join(noise)}")

    def _listen(self) -> list[str]:
        """What is said and written meanwhile beside small talk."""
        processes = [machine.process for machine in self.machines if machine.process is not None]
        for process in processes:
            process.received.clear()
        written = [process.store.written for process in processes]
        self.time.run(QUIET_S)
        noise = []
        searching = {"Fetch", "Bodies", "Await", "Mirrors"} if self.oracle.has_lost_mirror else set()
        if any(machine.scope is not None for machine in self.machines):
            searching |= {"Pull", "Entries"}  # every 30 s
        for process, before in zip(processes, written, strict=True):
            talk = {
                kind: count for kind, count in process.received.items()
                if kind not in SMALL_TALK and not (kind in PROBES and count <= PROBES_MAX) and kind not in searching
            }
            if talk or process.store.written != before:
                noise.append(f"{process.machine.name} hears {talk}, writes {process.store.written - before} frames")
        return noise
