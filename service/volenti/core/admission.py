"""The write rules: may this choice be recorded, and what exactly goes into the ledger?

`admit` is pure: command, state, policy and instant in, events or a refusal out. What of the policy decided an admission
is written into the event, so that the fold never needs the policy. A restriction is never refused for the person's
state, its date, its notice or its evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final, Literal, TypeAlias

import msgspec

from volenti.core import consent
from volenti.core.asking import locked_until
from volenti.core.consent import PERMITTING, Actor, ConsentEvent, ConsentKind, barrier, in_force, live, scopes, settle
from volenti.core.data_subject import (
    ASKED,
    ENTRY_KINDS,
    RELEASED,
    RESTRICTED,
    UPDATED,
    Act,
    Asked,
    ConsentRecorded,
    DataSubjectState,
    DataSubjectUpdated,
    Entry,
    Event,
    Evidence,
    Guardian,
    Identifier,
    ProcessingRestricted,
    Relation,
    Source,
    consent_event,
    evolve,
)
from volenti.core.policy.compile import CompiledPolicy, CompiledPurpose
from volenti.core.policy.document import grade_number
from volenti.core.policy.duration import expires_at
from volenti.core.policy.notice import PublishedNotice
from volenti.core.validity import end_of, of_age, terms_of

AHEAD_MS = 300_000
"""A grant may be dated this far ahead of the service's clock, for clocks that differ; more is refused."""
SHOWN_MS = 1_000
"""A form that is submitted faster than this after its offer was issued was not read by a person: it stays at E1."""


PERMISSIVE: Final[frozenset[ConsentKind]] = PERMITTING | {"request"}
"""Kinds that permit, or lead to it: they need a person's own act, a notice, and a purpose that is not retired."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One event that a caller wants recorded. `claimed_at` None: now.

    `names`: the write whose request a confirmation confirms (its first request's entry), the entry that an
    invalidation voids. `renews`: the grants that a renewal renews, found at admission.
    """

    kind: ConsentKind
    purpose: str
    channels: tuple[str, ...] = ()
    notice: str | None = None
    language: str | None = None
    claimed_at: int | None = None
    valid_from: int | None = None
    valid_until: int | None = None
    names: str | None = None
    renews: tuple[str, ...] = ()


class ShownOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A verified offer: what was put before the person. Notices are "key@version"; `preset` are toggles that were on by default."""

    id: str
    issued_at: int
    notices: frozenset[str]
    purposes: frozenset[str]
    preset: frozenset[str]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts as a caller states them; None says nothing, the empty string clears."""

    added: tuple[Identifier, ...] = ()
    removed: tuple[Identifier, ...] = ()
    jurisdiction: str | None = None
    time_zone: str | None = None
    locale: str | None = None
    birth_date: str | None = None
    guardian: Guardian | None = None
    relations: tuple[Relation, ...] = ()


