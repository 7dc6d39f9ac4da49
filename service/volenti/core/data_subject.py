"""Everything in force for one person, folded from the person's ledger entries alone.

An *event* is what an entry's sealed payload says. `fold` of a holder's events, in the order of the ledger, is the
state; the append, the rebuild, an export and the tests call the same fold.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from functools import cached_property
from typing import Final, Literal, TypeAlias

import msgspec

from volenti.core import consent
from volenti.core.consent import NO_CHOICES, RESTRICTIVE, Actor, Choices, ConsentEvent, ConsentKind
from volenti.core.policy.document import RelationType

STATE_VERSION: Final = 1

ENTRY_KINDS: dict[ConsentKind, str] = {
    "grant": "consent.granted",
    "deny": "consent.denied",
    "withdraw": "consent.withdrawn",
    "object": "consent.objected",
    "request": "consent.requested",
    "confirm": "consent.confirmed",
    "renew": "consent.renewed",
    "invalidate": "consent.invalidated",
    "acknowledge": "notice.acknowledged",
}
"""The ledger's name of each choice."""
UPDATED: Final = "data_subject.updated"
ASKED: Final = "consent.asked"
RESTRICTED: Final = "data_subject.restricted"
RELEASED: Final = "data_subject.restriction_lifted"

RESTRICTIONS: Final = frozenset((*(ENTRY_KINDS[kind] for kind in (*RESTRICTIVE, "invalidate")), RESTRICTED))
"""Kinds of entries that may take back, refuse or restrict: what no restored backup may lose."""
ASKS_KEPT: Final = 64
"""Of the questions that were put to a person, so many of the newest count against the budget for asking."""

OUR_ID = "ds_"
"""How the ids begin that the service gives to people whom no caller has named."""


