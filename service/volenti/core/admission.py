"""The write rules: may this choice be recorded, and what exactly goes into the ledger?

`admit` is pure: command, state, policy and instant in, events or a refusal out. What of the policy decided an admission
is written into the event, so that the fold never needs the policy. A restriction is never refused for the person's
state, its date, its notice or its evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from volenti.core import consent
from volenti.core.consent import Actor, ConsentEvent, ConsentKind, in_force, may_lift, scopes, settle
from volenti.core.data_subject import (
    ENTRY_KINDS,
    UPDATED,
    ConsentRecorded,
    DataSubjectState,
    DataSubjectUpdated,
    Entry,
    Event,
    Evidence,
    Identifier,
    Source,
    consent_event,
    evolve,
)
from volenti.core.policy.compile import CompiledPolicy, CompiledPurpose
from volenti.core.policy.document import grade_number
from volenti.core.policy.duration import expires_at
from volenti.core.policy.notice import PublishedNotice

AHEAD_MS = 300_000
"""A grant may be dated this far ahead of the service's clock, for clocks that differ; more is refused."""
SHOWN_MS = 1_000
"""A form that is submitted faster than this after its offer was issued was not read by a person: it stays at E1."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One event that a caller wants recorded. `claimed_at` None: now."""

    kind: ConsentKind
    purpose: str
    channels: tuple[str, ...] = ()
    notice: str | None = None
    language: str | None = None
    claimed_at: int | None = None
    valid_from: int | None = None
    valid_until: int | None = None


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


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A request to record choices and facts of one person: by whom, how, and with what evidence."""

    actor: Actor
    component: str
    choices: tuple[Choice, ...] = ()
    facts: Facts = Facts()
    method: str | None = None
    surface: str | None = None
    evidence: Evidence | None = None
    offer: ShownOffer | None = None
    source: Source | None = None


RefusalCode = Literal[
    "purpose_unknown", "purpose_retired", "channel_unknown", "notice_required", "notice_unknown", "notice_not_published_then", "dated_ahead",
    "not_affirmative", "offer_invalid", "validity_invalid", "resubscribe_requires_data_subject_act", "entry_exists",
]  # fmt: skip

CONFLICTS: frozenset[str] = frozenset(
    ("entry_exists", "offer_invalid", "purpose_retired", "resubscribe_requires_data_subject_act")
)
"""Refusals that contradict what is stored; the others find fault with the request itself."""


class Refusal(msgspec.Struct, frozen=True):
    """Nothing was recorded. `pointer` names the member at fault, within the request; `by` the entry that stands against it."""

    code: RefusalCode
    detail: str
    pointer: str = ""
    by: str | None = None

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

    `ids` are 1 + len(choices) fresh entry ids, the first for the facts, if they change; an offer's id becomes the id of
    the first entry, so that an offer settles one form. `previous` is the person's last entry so far. All or nothing: the first refusal refuses the command.
    """
    facts_id, *choice_ids = ids
    entries: list[NewEntry] = []
    after = state
    update = _update(command, state, now)
    if update is not None:
        update = msgspec.structs.replace(update, previous=previous)
        entries.append(NewEntry(_first_id(command, entries, facts_id), UPDATED, (), None, update))
        after = evolve(after, Entry(entries[-1].id, now, update))
    for position, choice in enumerate(command.choices):
        pointer = f"/events/{position}"
        purpose = policy.purposes.get(choice.purpose)
        if purpose is None:
            return Refusal("purpose_unknown", "the policy has no such purpose", f"{pointer}/purpose")
        notice = policy.published.get(choice.notice) if choice.notice is not None else None
        refusal = _fault(choice, command, purpose, notice, now, pointer)
        if refusal is not None:
            return refusal
        recorded = _recorded(choice, command, purpose, policy, after, now)
        recorded = msgspec.structs.replace(recorded, previous=entries[-1].id if entries else previous)
        entry_id = _first_id(command, entries, choice_ids[position])
        event = consent_event(entry_id, now, recorded)
        if choice.kind == "grant" and (against := _guarded_refusal(after.on(choice.purpose), event)) is not None:
            return Refusal(
                "resubscribe_requires_data_subject_act",
                "the person refused, withdrew or objected; only their own later act, proved at least at E2, permits again",
                pointer,
                against.entry,
            )
        entries.append(
            NewEntry(
                entry_id,
                ENTRY_KINDS[choice.kind],
                (choice.purpose,),
                notice.hash if notice is not None else None,
                recorded,
            )
        )
        after = evolve(after, Entry(entry_id, now, recorded))
    return Admitted(tuple(entries), after, tuple(_obstacle(entry, after, now) for entry in entries))


