"""Read a person: what is in force, and the history that led there."""

from __future__ import annotations

from uuid import UUID

import msgspec

from volenti.core.consent import ConsentEvent, in_force, scopes, settle
from volenti.core.data_subject import ConsentRecorded, Entry, consent_event
from volenti.core.entry import decode
from volenti.flows.find_data_subject import Found, Person, named
from volenti.flows.seal_entries import open_entry
from volenti.flows.services import Services
from volenti.store import data_subjects


class InForce(msgspec.Struct, frozen=True):
    """The standing of a purpose on a channel; None stands for every channel that has none of its own."""

    purpose: str
    channel: str | None
    state: str
    event: ConsentEvent


class Past(msgspec.Struct, frozen=True):
    """An entry of the history, opened; `against` is the entry that keeps it from being in force, if one does."""

    index: int
    kind: str
    entry: Entry
    in_force: bool
    against: str | None


async def standing(services: Services, workspace_id: UUID, caller_id: str) -> tuple[Found, Person, tuple[InForce, ...]]:
    """What is in force for a person, by purpose and channel. Raises NotFound."""
    found, person = await named(services, workspace_id, caller_id)
    in_effect = []
    for purpose, events in sorted(person.state.consents.items()):
        for channel in scopes(events):
            settled = settle(events, channel)
            if settled.decided_by is not None:
                in_effect.append(InForce(purpose, channel, settled.state, settled.decided_by))
    return found, person, tuple(in_effect)


async def history(services: Services, workspace_id: UUID, caller_id: str) -> tuple[Past, ...]:
    """Every entry of a person in ledger order, with whether what it asks for is in force now. Raises NotFound."""
    _, person = await named(services, workspace_id, caller_id)
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        payloads = await data_subjects.payloads(connection, workspace_id, person.holder)
    past = []
    for payload in payloads:
        entry = open_entry(workspace_id, person.key, payload)
        against: ConsentEvent | None = None
        if isinstance(entry.event, ConsentRecorded):
            against = in_force(
                person.state.on(entry.event.purpose), consent_event(entry.id, entry.recorded_at, entry.event)
            )
        past.append(
            Past(
                payload.index,
                decode(payload.leaf).kind,
                entry,
                against is None,
                None if against is None else against.entry,
            )
        )
    return tuple(past)
