"""What happens in a run: how the mesh is made, and the steps of its applications and of fate. All of it from the seed.

A plan is drawn before anything runs, and no step depends on what became of the others: its numbers say which of the
machines then alive it means. So a plan from which steps were taken out is a plan, too: that is how a failure shrinks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

WEIGHTS: dict[str, float] = {
    # The applications
    "save": 40, "batch": 4, "branch": 5, "same": 2, "delete": 5, "resolve": 5, "fetch": 8,
    # Time
    "moment": 20, "while": 4,
    # The network
    "block": 3, "isolate": 2, "cut": 2, "reset": 3, "noise": 2, "heal": 4,
    # Machines
    "kill": 3, "power": 3, "power-at": 3, "start": 8, "stop": 1, "slow": 1, "full": 1, "flush-error": 0.5, "free": 2,
    "clock": 1.5,
    # People
    "mode": 2, "demote": 0.7, "backup": 1.5, "restore": 1.6, "copy": 0.3, "join": 0.7, "depart": 0.7,
}
"""How often each kind of step comes."""
FEATURES: dict[str, dict[str, float]] = {
    "scopes": {"scope": 20},
    "acks": {"lose": 6},
    "partings": {"lose": 6, "retire": 4, "delpeer": 3},
    "crowds": {"crowd": 5, "retry": 10},
    "merges": {},
    "evictions": {"evict": 12},
}
"""What only some seeds have, each in a share of them, and the steps that come with it."""
FEATURE_SHARE = 0.25
KINDS = {*WEIGHTS, *(kind for kinds in FEATURES.values() for kind in kinds)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The mesh as it begins."""

    mirrors: int
    peers: int
    ids: int
    """Records that all work on."""
    latency_s: float
    jitter_s: float
    fsync_s: float
    fsync_interval_s: float
    memtable_bytes_max: int
    """Small ones seal often."""
    idle_seal_s: float
    publish_messages_max: int
    """Small queues of publishers overflow in short histories, too."""
    is_acquainted: bool
    """Each mirror knows those before it; else it knows all, and peers know one."""
    features: frozenset[str] = frozenset()
    """Of FEATURES. scopes: peers limit their index; acks: two mirrors must have a change; partings: mirrors leave, and
    addresses are taken back; crowds: more concurrent revisions than a mirror takes; merges: functions that merge;
    evictions: peers give up bodies."""
    acks: int = 1
    is_merging_alike: bool = True
    """Merge functions agree; else each node's gives something else."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens. a, b, c: from 0 up to 1, to choose with; n: for contents."""

    number: int
    kind: str
    a: float
    b: float
    c: float
    n: int

    def __str__(self) -> str:
        return f"{self.number:4d} {self.kind}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run."""

    seed: int
    size: int
    setup: Setup
    steps: tuple[Step, ...]


SIZES = ((2, 2, 40), (3, 3, 120), (4, 5, 300), (5, 8, 700))
"""Per size: most mirrors, most peers, steps."""


def make_plan(seed: int, size: int = 0) -> Plan:
    """The plan of that seed. size 0 is small and quick; up to len(SIZES) - 1 meshes and histories grow."""
    rng = Random(f"plan {seed}")
    mirrors_max, peers_max, steps = SIZES[size]
    mirrors = rng.randint(1, mirrors_max)
    setup = Setup(
        mirrors=mirrors, peers=rng.randint(1 if mirrors > 1 else 2, peers_max) if peers_max > 1 else 1,
        ids=rng.choice((2, 6, 15)), latency_s=rng.choice((0.0005, 0.01, 0.08)), jitter_s=rng.choice((0.0, 0.005, 0.05)),
        fsync_s=rng.choice((0.0005, 0.02)), fsync_interval_s=rng.choice((0.1, 1.0)),
        memtable_bytes_max=rng.choice((1 << 10, 1 << 13, 1 << 20)), idle_seal_s=rng.choice((1.0, 60.0)),
        publish_messages_max=rng.choice((2, 1000)), is_acquainted=rng.random() < 0.7,
    )
    flavour = Random(f"flavour {seed}")
    features = frozenset(name for name in FEATURES if flavour.random() < FEATURE_SHARE)
    is_parting, acks = bool(features & {"acks", "partings"}), 2 if "acks" in features else 1
    setup = replace(
        setup, features=features, acks=acks, mirrors=max(setup.mirrors, acks + 1 if is_parting else 1),
        is_merging_alike=flavour.random() < 0.5,
    )
    weights = dict(WEIGHTS)
    for name in sorted(features):
        weights.update(FEATURES[name])
    kinds = rng.choices(list(weights), weights=list(weights.values()), k=steps)
    return Plan(seed, size, setup, tuple(
        Step(number, kind, rng.random(), rng.random(), rng.random(), rng.getrandbits(32))
        for number, kind in enumerate(kinds)
    ))
