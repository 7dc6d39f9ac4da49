"""How consent to one purpose changes, and what of it is in force at an instant.

A person's choices on a purpose are a list of events in *effect order*: by `occurred_at`, permissive before restrictive
at equal times (so that a restriction wins), then in the order of the ledger. Folding the events that cover a channel
gives the standing of that channel. The fold is total and depends on the events alone: what of the policy decided their
admission stands in the events (`guard`, `age_of_consent`). The order in which events arrive does not matter.
"""

from __future__ import annotations

from bisect import insort_right
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from volenti.core.policy.duration import Duration

ConsentKind = Literal["grant", "deny", "withdraw", "object", "request", "confirm", "renew", "invalidate", "acknowledge"]
RESTRICTIVE: Final[frozenset[ConsentKind]] = frozenset(("deny", "withdraw", "object"))
"""Kinds that take back or refuse: always accepted, and dated as they are."""
PERMITTING: Final[frozenset[ConsentKind]] = frozenset(("grant", "confirm", "renew"))
"""Kinds that permit, where nothing bars them; a request only leads to it."""
Settled = Literal["unknown", "granted", "denied", "withdrawn", "objected"]
Actor = Literal["data_subject", "guardian", "operator", "system", "import"]

E0, E1, E2, E3, E4 = range(5)
"""Evidence grades: claimed; asserted by a component; act against a text that was shown; and control of the address or an
authenticated session; and both."""


class ConsentEvent(msgspec.Struct, frozen=True, array_like=True):
    """One choice on one purpose, as the fold needs it. Times are milliseconds since the epoch, UTC.

    A `request` names the first request of its write, a `confirm` the request that it confirms, an `invalidate` the
    entry that is void; the latter two bear the channels of what they name. A `renew` lists the grants that it renews.
    """

    entry: str  # the ledger entry that proves it
    kind: ConsentKind
    occurred_at: int  # already clamped to the recorded time
    recorded_at: int
    actor: Actor
    channels: tuple[str, ...] = ()  # empty: all
    notice: str | None = None  # "newsletter@3"
    grade: int = E0
    guard: int = E2  # the grade that lifting a refusal demanded when the event was admitted
    evidence_at: int | None = None  # when the person confirmed or authenticated, if that is on record
    valid_from: int | None = None
    valid_until: int | None = None
    names: str | None = None
    renews: tuple[str, ...] = ()
    age_of_consent: int | None = None  # what it took to consent alone, where the person was known to be so old

    @property
    def restrictive(self) -> bool:
        return self.kind in RESTRICTIVE


class Standing(msgspec.Struct, frozen=True):
    """What the fold says for one channel: the settled state and the event that decided it (None if unknown).

    `refusal` is the latest restriction, None where none stands. A repeated restriction changes neither the state nor
    what decided it, but it is what a grant has to lift: a grant must be newer than every refusal, not only the first.
    `own_refusal` is the latest that was the person's own act: what others refuse after it does not hide it from the
    guard. `pending` is the request that waits for its confirmation, over whatever state stands beneath.
    """

    state: Settled
    decided_by: ConsentEvent | None = None
    refusal: ConsentEvent | None = None
    own_refusal: ConsentEvent | None = None
    pending: ConsentEvent | None = None


UNKNOWN: Final = Standing("unknown")


def _effect_order(event: ConsentEvent) -> tuple[int, bool]:
    return (event.occurred_at, event.restrictive)


def insert(events: tuple[ConsentEvent, ...], event: ConsentEvent) -> tuple[ConsentEvent, ...]:
    """The events in effect order with one more; among equals the newcomer stands last, as its index is higher."""
    ordered = list(events)
    insort_right(ordered, event, key=_effect_order)
    return tuple(ordered)


def may_lift(event: ConsentEvent, refusal: ConsentEvent) -> bool:
    """True if this permission may take the place of a refusal, withdrawal or objection: the re-permission guard.

    It must be dated strictly later, be the person's own act, and be proved at least at E2 or at the purpose's higher
    minimum. A guardian may lift what a guardian or somebody else refused, never what the person did. What somebody
    else relays (an operator, an import) needs E3 and evidence that is newer than the refusal. The system never lifts one.
    """
    if event.occurred_at <= refusal.occurred_at or event.grade < max(E2, event.guard):
        return False
    match event.actor:
        case "data_subject":
            return True
        case "guardian":
            return refusal.actor != "data_subject"
        case "operator" | "import":
            return event.grade >= E3 and event.evidence_at is not None and event.evidence_at > refusal.occurred_at
        case "system":
            return False


def barrier(event: ConsentEvent, standing: Standing) -> ConsentEvent | None:
    """The refusal that stands here and that this permission may not lift; None if it may permit."""
    for refusal in (standing.refusal, standing.own_refusal):
        if refusal is not None and not may_lift(event, refusal):
            return refusal
    return None


def live(events: tuple[ConsentEvent, ...]) -> tuple[ConsentEvent, ...]:
    """The events less those that were invalidated, by name, whatever their dates."""
    void = {event.names for event in events if event.kind == "invalidate"}
    return tuple(event for event in events if event.entry not in void) if void else events


