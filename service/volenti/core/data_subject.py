"""Everything in force for one person, folded from the person's ledger entries alone.

An *event* is what an entry's sealed payload says. `fold` of a holder's events, in the order of the ledger, is the
state; the append, the rebuild, an export and the tests call the same fold.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

import msgspec

from volenti.core import consent
from volenti.core.consent import Actor, ConsentEvent, ConsentKind

STATE_VERSION: Final = 1

ENTRY_KINDS: dict[ConsentKind, str] = {
    "grant": "consent.granted",
    "deny": "consent.denied",
    "withdraw": "consent.withdrawn",
    "object": "consent.objected",
}
"""The ledger's name of each choice."""
UPDATED = "data_subject.updated"


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
    """A choice on one purpose. `minimum_grade` and `double_opt_in` are what the policy asked when it was admitted."""

    kind: ConsentKind
    purpose: str
    channels: tuple[str, ...] = ()
    notice: str | None = None
    jurisdiction: str | None = None
    evidence_grade: int = 0
    minimum_grade: int = 0
    double_opt_in: bool = False
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
    blind_indexes: tuple[str, ...] = ()
    """Identifiers known by their keyed HMACs only (hex): of a person whom a recovery made again."""


Event: TypeAlias = ConsentRecorded | DataSubjectUpdated


class Entry(msgspec.Struct, frozen=True):
    """A holder's ledger entry, opened: its id, the signed time (milliseconds) and what it says."""

    id: str
    recorded_at: int
    event: Event


class DataSubjectState(msgspec.Struct, frozen=True, array_like=True):
    """What is in force. Identifiers keep the order in which they were added; consents are in effect order, by purpose."""

    version: Literal[1] = STATE_VERSION
    identifiers: tuple[Identifier, ...] = ()
    jurisdiction: str = ""
    time_zone: str = ""
    locale: str = ""
    consents: dict[str, tuple[ConsentEvent, ...]] = {}
    blind_indexes: tuple[str, ...] = ()

    def on(self, purpose: str) -> tuple[ConsentEvent, ...]:
        """The person's choices on a purpose, in effect order."""
        return self.consents.get(purpose, ())

    def caller_id(self) -> str | None:
        """The id by which callers name the person: the first that was registered."""
        return next((identifier.value for identifier in self.identifiers if identifier.type == "id"), None)


EMPTY = DataSubjectState()
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(DataSubjectState)
_payload_encoder = msgspec.json.Encoder(order="sorted")
_payload_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(ConsentRecorded | DataSubjectUpdated)


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
            return msgspec.structs.replace(
                state,
                identifiers=_identifiers(state.identifiers, event),
                jurisdiction=state.jurisdiction if event.jurisdiction is None else event.jurisdiction,
                time_zone=state.time_zone if event.time_zone is None else event.time_zone,
                locale=state.locale if event.locale is None else event.locale,
                blind_indexes=(*state.blind_indexes, *event.blind_indexes),
            )


def fold(entries: Iterable[Entry], state: DataSubjectState = EMPTY) -> DataSubjectState:
    """The state after these entries, in the order of the ledger. fold(a + b) == fold(b, fold(a))."""
    for entry in entries:
        state = evolve(state, entry)
    return state


def consent_event(entry_id: str, recorded_at: int, event: ConsentRecorded) -> ConsentEvent:
    """The part of a recorded choice that the fold of a purpose needs."""
    evidence = event.evidence
    acts = (
        [act.at for act in (evidence.authentication, evidence.confirmation) if act is not None]
        if evidence is not None
        else []
    )
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
        evidence_at=max(acts, default=None),
        valid_from=event.valid_from,
        valid_until=event.valid_until,
    )


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
