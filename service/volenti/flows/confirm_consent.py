"""Double opt-in: what a confirmation link shows, and the one act that it permits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, assert_never
from uuid import UUID

import msgspec

from volenti.core.admission import Choice, Command, Refusal
from volenti.core.consent import ConsentEvent, Standing
from volenti.core.data_subject import Act, ConsentRecorded, DataSubjectState, Evidence, Identifier
from volenti.core.policy.canonical import parse_document
from volenti.core.policy.compile import CompiledPolicy
from volenti.core.policy.document import NoticeText
from volenti.errors import Unavailable
from volenti.flows.find_data_subject import Person
from volenti.flows.open_link import NoLink, open_link
from volenti.flows.record_consents import IdentifierTaken, KeyMisused, Recorded, record
from volenti.flows.seal_entries import open_entry
from volenti.flows.services import Services
from volenti.keys.links import ConfirmationLink, read_confirmation, sign_confirmation
from volenti.store import data_subjects, policies

METHOD = "email_link"
COMPONENT = "confirmation_page"


class Offered(msgspec.Struct, frozen=True):
    """A purpose that waits for the person's confirmation, with the words that the request named, by language."""

    purpose: str
    channels: tuple[str, ...]
    text: dict[str, NoticeText]


class Waiting(msgspec.Struct, frozen=True):
    """The link is good, and these purposes wait. `language` is that of the request, else of the person, else empty."""

    policy: CompiledPolicy
    offered: tuple[Offered, ...]
    language: str


class Confirmed(msgspec.Struct, frozen=True):
    """What the link asked for is confirmed, by this act or an earlier one, and not taken back since."""

    policy: CompiledPolicy
    language: str


class Expired(msgspec.Struct, frozen=True):
    """The link was good; its time is over. The request still waits, and a new one gives a new link."""


class Settled(msgspec.Struct, frozen=True):
    """The link was good; what it asked for was refused, taken back or asked for anew since."""


Shown: TypeAlias = Waiting | Confirmed | Expired | Settled | NoLink


def link_for(services: Services, workspace_id: UUID, holder: UUID, first_request: str) -> tuple[str, int]:
    """The token of the confirmation of a write, by its first request, and when it expires (milliseconds UTC).

    Deterministic: the instant is that of the entry's id, so that a repeated answer is the same to the byte.
    """
    entry = UUID(first_request)
    expires_at = (entry.int >> 80) // 1000 + services.settings.confirmation_days * 86_400
    token = sign_confirmation(services.keyring, ConfirmationLink(workspace_id, holder, entry, expires_at))
    return token, expires_at * 1000


async def show(services: Services, token: str) -> Shown:
    """What a link stands for now. Changes nothing. Raises Unavailable without a database."""
    opened = await _open(services, token)
    return opened if isinstance(opened, NoLink) else await _stands(services, *opened)


async def confirm(services: Services, token: str) -> Shown:
    """Confirm what the link asks for. A second time, and at the same moment elsewhere, it adds nothing."""
    opened = await _open(services, token)
    if isinstance(opened, NoLink):
        return opened
    link, person, policy = opened
    shown = await _stands(services, link, person, policy)
    if not isinstance(shown, Waiting):
        return shown
    now = services.clock()
    guardian = await _guardian(services, link, person)
    command = Command(
        actor="data_subject" if guardian is None else "guardian",
        guardian=guardian,
        component=COMPONENT,
        choices=tuple(Choice(kind="confirm", purpose=one.purpose, names=str(link.entry)) for one in shown.offered),
        method=METHOD,
        surface=services.settings.base_url,
        evidence=Evidence(confirmation=Act(METHOD, now)),
    )
    caller_id = person.state.caller_id()
    assert caller_id is not None, "every person has an id"
    recording = await record(services, link.workspace, command, (Identifier("id", caller_id),))
    match recording:
        case Recorded():
            return Confirmed(policy, shown.language)
        case Refusal():
            return Settled()
        case KeyMisused() | IdentifierTaken():
            raise Unavailable("the confirmation could not be recorded; try again")
        case _:
            assert_never(recording)


def confirmed_write(services: Services, workspace_id: UUID, token: str) -> str | Expired | None:
    """The write that a token confirms (its first request), for a caller who relays it; None: none of this workspace's."""
    link = read_confirmation(services.keyring, token)
    if link is None or link.workspace != workspace_id:
        return None
    return Expired() if services.clock() >= link.expires_at * 1000 else str(link.entry)


async def _open(services: Services, token: str) -> tuple[ConfirmationLink, Person, CompiledPolicy] | NoLink:
    link = read_confirmation(services.keyring, token)
    opened = None if link is None else await open_link(services, link.workspace, link.holder)
    return NoLink() if link is None or opened is None else (link, *opened)


async def _stands(services: Services, link: ConfirmationLink, person: Person, policy: CompiledPolicy) -> Shown:
    requests = _requests(person.state, str(link.entry))
    if not requests:
        return NoLink()
    language = person.state.locale
    waiting = [(purpose, request) for purpose, request in requests if _waits(person.state, purpose, request)]
    if not waiting:
        confirmed = any(_confirmed(person.state, purpose, request) for purpose, request in requests)
        return Confirmed(policy, language) if confirmed else Settled()
    if services.clock() >= link.expires_at * 1000:
        return Expired()
    offered = [
        Offered(purpose, request.channels, await _words(services, link.workspace, policy, request.notice))
        for purpose, request in waiting
    ]
    return Waiting(policy, tuple(offered), language)


async def _guardian(services: Services, link: ConfirmationLink, person: Person) -> str | None:
    """Who asked for the consent in the person's place, and so confirms it: the caller's id of the guardian."""
    if all(request.actor != "guardian" for _, request in _requests(person.state, str(link.entry))):
        return None
    async with services.database.workspace("volenti_app", link.workspace) as connection:
        payloads = await data_subjects.payloads(connection, link.workspace, link.holder)
    asked = next(open_entry(link.workspace, person.key, one) for one in payloads if one.entry_id == link.entry)
    return asked.event.guardian if isinstance(asked.event, ConsentRecorded) else None


async def _words(
    services: Services, workspace_id: UUID, policy: CompiledPolicy, notice: str | None
) -> dict[str, NoticeText]:
    """The words of a notice version, which may be older than the policy in force."""
    key, _, version = (notice or "").rpartition("@")
    current = policy.document.notices.get(key)
    if current is not None and current.version == int(version):
        return current.text
    if not key:
        return {}
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        published = await policies.publisher(connection, workspace_id, key, int(version))
    return parse_document(published.document).notices[key].text


def _requests(state: DataSubjectState, first: str) -> list[tuple[str, ConsentEvent]]:
    """The requests of one write, by purpose."""
    return [
        (purpose, event)
        for purpose, events in sorted(state.consents.items())
        for event in events
        if event.kind == "request" and event.names == first
    ]


def _waits(state: DataSubjectState, purpose: str, request: ConsentEvent) -> bool:
    return any(standing.pending == request for standing in _standings(state, purpose, request))


def _confirmed(state: DataSubjectState, purpose: str, request: ConsentEvent) -> bool:
    confirmed = any(event.kind == "confirm" and event.names == request.entry for event in state.on(purpose))
    return confirmed and any(standing.state == "granted" for standing in _standings(state, purpose, request))


def _standings(state: DataSubjectState, purpose: str, request: ConsentEvent) -> Iterator[Standing]:
    choices = state.choices(purpose)
    return (choices.standing(channel) for channel in request.channels or choices.standings)
