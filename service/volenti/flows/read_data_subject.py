"""Read a person: what is in force, and the history that led there."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import msgspec

from volenti.core.consent import ConsentEvent, in_force, scopes, settle
from volenti.core.data_subject import ConsentRecorded, DataSubjectState, Entry, consent_event, fold
from volenti.core.entry import decode
from volenti.core.policy.compile import CompiledPolicy
from volenti.core.validity import end_of
from volenti.errors import NotFound
from volenti.flows.find_data_subject import Found, Person, named
from volenti.flows.seal_entries import open_entry
from volenti.flows.services import Services
from volenti.store import data_subjects


class InForce(msgspec.Struct, frozen=True):
    """The standing of a purpose on a channel; None stands for every channel that has none of its own.

    `ends_at`: when a grant ends (milliseconds UTC), by its own end, the policy's and the law's; then it is `expired`.
    """

    purpose: str
    channel: str | None
    state: str
    event: ConsentEvent
    ends_at: int | None = None


class Past(msgspec.Struct, frozen=True):
    """An entry of the history, opened; `against` is the entry that keeps it from being in force, if one does."""

    index: int
    kind: str
    entry: Entry
    in_force: bool
    against: str | None


async def standing(
    services: Services, workspace_id: UUID, caller_id: str, as_of: int | None = None
) -> tuple[Found, DataSubjectState, tuple[InForce, ...]]:
    """What is, or at an earlier instant was, in force for a person, by purpose and channel. Raises NotFound."""
    found, person = await named(services, workspace_id, caller_id)
    state = person.state if as_of is None else await state_as_of(services, workspace_id, person, as_of)
    if state is None:
        raise NotFound("the person was not known then")
    return found, state, await _at(services, workspace_id, state, services.clock() if as_of is None else as_of)


async def _at(services: Services, workspace_id: UUID, state: DataSubjectState, at: int) -> tuple[InForce, ...]:
    """What a state comes to at an instant, under the policy that was in force then."""
    _, policy = await services.policy_in_force(workspace_id, at, at) or (None, None)
    return tuple(_ending(one, policy, state, at) for one in _in_force(state))


def _ending(one: InForce, policy: CompiledPolicy | None, state: DataSubjectState, at: int) -> InForce:
    purpose = None if policy is None else policy.purposes.get(one.purpose)
    if one.state != "granted" or purpose is None:
        return one
    ends_at = end_of(one.event, purpose, state)
    ended = ends_at is not None and at >= ends_at
    return msgspec.structs.replace(one, state="expired" if ended else one.state, ends_at=ends_at)


def _in_force(state: DataSubjectState) -> tuple[InForce, ...]:
    in_effect = []
    for purpose, events in sorted(state.consents.items()):
        for channel in scopes(events):
            settled = settle(events, channel)
            if settled.pending is not None and settled.state != "granted":
                in_effect.append(InForce(purpose, channel, "pending", settled.pending))
            elif settled.decided_by is not None:
                in_effect.append(InForce(purpose, channel, settled.state, settled.decided_by))
    return tuple(in_effect)


class Difference(msgspec.Struct, frozen=True):
    """How the standing of a purpose on a channel differs between two instants; None: there was none."""

    purpose: str
    channel: str | None
    before: InForce | None
    after: InForce | None


class Compared(msgspec.Struct, frozen=True):
    """A person at two instants, by what was recorded until each: the states, and where what is in force differs."""

    found: Found
    person: Person
    before: DataSubjectState
    after: DataSubjectState
    changed: tuple[Difference, ...]


async def compare(services: Services, workspace_id: UUID, caller_id: str, earlier: int, later: int) -> Compared:
    """What changed for a person between two instants. Raises NotFound."""
    found, person = await named(services, workspace_id, caller_id)
    entries = await _entries(services, workspace_id, person)
    before, after = (fold(one for one in entries if one.recorded_at <= at) for at in (earlier, later))
    old, new = [
        {(one.purpose, one.channel): one for one in await _at(services, workspace_id, state, at)}
        for state, at in ((before, earlier), (after, later))
    ]
    scopes = sorted(old.keys() | new.keys(), key=lambda scope: (scope[0], scope[1] or ""))
    differences = (Difference(*scope, _on(old, *scope), _on(new, *scope)) for scope in scopes)
    return Compared(found, person, before, after, tuple(one for one in differences if one.before != one.after))


def _on(standings: Mapping[tuple[str, str | None], InForce], purpose: str, channel: str | None) -> InForce | None:
    """The standing on a channel: its own, else the general one."""
    found = standings.get((purpose, channel)) or standings.get((purpose, None))
    return None if found is None else msgspec.structs.replace(found, channel=channel)


async def state_as_of(services: Services, workspace_id: UUID, person: Person, as_of: int) -> DataSubjectState | None:
    """The person's state as it was known at an instant (milliseconds UTC); None if nothing was recorded by then."""
    entries = [one for one in await _entries(services, workspace_id, person) if one.recorded_at <= as_of]
    return fold(entries) if entries else None


async def _entries(services: Services, workspace_id: UUID, person: Person) -> list[Entry]:
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        payloads = await data_subjects.payloads(connection, workspace_id, person.holder)
    return [open_entry(workspace_id, person.key, payload) for payload in payloads]


async def history(services: Services, workspace_id: UUID, caller_id: str, as_of: int | None = None) -> tuple[Past, ...]:
    """Every entry of a person in ledger order, with whether what it asks for is in force: now, or as it was known then.

    Raises NotFound.
    """
    _, person = await named(services, workspace_id, caller_id)
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        payloads = await data_subjects.payloads(connection, workspace_id, person.holder)
    opened = [(payload, open_entry(workspace_id, person.key, payload)) for payload in payloads]
    known = [(payload, entry) for payload, entry in opened if as_of is None or entry.recorded_at <= as_of]
    state = person.state if as_of is None else fold(entry for _, entry in known)
    past = []
    for payload, entry in known:
        against: ConsentEvent | None = None
        if isinstance(entry.event, ConsentRecorded):
            choice = consent_event(entry.id, entry.recorded_at, entry.event)
            against = in_force(state.on(entry.event.purpose), choice)
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