def settle(events: tuple[ConsentEvent, ...], channel: str | None) -> Standing:
    """Fold the events that cover a channel (None: those that cover all channels). Events MUST be in effect order."""
    return settle_live(live(events), channel)


def settle_live(events: tuple[ConsentEvent, ...], channel: str | None) -> Standing:
    """The same for events that are `live` already."""
    standing = UNKNOWN
    for event in events:
        if not event.channels or channel in event.channels:
            standing = _next(standing, event)
    return standing


def _next(standing: Standing, event: ConsentEvent) -> Standing:
    match event.kind:
        case "grant":
            return _granted(standing, event)
        case "request":
            return msgspec.structs.replace(standing, pending=event)
        case "confirm":
            asked = standing.pending is not None and standing.pending.entry == event.names
            return _granted(standing, event) if asked else standing
        case "renew":
            return Standing("granted", event) if _renewable(standing, event) else standing
        case "acknowledge" | "invalidate":
            return standing
        case "deny" | "withdraw" | "object":
            state = _refused(standing.state, event.kind)
            return Standing(
                state=state,
                decided_by=standing.decided_by if state == standing.state else event,
                refusal=event,
                own_refusal=event if event.actor == "data_subject" else standing.own_refusal,
            )


def _granted(standing: Standing, event: ConsentEvent) -> Standing:
    return Standing("granted", event) if barrier(event, standing) is None else standing


def _renewable(standing: Standing, renewal: ConsentEvent) -> bool:
    """True if what stands is a grant that the renewal names, and had not come to its own end when it was renewed.

    What ended by the policy then, which the fold does not know, was not renewed: the renewal names what was in force.
    """
    grant = standing.decided_by
    if standing.state != "granted" or grant is None or grant.entry not in renewal.renews:
        return False
    return grant.valid_until is None or renewal.occurred_at < grant.valid_until


def _refused(state: Settled, kind: Literal["deny", "withdraw", "object"]) -> Settled:
    """The state after a restriction: an objection outranks what stands, what stands keeps its name."""
    if kind == "object" or state == "objected":
        return "objected"
    if state == "denied" or state == "withdrawn":
        return state
    if state == "granted":
        return "withdrawn"  # a denial too: what was given is taken back
    return "denied" if kind == "deny" else "withdrawn"


def scopes(events: tuple[ConsentEvent, ...]) -> tuple[str | None, ...]:
    """Every channel that has a standing of its own, and None for all the others."""
    return (None, *sorted({channel for event in events for channel in event.channels}))


class Choices(msgspec.Struct, frozen=True):
    """What a person's choices on one purpose come to, channel by channel. It follows from the events, whatever the time.

    `recorded` are all events, `events` the live ones. In `ends` a rule keeps when grants of these end, by entry and by all
    else that the end follows from.
    """

    recorded: tuple[ConsentEvent, ...]
    events: tuple[ConsentEvent, ...]
    standings: Mapping[str | None, Standing]
    ends: dict[tuple[str, tuple[Duration, ...], int | None], int | None] = {}

    def standing(self, channel: str | None) -> Standing:
        """The standing of a channel: its own, or that of all the others."""
        return self.standings.get(channel) or self.standings[None]

    def objection(self) -> ConsentEvent | None:
        """What decides the first standing that is objected."""
        return next((one.decided_by for one in self.standings.values() if one.state == "objected"), None)

    def last_given(self) -> int | None:
        """When the newest permission was given, a void one too."""
        return next((one.occurred_at for one in reversed(self.recorded) if one.kind in PERMITTING), None)


def choices_of(events: tuple[ConsentEvent, ...]) -> Choices:
    """Fold the events for each channel that they name, and for all the others. Events MUST be in effect order."""
    standing = live(events)
    return Choices(events, standing, {channel: settle_live(standing, channel) for channel in scopes(standing)})


NO_CHOICES: Final = choices_of(())


def in_force(events: tuple[ConsentEvent, ...], event: ConsentEvent) -> ConsentEvent | None:
    """None if what the event asks for holds; else the event that stands in its way.

    A permission holds if it decides the standing of a channel that it covers, a request if it waits there or the
    channel is granted already; a restriction if every channel that it covers stands restricted. What was invalidated
    has the invalidation in its way, and so has what rested on it. An acknowledgement and an invalidation always hold.
    """
    voids = [other for other in events if other.kind == "invalidate"]
    void = next((other for other in voids if other.names == event.entry), None)
    if void is not None or event.kind in ("acknowledge", "invalidate"):
        return void
    standings = [settle(events, channel) for channel in event.channels or scopes(events)]
    if event.restrictive:
        granted = (standing.decided_by for standing in standings if standing.state == "granted")
        return next(granted, None)
    if any(_holds(standing, event) for standing in standings):
        return None
    against = [standing.refusal or standing.pending or standing.decided_by for standing in standings]
    return next((other for other in (*against, *voids) if other is not None), event)


def _holds(standing: Standing, event: ConsentEvent) -> bool:
    if event.kind == "request":
        return standing.state == "granted" or standing.pending == event
    return standing.decided_by == event