def _first_id(command: Command, entries: list[NewEntry], fresh: str) -> str:
    return fresh if command.offer is None or entries else command.offer.id


def _fault(
    choice: Choice, command: Command, purpose: CompiledPurpose, notice: PublishedNotice | None, now: int, pointer: str
) -> Refusal | None:
    """What is wrong with a grant whatever the person's state. A restriction is never at fault."""
    if choice.kind != "grant":
        return None
    if choice.notice is not None and notice is None:
        return Refusal("notice_unknown", "no such notice version was published", f"{pointer}/notice")
    imported = command.actor == "import"
    claimed = now if choice.claimed_at is None else choice.claimed_at
    if command.actor == "system":
        return Refusal("not_affirmative", "a grant is an act of the person; the system cannot consent", pointer)
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
    if choice.notice is None and not imported:
        return Refusal("notice_required", "a grant names the notice that was shown", f"{pointer}/notice")
    if notice is not None and notice.notice != purpose.notice:
        return Refusal("notice_unknown", "the purpose has another notice", f"{pointer}/notice")
    if notice is not None and not _was_published(notice, min(claimed, now)):
        return Refusal(
            "notice_not_published_then", "the notice had not been published at that time", f"{pointer}/occurred_at"
        )
    if choice.valid_until is not None and choice.valid_until <= max(choice.valid_from or 0, min(claimed, now)):
        return Refusal("validity_invalid", "the consent would end before it begins", f"{pointer}/valid_until")
    offer = command.offer
    if offer is not None:
        if choice.purpose in offer.preset:
            return Refusal("not_affirmative", "a toggle that was on by default is no consent", pointer)
        if choice.purpose not in offer.purposes or choice.notice not in offer.notices:
            return Refusal("offer_invalid", "the offer did not show this purpose with this notice", "/evidence/offer")
    return None


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
    claimed = now if choice.claimed_at is None else choice.claimed_at
    occurred = min(claimed, now)
    return ConsentRecorded(
        kind=choice.kind,
        purpose=choice.purpose,
        channels=tuple(sorted(set(choice.channels))),
        notice=choice.notice,
        jurisdiction=state.jurisdiction or None,
        evidence_grade=_grade(command, occurred, now, policy) if choice.kind == "grant" else consent.E0,
        minimum_grade=grade_number(purpose.minimum_evidence),
        valid_from=choice.valid_from if choice.kind == "grant" else None,
        valid_until=choice.valid_until if choice.kind == "grant" else None,
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


def _grade(command: Command, occurred: int, now: int, policy: CompiledPolicy) -> int:
    """How well a grant is proved. Without an offer nothing shows what was on screen: E1 at most."""
    evidence = command.evidence
    confirmed = evidence is not None and evidence.confirmation is not None
    authenticated = evidence is not None and evidence.authentication is not None
    if now >= expires_at(occurred, policy.backdating_limit):
        return consent.E0
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
    for channel in grant.channels or scopes(events):
        refusal = settle(before, channel).refusal
        if refusal is not None and not may_lift(grant, refusal):
            return refusal
    return None


def _obstacle(entry: NewEntry, after: DataSubjectState, now: int) -> ConsentEvent | None:
    if not isinstance(entry.event, ConsentRecorded):
        return None
    return in_force(after.on(entry.event.purpose), consent_event(entry.id, now, entry.event))


def _update(command: Command, state: DataSubjectState, now: int) -> DataSubjectUpdated | None:
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
    if not added and not removed and jurisdiction is None and time_zone is None and locale is None:
        return None
    return DataSubjectUpdated(
        added=added, removed=removed, jurisdiction=jurisdiction, time_zone=time_zone, locale=locale, occurred_at=now, claimed_at=now,
        actor=command.actor, component=command.component, method=command.method, surface=command.surface, source=command.source,
    )  # fmt: skip
