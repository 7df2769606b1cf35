"""How patient and how greedy the protocol is: one frozen class, each figure with its unit and its reason."""

from __future__ import annotations

from dataclasses import dataclass

from mynosql.sync.messages import VERSION_HIGH, VERSION_LOW


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOptions:
    """Times in seconds, sizes in bytes. The defaults keep the promises of docs/PROTOCOL.md, "Times"."""

    # Greeting
    version_low: int = VERSION_LOW
    version_high: int = VERSION_HIGH
    """Protocol versions that this node speaks."""
    hello_retry_s: float = 0.5
    """A Hello without an answer is repeated after this, then twice as late each time, with jitter."""
    hello_retry_max_s: float = 5.0
    greeting_s_max: float = 10.0
    """A link that is up but never answers Hello is dialled anew after this: it may be half open."""
    connect_s_max: float = 3.0
    """A peer that has another mirror to try gives an address this long to come up (fail-over within 5 s)."""
    refused_retry_s: float = 30.0
    """After a refusal or a broken message: somebody has to repair something first."""
    clone_wait_s: float = 0.5
    """How long a Hello waits for the older conversation of the same node id to prove that it still lives."""

    # Liveness
    first_heartbeat_s: float = 0.15
    """After a Welcome: a SUB connects meanwhile, and what was published before that is seen to be missing."""
    heartbeat_s: float = 1.0
    heartbeat_s_max: float = 5.0
    """Heartbeats come every heartbeat_s while there are changes, and slow down to this when there are none."""
    active_s: float = 10.0
    """A change this recent keeps the heartbeats fast."""
    heartbeat_slack_s: float = 0.5
    """A heartbeat this late is missed."""
    ping_s: float = 5.0
    """A dialled link that was quiet for this long is pinged."""
    pong_s: float = 6.0
    """No answer to a Ping for this long: the link is dead (5 + 6 < 12 s)."""
    pong_silent_s: float = 1.5
    """The same while heartbeats are missed too: 1.5 + 1.5 s after the last of an active mirror."""
    served_idle_s: float = 30.0
    """A served conversation that was quiet for this long is forgotten: six Pings were missed."""
    poll_s: float = 2.0
    """While the publisher is not heard, the feed is asked for this often."""
    scoped_poll_s: float = 30.0
    """A peer with a scope hears no heartbeats; it asks this often whether something was lost on the way."""
    resubscribe_s: float = 10.0
    """While the publisher is not heard, the subscription is made anew this often."""

    # Choosing a mirror
    retry_s: float = 0.2
    """An address that failed is left alone this long, then twice as long each time, with jitter."""
    retry_s_max: float = 5.0
    retry_share: float = 1 / 100
    """One that is not reached is not left alone for longer than this share of the time that it has lasted: after an
    outage of half a minute the first mirror that is back is found within a second."""
    probe_s: float = 10.0
    """A peer that does not follow its first choice tries it this often."""
    survey_first_s: float = 5.0
    """A mirror that was never measured is compared with the one that is followed after this."""
    survey_s: float = 300.0
    """Later one other mirror is measured this often: a connection and a kilobyte each time."""
    survey_pings: int = 3
    """The shortest of so many counts: one may meet a fsync."""
    sooner_s_min: float = 0.005
    """A mirror that answers in less than half the time, and by this much sooner, is worth a change."""
    load_spread_min: int = 8
    """A mirror that serves half as many again as another, and this many more, is left for that one."""
    departed_s: float = 600.0
    """A node that said that it is no mirror any more is not learned again from others for this long."""
    expire_s: int = 30 * 86_400
    """A learned mirror that nobody has talked with for this long is forgotten."""
    gossip_delay_s: float = 0.1
    """News of the list of mirrors is collected this long before it is passed on."""

    # Comparing
    compare_count_min: int = 8192
    """Two indexes with so many changes each are compared by ranges when they meet; of fewer all is pulled."""
    compare_differences_max: int = 4096
    """With more entries that differ all is pulled."""
    compare_retry_s: float = 0.5
    """Who is still counting is asked again after this."""
    compare_wait_s: float = 120.0
    """Nobody is waited for longer than this."""
    compare_rest_s: float = 20.0
    """Two mirrors whose sums differ although each has the other's feed compare at most this often."""

    # Pull
    pull_bytes: int = 512 << 10
    """One Entries message before compression; two are under way, so a dropped link costs at most that again."""
    inline_bytes_max: int = 64 << 10
    """Bodies up to this travel inside Entries, Bodies and Push; larger ones in pieces."""
    pull_retry_s: float = 10.0
    """A Pull without an answer, on a link that is alive, is asked again after this."""
    report_s: float = 0.05
    """Reports are sent at most this often (DESIGN: within 100 ms of applying)."""
    publish_bytes: int = 256 << 10
    publish_body_bytes_max: int = 2 << 10
    """Bodies up to this travel inline in published changes."""
    storage_retry_s: float = 5.0
    """After a full or failing disk here, pulling rests this long."""

    # Push
    push_bytes: int = 256 << 10
    """One Push message before compression."""
    push_credit_bytes: int = 1 << 20
    """Pushed and not acknowledged at any time: HWM counts messages, this counts bytes."""
    push_retry_s: float = 15.0
    """Pushes without an answer, on a link that is alive, are sent again after this, with jitter."""
    await_retry_s: float = 30.0
    """An Await without an answer (the other mirrors may be away) is sent again after this, then twice as late."""
    await_retry_s_max: float = 300.0
    push_queue_max: int = 64
    """Pushes that a mirror holds for one writer; more is a broken writer."""
    offer_bytes: int = 64 << 10
    """Of the feed looked through for one Offer of what is new: some hundred rows, so that nobody waits for it."""
    rejected_max: int = 10_000
    """Refused changes remembered with their reasons (some megabytes); with more the outbox rests."""
    offer_count: int = 2048
    """Entries in one Offer."""

    # Fetch
    fetch_ids_max: int = 64
    """Ids in one Fetch."""
    fetches_in_flight: int = 4
    """Fetch messages under way on one link; further requests wait and share the next."""
    fetch_bytes: int = 1 << 20
    """Bodies in one answer before compression."""
    answer_credit_bytes: int = 4 << 20
    """Answers on their way to one node that it has not read; further questions wait. Two Pulls and a few Fetches."""
    fetch_retry_s: float = 10.0
    """A Fetch without an answer, on a link that is alive, counts as not held there after this."""
    helper_s: float = 10.0
    """A conversation begun only to fetch ends after this long without use."""
    piece_bytes: int = 128 << 10
    pieces_in_flight: int = 4
    """Pieces asked for at once: 512 KiB, so that small messages on the same link wait little."""
    piece_retry_s: float = 5.0
    piece_retries: int = 3
    part_kept_s: float = 600.0
    """What came of a large body whose link was lost is kept this long for whoever brings it on."""
    parts_bytes_max: int = 256 << 20
    """All such parts; the oldest give way."""
    assembly_bytes_max: int = 512 << 20
    """All large bodies that are being collected; others wait (one is always allowed)."""

    # Filling
    fill_grace_s: float = 0.1
    """A mirror waits this long for bodies to come by themselves before it asks for them."""
    fill_ids_max: int = 4096
    """Ids remembered as missing; beyond that the index is scanned."""
    fill_in_flight: int = 256
    fill_retry_s: float = 1.0
    """Bodies that no mirror held are asked for again after this (the mirror asked may be fetching them itself), then
    twice as late each time, with jitter."""
    fill_retry_s_max: float = 30.0