class Identifier(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An identifier of the person, as given; `id` is the caller's own id for the person."""

    type: Literal["id", "email", "phone", "device", "external"]
    value: str
    verified_at: int | None = None


class Act(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """When and how the person showed who they are: a confirmed address, an authenticated visit."""

    method: str
    at: int


class Evidence(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What proves a choice beyond the caller's word. Holds no full IP address."""

    ip_prefix: str | None = None
    user_agent: str | None = None
    offer: str | None = None  # the id of the offer that was shown
    authentication: Act | None = None
    confirmation: Act | None = None


class Source(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Where an imported row came from."""

    system: str
    row: str


class Guardian(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Who may consent for the person, how that was verified, and when it holds: from `since` until before `until`."""

    id: str  # the caller's id of the guardian
    method: str
    since: int
    until: int | None = None

    def live(self, at: int) -> bool:
        return self.since <= at and (self.until is None or at < self.until)


class Relation(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A dated relation with the controller, as soft opt-in and retention need it."""

    type: RelationType
    at: int


class _Payload(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", forbid_unknown_fields=True
):
    occurred_at: int
    claimed_at: int
    actor: Actor
    component: str  # the caller, known from its credential
    method: str | None = None
    surface: str | None = None
    language: str | None = None
    evidence: Evidence | None = None
    source: Source | None = None
    previous: str | None = None  # the holder's entry before this one


class ConsentRecorded(
    _Payload, tag="consent", frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A choice on one purpose.

    `minimum_grade` and `double_opt_in` are what the policy asked when it was admitted; `age_of_consent`, `names` and
    `renews` are as in `ConsentEvent`; `guardian` the one who acted.
    """

    kind: ConsentKind
    purpose: str
    channels: tuple[str, ...] = ()
    notice: str | None = None
    jurisdiction: str | None = None
    evidence_grade: int = 0
    minimum_grade: int = 0
    double_opt_in: bool = False
    age_of_consent: int | None = None
    names: str | None = None
    renews: tuple[str, ...] = ()
    guardian: str | None = None
    valid_from: int | None = None
    valid_until: int | None = None


class DataSubjectUpdated(
    _Payload, tag="facts", frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Facts about the person: what changes is given, the empty string clears."""

    added: tuple[Identifier, ...] = ()
    removed: tuple[Identifier, ...] = ()
    jurisdiction: str | None = None
    time_zone: str | None = None
    locale: str | None = None
    birth_date: str | None = None
    guardian: Guardian | None = None  # one more, or another `until` of one that is known
    relations: tuple[Relation, ...] = ()
    blind_indexes: tuple[str, ...] = ()
    """Identifiers known by their keyed HMACs only (hex): of a person whom a recovery made again."""


class ProcessingRestricted(
    _Payload, tag="restriction", frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Processing is restricted (GDPR Art. 18), or, with `lifted`, no longer."""

    lifted: bool = False
    ground: str | None = None


class Asked(_Payload, tag="ask", frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A question was put to the person: it changes no choice, and counts against the budget for asking."""

    purposes: tuple[str, ...]


Event: TypeAlias = ConsentRecorded | DataSubjectUpdated | ProcessingRestricted | Asked


class Entry(msgspec.Struct, frozen=True):
    """A holder's ledger entry, opened: its id, the signed time (milliseconds) and what it says."""

    id: str
    recorded_at: int
    event: Event


class Fact(msgspec.Struct, frozen=True, array_like=True):
    """A fact that an answer may rest on, with the entry that proves it."""

    entry: str
    kind: str  # of the entry
    occurred_at: int
    notice: None = None


class Prompt(msgspec.Struct, frozen=True, array_like=True):
    """A question that was put to the person."""

    at: int
    purposes: tuple[str, ...]


class DataSubjectState(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """What is in force. Identifiers keep the order in which they were added; consents are in effect order, by purpose.

    `relations` holds the newest of each type; `birth_date` is YYYY-MM-DD or empty; `asked` is in the order of the ledger.
    """

    version: Literal[1] = STATE_VERSION
    identifiers: tuple[Identifier, ...] = ()
    jurisdiction: str = ""
    time_zone: str = ""
    locale: str = ""
    consents: dict[str, tuple[ConsentEvent, ...]] = {}
    blind_indexes: tuple[str, ...] = ()
    birth_date: str = ""
    guardians: dict[str, Guardian] = {}
    relations: dict[str, Fact] = {}
    restriction: Fact | None = None
    asked: tuple[Prompt, ...] = ()

    def on(self, purpose: str) -> tuple[ConsentEvent, ...]:
        """The person's choices on a purpose, in effect order."""
        return self.consents.get(purpose, ())

    def choices(self, purpose: str) -> Choices:
        """What the choices on a purpose come to; folded once."""
        folded = self._choices.get(purpose)
        if folded is None:
            events = self.on(purpose)
            if not events:
                return NO_CHOICES
            folded = self._choices[purpose] = consent.choices_of(events)
        return folded

    @cached_property
    def _choices(self) -> dict[str, Choices]:
        """What `choices` has folded, of purposes that have any. No member: it is neither stored nor compared nor copied."""
        return {}

    def last_recorded(self) -> int:
        """When the newest choice was recorded (milliseconds UTC), whatever it was dated; 0 without one."""
        return max((event.recorded_at for events in self.consents.values() for event in events), default=0)

    def caller_id(self) -> str | None:
        """The id by which callers name the person: the first that one of them gave, else the service's own."""
        ids = [identifier.value for identifier in self.identifiers if identifier.type == "id"]
        return next((value for value in ids if not value.startswith(OUR_ID)), ids[0] if ids else None)


EMPTY = DataSubjectState()
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(DataSubjectState)
_payload_encoder = msgspec.json.Encoder(order="sorted")
_payload_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(
    ConsentRecorded | DataSubjectUpdated | ProcessingRestricted | Asked
)


def encode_state(state: DataSubjectState) -> bytes:
    """The compact bytes that are sealed into the state row."""
    return _encoder.encode(state)


def decode_state(data: bytes) -> DataSubjectState:
    """Raises msgspec.DecodeError if the bytes are no state of this version."""
    return _decoder.decode(data)


def encode_event(event: Event) -> bytes:
    """The canonical payload (RFC 8785 in the ledger's profile) that an entry commits to and seals."""
    return _payload_encoder.encode(event)


def decode_event(data: bytes) -> Event:
    """Raises msgspec.DecodeError if the bytes are no event of this version."""
    return _payload_decoder.decode(data)


def evolve(state: DataSubjectState, entry: Entry) -> DataSubjectState:
    """The state after one more entry. Total: an event without effect still has its place in the history."""
    event = entry.event
    match event:
        case ConsentRecorded():
            choice = consent_event(entry.id, entry.recorded_at, event)
            consents = {**state.consents, event.purpose: consent.insert(state.on(event.purpose), choice)}
            return msgspec.structs.replace(state, consents=consents)
        case DataSubjectUpdated():
            return _updated(state, entry, event)
        case ProcessingRestricted():
            restriction = None if event.lifted else Fact(entry.id, RESTRICTED, event.occurred_at)
            return msgspec.structs.replace(state, restriction=restriction)
        case Asked():
            asked = (*state.asked, Prompt(event.occurred_at, event.purposes))
            return msgspec.structs.replace(state, asked=asked[-ASKS_KEPT:])


def _updated(state: DataSubjectState, entry: Entry, event: DataSubjectUpdated) -> DataSubjectState:
    relations = dict(state.relations)
    for relation in event.relations:
        known = relations.get(relation.type)
        if known is None or relation.at > known.occurred_at:
            relations[relation.type] = Fact(entry.id, UPDATED, relation.at)
    guardians = state.guardians if event.guardian is None else {**state.guardians, event.guardian.id: event.guardian}
    return msgspec.structs.replace(
        state,
        identifiers=_identifiers(state.identifiers, event),
        jurisdiction=state.jurisdiction if event.jurisdiction is None else event.jurisdiction,
        time_zone=state.time_zone if event.time_zone is None else event.time_zone,
        locale=state.locale if event.locale is None else event.locale,
        blind_indexes=(*state.blind_indexes, *event.blind_indexes),
        birth_date=state.birth_date if event.birth_date is None else event.birth_date,
        guardians=guardians,
        relations=dict(sorted(relations.items())),
    )


def restricts(state: DataSubjectState, event: Event) -> bool:
    """True if an event that is in the state takes back, refuses or restricts. To void a refusal does not."""
    match event:
        case ConsentRecorded(kind="invalidate"):
            return any(one.entry == event.names and not one.restrictive for one in state.on(event.purpose))
        case ConsentRecorded():
            return event.kind in RESTRICTIVE
        case ProcessingRestricted():
            return not event.lifted
        case DataSubjectUpdated() | Asked():
            return False


def fold(entries: Iterable[Entry], state: DataSubjectState = EMPTY) -> DataSubjectState:
    """The state after these entries, in the order of the ledger. fold(a + b) == fold(b, fold(a))."""
    for entry in entries:
        state = evolve(state, entry)
    return state


def consent_event(entry_id: str, recorded_at: int, event: ConsentRecorded) -> ConsentEvent:
    """The part of a recorded choice that the fold of a purpose needs."""
    evidence = Evidence() if event.evidence is None else event.evidence
    # What gives the event its grade: to have signed in adds none to an import.
    telling = (evidence.confirmation, None if event.actor == "import" else evidence.authentication)
    return ConsentEvent(
        entry=entry_id,
        kind=event.kind,
        occurred_at=event.occurred_at,
        recorded_at=recorded_at,
        actor=event.actor,
        channels=event.channels,
        notice=event.notice,
        grade=event.evidence_grade,
        guard=max(consent.E2, event.minimum_grade),
        evidence_at=max((act.at for act in telling if act is not None), default=None),
        valid_from=event.valid_from,
        valid_until=event.valid_until,
        names=event.names,
        renews=event.renews,
        age_of_consent=event.age_of_consent,
    )


def comes_of_age(birth_date: str, years: int) -> int:
    """The instant (milliseconds UTC) from which a person born on this day is so old, wherever on Earth.

    The birthday has begun everywhere at noon UTC (UTC−12 is the last zone). Who was born on 29 February is a year
    older on 1 March of a common year. Raises ValueError for a text that is no date.
    """
    born = date.fromisoformat(birth_date)
    try:
        birthday = born.replace(year=born.year + years)
    except ValueError:
        birthday = date(born.year + years, 3, 1)
    return (birthday.toordinal() - _EPOCH_DAY) * 86_400_000 + 43_200_000


_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()


def _identifiers(known: tuple[Identifier, ...], event: DataSubjectUpdated) -> tuple[Identifier, ...]:
    gone = {(identifier.type, identifier.value) for identifier in event.removed}
    kept = {
        (identifier.type, identifier.value): identifier
        for identifier in known
        if (identifier.type, identifier.value) not in gone
    }
    for identifier in event.added:
        before = kept.get((identifier.type, identifier.value))
        if before is None or identifier.verified_at is not None:
            kept[identifier.type, identifier.value] = identifier
    return tuple(kept.values())