class Restriction(msgspec.Struct, frozen=True, kw_only=True):
    """Restrict processing (GDPR Art. 18), or lift the restriction."""

    lifted: bool = False
    ground: str | None = None


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A request to record choices and facts of one person: by whom, how, and with what evidence.

    `guardian`: the caller's id of the guardian who acts. `asked`: purposes that are put to the person. `voids_refusals`:
    whether a refusal may be invalidated; where two people must agree to it, nobody may alone.
    """

    actor: Actor
    component: str
    guardian: str | None = None
    choices: tuple[Choice, ...] = ()
    facts: Facts = Facts()
    restriction: Restriction | None = None
    asked: tuple[str, ...] = ()
    voids_refusals: bool = True
    method: str | None = None
    surface: str | None = None
    evidence: Evidence | None = None
    offer: ShownOffer | None = None
    source: Source | None = None


RefusalCode = Literal[
    "purpose_unknown", "purpose_retired", "channel_unknown", "notice_required", "notice_unknown", "notice_not_published_then", "dated_ahead",
    "not_affirmative", "offer_invalid", "validity_invalid", "resubscribe_requires_data_subject_act", "entry_exists",
    "guardian_required", "guardian_unknown", "nothing_to_confirm", "not_renewable", "nothing_to_invalidate", "approval_required",
    "ask_locked",
]  # fmt: skip

CONFLICTS: frozenset[str] = frozenset(
    (
        "approval_required",
        "ask_locked",
        "entry_exists",
        "guardian_required",
        "guardian_unknown",
        "not_renewable",
        "nothing_to_confirm",
        "nothing_to_invalidate",
        "offer_invalid",
        "purpose_retired",
        "resubscribe_requires_data_subject_act",
    )
)
"""Refusals that contradict what is stored; the others find fault with the request itself."""


class Refusal(msgspec.Struct, frozen=True):
    """Nothing was recorded. `pointer` names the member at fault, within the request; `by` the entry that stands against it.

    `until`: the instant (milliseconds UTC) from which on it would be taken, where that is known.
    """

    code: RefusalCode
    detail: str
    pointer: str = ""
    by: str | None = None
    until: int | None = None

    @property
    def conflict(self) -> bool:
        return self.code in CONFLICTS


class Admitted(msgspec.Struct, frozen=True):
    """The events to append, in order, and the state after them. `obstacles` has one element an event: what is in the way of its taking effect."""

    entries: tuple[NewEntry, ...]
    state: DataSubjectState
    obstacles: tuple[ConsentEvent | None, ...]


class NewEntry(msgspec.Struct, frozen=True):
    """An event with its id and the open members of its leaf."""

    id: str
    kind: str
    purposes: tuple[str, ...]
    notice_hash: bytes | None
    event: Event


Admission: TypeAlias = Admitted | Refusal


def admit(
    command: Command,
    state: DataSubjectState,
    policy: CompiledPolicy,
    now: int,
    ids: Sequence[str],
    previous: str | None = None,
) -> Admission:
    """Decide a command against a person's state at an instant (milliseconds UTC).

    `ids` are fresh entry ids, as many as `most_entries` says, the first for the facts; an offer's id becomes the id of
    the first entry, so that an offer settles one form. `previous` is the person's last entry so far. All or nothing:
    the first refusal refuses the command.
    """
    if command.asked and (until := locked_until(policy, state, command.asked, now)) is not None:
        return Refusal("ask_locked", "the person must not be asked again yet", until=until)
    facts_id, *further = ids
    fresh = iter(further)
    entries: list[NewEntry] = []
    first_request: str | None = None
    after = state
    ahead = _dated_ahead(command.facts, now)
    if ahead is not None:
        return ahead
    for kind, purposes, said in _plain(command, state, now):
        said = msgspec.structs.replace(said, previous=entries[-1].id if entries else previous)
        entry_id = facts_id if kind == UPDATED else next(fresh)
        entries.append(NewEntry(_first_id(command, entries, entry_id), kind, purposes, None, said))
        after = evolve(after, Entry(entries[-1].id, now, said))
    for position, choice in enumerate(command.choices):
        pointer = f"/events/{position}"
        purpose = policy.purposes.get(choice.purpose)
        if purpose is None:
            return Refusal("purpose_unknown", "the policy has no such purpose", f"{pointer}/purpose")
        resolved = _resolved(choice, command, purpose, after, now, pointer)
        if isinstance(resolved, Refusal):
            return resolved
        notice = policy.published.get(resolved.notice) if resolved.notice is not None else None
        refusal = _fault(resolved, command, purpose, notice, after, now, pointer)
        if refusal is not None:
            return refusal
        entry_id = _first_id(command, entries, next(fresh))
        recorded = _recorded(resolved, command, purpose, policy, after, now)
        recorded = msgspec.structs.replace(recorded, previous=entries[-1].id if entries else previous)
        if recorded.kind == "request":
            first_request = first_request or entry_id
            recorded = msgspec.structs.replace(recorded, names=first_request)
        event = consent_event(entry_id, now, recorded)
        guarded = recorded.kind in ("grant", "confirm")
        if guarded and (against := _guarded_refusal(after.on(choice.purpose), event)) is not None:
            return Refusal(
                "resubscribe_requires_data_subject_act",
                "the person refused, withdrew or objected; only their own later act, proved at least at E2, permits again",
                pointer,
                against.entry,
            )
        entries.append(
            NewEntry(
                entry_id,
                ENTRY_KINDS[recorded.kind],
                (choice.purpose,),
                notice.hash if notice is not None else None,
                recorded,
            )
        )
        after = evolve(after, Entry(entry_id, now, recorded))
    return Admitted(tuple(entries), after, tuple(_obstacle(entry, after, now) for entry in entries))


def most_entries(command: Command) -> int:
    """How many entries a command makes at most: one for the facts, one for all else that it says."""
    return 1 + len(command.choices) + (command.restriction is not None) + bool(command.asked)


def _plain(command: Command, state: DataSubjectState, now: int) -> Iterator[tuple[str, tuple[str, ...], Event]]:
    """What a command records beside choices, each with the kind and the purposes of its leaf: the facts first."""
    said: dict[str, Any] = {
        "occurred_at": now, "claimed_at": now, "actor": command.actor, "component": command.component, "method": command.method,
        "surface": command.surface, "source": command.source,
    }  # fmt: skip
    if (update := _update(command, state, said)) is not None:
        yield UPDATED, (), update
    if (restriction := command.restriction) is not None and restriction.lifted is (state.restriction is not None):
        kind = RELEASED if restriction.lifted else RESTRICTED
        yield kind, (), ProcessingRestricted(lifted=restriction.lifted, ground=restriction.ground, **said)
    if command.asked:
        yield ASKED, command.asked, Asked(purposes=command.asked, **said)


def _resolved(
    choice: Choice, command: Command, purpose: CompiledPurpose, state: DataSubjectState, now: int, pointer: str
) -> Choice | Refusal:
    """The choice with what it takes over from the entry that it confirms, renews or voids; or why there is no such entry."""
    events = live(state.on(choice.purpose))
    match choice.kind:
        case "confirm":
            return _confirming(choice, events, pointer)
        case "renew":
            return _renewing(choice, command, purpose, state, now, pointer)
        case "invalidate":
            return _voiding(choice, command, events, pointer)
        case _:
            return choice


def _confirming(choice: Choice, events: tuple[ConsentEvent, ...], pointer: str) -> Choice | Refusal:
    """Confirmed is the first request of the write that waits; where none does and a grant stands, nothing more comes of it."""
    requests = [one for one in events if one.kind == "request" and one.names == choice.names]
    waiting = (one for one in requests if any(standing.pending == one for standing in _covered(events, one)))
    granted = (one for one in requests if any(standing.state == "granted" for standing in _covered(events, one)))
    request = next(chain(waiting, granted), None)
    if request is None:
        return Refusal("nothing_to_confirm", "no request waits for this confirmation", pointer)
    return msgspec.structs.replace(
        choice, names=request.entry, channels=request.channels, notice=request.notice, valid_from=request.valid_from,
        valid_until=request.valid_until,
    )  # fmt: skip


def _covered(events: tuple[ConsentEvent, ...], event: ConsentEvent) -> Iterator[consent.Standing]:
    return (settle(events, channel) for channel in event.channels or scopes(events))


def _renewing(
    choice: Choice, command: Command, purpose: CompiledPurpose, state: DataSubjectState, now: int, pointer: str
) -> Choice | Refusal:
    """Renewed is what was in force when the person did so, on every channel that the choice covers."""
    at = _occurred(choice, now)
    before = tuple(event for event in live(state.on(choice.purpose)) if event.occurred_at <= at)
    standings = [settle(before, channel) for channel in choice.channels or (None,)]
    grants = [one.decided_by for one in standings if one.state == "granted" and one.decided_by is not None]
    ends = [end_of(grant, purpose, state) for grant in grants]
    ended = any(end is not None and at >= end for end in ends)
    if len(grants) < len(standings) or ended or command.actor not in ("data_subject", "guardian"):
        return Refusal(
            "not_renewable", "a person renews a consent that is in force; what has ended is given anew", pointer
        )
    renewed = tuple(sorted({grant.entry for grant in grants}))
    return msgspec.structs.replace(choice, notice=choice.notice or grants[0].notice, renews=renewed)


def _voiding(choice: Choice, command: Command, events: tuple[ConsentEvent, ...], pointer: str) -> Choice | Refusal:
    named = next((one for one in events if one.entry == choice.names and one.kind != "invalidate"), None)
    if named is None:
        return Refusal(
            "nothing_to_invalidate",
            "the person has no such entry on this purpose that is not void",
            f"{pointer}/supersedes",
        )
    if command.actor not in ("operator", "system"):
        return Refusal("not_affirmative", "an entry is declared void by the controller; a person withdraws", pointer)
    if named.restrictive and not command.voids_refusals:
        return Refusal(
            "approval_required",
            "to void a refusal a second person must approve; this version has no approvals",
            pointer,
        )
    return msgspec.structs.replace(choice, channels=named.channels, notice=None)


def _first_id(command: Command, entries: list[NewEntry], fresh: str) -> str:
    return fresh if command.offer is None or entries else command.offer.id


def _fault(
    choice: Choice,
    command: Command,
    purpose: CompiledPurpose,
    notice: PublishedNotice | None,
    state: DataSubjectState,
    now: int,
    pointer: str,
) -> Refusal | None:
    """What is wrong with a permission. A restriction is never at fault; an acknowledgement names its notice."""
    if choice.kind == "acknowledge" and notice is None:
        return Refusal("notice_unknown", "an acknowledgement names a published notice", f"{pointer}/notice")
    if choice.kind not in PERMISSIVE:
        return None
    if choice.notice is not None and notice is None:
        return Refusal("notice_unknown", "no such notice version was published", f"{pointer}/notice")
    imported = command.actor == "import"
    claimed, occurred = _claimed(choice, now), _occurred(choice, now)
    alone = of_age(purpose, state, occurred)
    if command.actor == "system":
        return Refusal("not_affirmative", "a grant is an act of the person; the system cannot consent", pointer)
    if command.actor == "guardian":
        guardian = state.guardians.get(command.guardian or "")
        if guardian is None or not guardian.live(occurred) or alone is True:
            return Refusal("guardian_unknown", "no such guardian may act for the person at that time", "/actor/id")
    elif alone is False:
        return Refusal("guardian_required", "the person is too young to consent alone; a guardian consents", pointer)
    if purpose.retired_at_ms is not None and now >= purpose.retired_at_ms:
        return Refusal("purpose_retired", "the purpose is retired and takes no new consent", f"{pointer}/purpose")
    unknown = [channel for channel in choice.channels if channel not in purpose.channels]
    if unknown:
        return Refusal(
            "channel_unknown",
            "the purpose does not use this channel",
            f"{pointer}/channels/{choice.channels.index(unknown[0])}",
        )
    if claimed > now + AHEAD_MS:
        return Refusal("dated_ahead", "a grant may not be dated more than five minutes ahead", f"{pointer}/occurred_at")
    for name, act in _acts(command.evidence):
        if act.at > now + AHEAD_MS:
            return Refusal(
                "dated_ahead", "evidence may not be dated more than five minutes ahead", f"/evidence/{name}/at"
            )
    if choice.notice is None and not imported:
        return Refusal("notice_required", "a grant names the notice that was shown", f"{pointer}/notice")
    if notice is not None and notice.notice != purpose.notice:
        return Refusal("notice_unknown", "the purpose has another notice", f"{pointer}/notice")
    if notice is not None and not _was_published(notice, occurred):
        return Refusal(
            "notice_not_published_then", "the notice had not been published at that time", f"{pointer}/occurred_at"
        )
    if choice.valid_until is not None and choice.valid_until <= max(choice.valid_from or 0, occurred):
        return Refusal("validity_invalid", "the consent would end before it begins", f"{pointer}/valid_until")
    offer = command.offer
    if offer is not None:
        if choice.purpose in offer.preset:
            return Refusal("not_affirmative", "a toggle that was on by default is no consent", pointer)
        if choice.purpose not in offer.purposes or choice.notice not in offer.notices:
            return Refusal("offer_invalid", "the offer did not show this purpose with this notice", "/evidence/offer")
    return None


def _acts(evidence: Evidence | None) -> Iterator[tuple[str, Act]]:
    for name in ("authentication", "confirmation"):
        act = getattr(evidence, name, None)
        if act is not None:
            yield name, act


def _confirmed(choice: Choice, command: Command, state: DataSubjectState, occurred: int) -> bool:
    """True if the person confirmed this permission: an act that is older than a refusal that stands confirmed another one."""
    act = None if command.evidence is None else command.evidence.confirmation
    if act is None:
        return False
    before = tuple(event for event in live(state.on(choice.purpose)) if event.occurred_at <= occurred)
    standings = [settle(before, channel) for channel in choice.channels or scopes(before)]
    return all(standing.refusal is None or standing.refusal.occurred_at < act.at for standing in standings)


def _claimed(choice: Choice, now: int) -> int:
    return now if choice.claimed_at is None else choice.claimed_at


def _occurred(choice: Choice, now: int) -> int:
    """When the choice takes its place in the order: when its caller says, but not in the future."""
    return min(_claimed(choice, now), now)


def _was_published(notice: PublishedNotice, at: int) -> bool:
    return notice.published_at is not None and notice.published_at.timestamp() * 1000 <= at


def _recorded(
    choice: Choice,
    command: Command,
    purpose: CompiledPurpose,
    policy: CompiledPolicy,
    state: DataSubjectState,
    now: int,
) -> ConsentRecorded:
    """What goes into the payload. Under double opt-in a grant without confirmation is a request for one."""
    claimed, occurred = _claimed(choice, now), _occurred(choice, now)
    confirmed = _confirmed(choice, command, state, occurred)
    kind: ConsentKind = "request" if choice.kind == "grant" and purpose.double_opt_in and not confirmed else choice.kind
    permissive = kind in PERMISSIVE
    return ConsentRecorded(
        kind=kind,
        purpose=choice.purpose,
        channels=tuple(sorted(set(choice.channels))),
        notice=choice.notice,
        jurisdiction=state.jurisdiction or None,
        evidence_grade=_graded(choice, command, state, confirmed, now, policy) if permissive else consent.E0,
        minimum_grade=grade_number(purpose.minimum_evidence),
        double_opt_in=purpose.double_opt_in,
        age_of_consent=_age_reached(purpose, state, occurred) if permissive and command.actor != "guardian" else None,
        names=choice.names,
        renews=choice.renews,
        guardian=command.guardian if command.actor == "guardian" else None,
        valid_from=choice.valid_from if permissive else None,
        valid_until=choice.valid_until if permissive else None,
        occurred_at=occurred,
        claimed_at=claimed,
        actor=command.actor,
        component=command.component,
        method=command.method,
        surface=command.surface,
        language=choice.language,
        evidence=command.evidence,
        source=command.source,
    )


def _age_reached(purpose: CompiledPurpose, state: DataSubjectState, at: int) -> int | None:
    """The age that the person had to have to consent alone, where they are known to have had it."""
    return terms_of(purpose, state).age_of_consent if of_age(purpose, state, at) else None


def _graded(
    choice: Choice, command: Command, state: DataSubjectState, confirmed: bool, now: int, policy: CompiledPolicy
) -> int:
    """How well a permission is proved; one that is reported too late, not at all.

    A confirmation through the link that was sent to the address: the page showed the text, and the mailbox is the
    person's (E3); with a request that was authenticated, E4. A renewal of what was agreed to keeps what its grants had,
    if that is more; what it agrees to anew it has to prove.
    """
    occurred = _occurred(choice, now)
    if now >= expires_at(occurred, policy.backdating_limit):
        return consent.E0
    own = _grade(command, occurred, confirmed)
    events = live(state.on(choice.purpose))
    match choice.kind:
        case "confirm":
            request = next(one for one in events if one.entry == choice.names)
            return consent.E4 if request.grade >= consent.E3 else consent.E3
        case "renew":
            grants = [one for one in events if one.entry in choice.renews]
            same = all(grant.notice == choice.notice for grant in grants)
            return max(own, min(grant.grade for grant in grants)) if same else own
        case _:
            return own


def _grade(command: Command, occurred: int, confirmed: bool) -> int:
    """How well a grant is proved. Without an offer nothing shows what was on screen: E1 at most."""
    evidence = command.evidence
    authenticated = evidence is not None and evidence.authentication is not None
    if command.actor == "import":
        return consent.E3 if confirmed else consent.E0
    if command.offer is None:
        return consent.E1 if command.method and command.surface else consent.E0
    if occurred - command.offer.issued_at < SHOWN_MS:
        return consent.E1
    if confirmed and authenticated:
        return consent.E4
    return consent.E3 if confirmed or authenticated else consent.E2


def _guarded_refusal(events: tuple[ConsentEvent, ...], grant: ConsentEvent) -> ConsentEvent | None:
    """The refusal that stands where the grant would, and that it may not lift; None if there is none.

    Looked at at the grant's own place in the order: a refusal dated later or equally does not refuse the grant, it
    supersedes it.
    """
    before = tuple(event for event in events if event.occurred_at < grant.occurred_at)
    barriers = (barrier(grant, settle(before, channel)) for channel in grant.channels or scopes(events))
    return next((one for one in barriers if one is not None), None)


def _obstacle(entry: NewEntry, after: DataSubjectState, now: int) -> ConsentEvent | None:
    if not isinstance(entry.event, ConsentRecorded):
        return None
    return in_force(after.on(entry.event.purpose), consent_event(entry.id, now, entry.event))


def _dated_ahead(facts: Facts, now: int) -> Refusal | None:
    """What is to come qualifies for nothing yet."""
    for position, relation in enumerate(facts.relations):
        if relation.at > now + AHEAD_MS:
            pointer = f"/relations/{position}/at"
            return Refusal("dated_ahead", "a relation may not be dated more than five minutes ahead", pointer)
    return None


def _update(command: Command, state: DataSubjectState, said: dict[str, Any]) -> DataSubjectUpdated | None:
    """The facts that differ from what is known; None if nothing does."""
    facts = command.facts
    known = {(identifier.type, identifier.value): identifier for identifier in state.identifiers}
    added = tuple(
        identifier
        for identifier in facts.added
        if (identifier.type, identifier.value) not in known
        or (
            identifier.verified_at is not None
            and identifier.verified_at != known[identifier.type, identifier.value].verified_at
        )
    )
    removed = tuple(identifier for identifier in facts.removed if (identifier.type, identifier.value) in known)
    jurisdiction = facts.jurisdiction if facts.jurisdiction != state.jurisdiction else None
    time_zone = facts.time_zone if facts.time_zone != state.time_zone else None
    locale = facts.locale if facts.locale != state.locale else None
    birth_date = facts.birth_date if facts.birth_date != state.birth_date else None
    guardian = facts.guardian
    if guardian is not None and state.guardians.get(guardian.id) == guardian:
        guardian = None
    now = said["occurred_at"]
    relations = tuple(
        msgspec.structs.replace(relation, at=min(relation.at, now))  # the callers' clocks differ
        for relation in facts.relations
        if relation.type not in state.relations or relation.at > state.relations[relation.type].occurred_at
    )
    changed = (jurisdiction, time_zone, locale, birth_date, guardian)
    if not added and not removed and not relations and all(one is None for one in changed):
        return None
    return DataSubjectUpdated(
        added=added, removed=removed, jurisdiction=jurisdiction, time_zone=time_zone, locale=locale, birth_date=birth_date, guardian=guardian,
        relations=relations, **said,
    )  # fmt: skip
