"""/v1/data-subjects: what is in force for a person, the history, the lookup by identifier, and facts."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from volenti.api import wire
from volenti.api.consents import authorise_actor, recorded, retry_of
from volenti.api.endpoint import Call, Reply
from volenti.api.problems import Problematic, not_implemented
from volenti.api.values import composed, identifier, zone
from volenti.core.admission import Command, Facts
from volenti.core.consent import ConsentEvent
from volenti.core.data_subject import ConsentRecorded, DataSubjectUpdated, Identifier
from volenti.errors import NotFound
from volenti.flows.clock import rfc3339
from volenti.flows.find_data_subject import find, named
from volenti.flows.read_data_subject import InForce, Past, history, standing
from volenti.flows.record_consents import record, revision_token


async def show(call: Call) -> Reply:
    """What is in force for a person."""
    _refuse_time(call)
    found, person, in_effect = await standing(call.services, call.workspace_id, call.path["id"])
    state = person.state
    answer = wire.DataSubjectAnswer(
        id=state.caller_id(),
        identifiers=tuple(
            wire.KnownIdentifier(type=known.type, value=known.value, verified_at=_time(known.verified_at))
            for known in state.identifiers
        ),
        jurisdiction=state.jurisdiction or None,
        time_zone=state.time_zone or None,
        locale=state.locale or None,
        consents=tuple(_in_force(one) for one in in_effect),
        revision=revision_token(found.ground.epoch, found.ground.size),
    )
    return Reply(answer)


async def show_history(call: Call) -> Reply:
    """Every entry of a person, oldest first, with its present effect."""
    _refuse_time(call)
    past = await history(call.services, call.workspace_id, call.path["id"])
    limit = call.number("limit", 100, least=1, most=1000)
    after = call.number("cursor", 0)
    page = [one for one in past if one.index >= after]
    following = str(page[limit].index) if len(page) > limit else None
    return Reply(wire.History(data=tuple(_past(one) for one in page[:limit]), next_cursor=following))


async def lookup(call: Call) -> Reply:
    """The id of the person that an identifier belongs to; null if nobody is known by it."""
    asked: wire.Lookup = call.body
    found = await find(call.services, call.workspace_id, (identifier(asked.identifier, "/identifier"),))
    if found.person is None:
        raise NotFound("nobody is known by this identifier")
    return Reply(wire.LookupAnswer(id=found.person.state.caller_id()))


async def update(call: Call) -> Reply:
    """Change facts about a person: identifiers and their verification, jurisdiction, time zone, locale."""
    asked: wire.FactsRequest = call.body
    authorise_actor(call, asked.actor)
    for name in ("birth_date", "guardian", "push_permission", "relations"):
        if getattr(asked, name) not in (None, ()):
            raise not_implemented(f"/{name}")
    time_zone = asked.time_zone if asked.time_zone is UNSET else zone(asked.time_zone, "/time_zone")
    identifiers = (
        Identifier("id", call.path["id"]),
        *(identifier(one, f"/identifiers/add/{position}") for position, one in enumerate(asked.identifiers.add)),
    )
    facts = Facts(
        removed=tuple(
            identifier(gone, f"/identifiers/remove/{position}")
            for position, gone in enumerate(asked.identifiers.remove)
        ),
        jurisdiction=_stated(asked.jurisdiction),
        time_zone=_stated(time_zone),
        locale=_stated(asked.locale),
    )
    command = Command(
        actor=asked.actor.type,
        component=call.caller.component,
        facts=facts,
        method=asked.method,
        surface=composed(asked.surface),
    )
    await named(call.services, call.workspace_id, call.path["id"])
    recording = await record(
        call.services,
        call.workspace_id,
        command,
        identifiers,
        retry_of(call, f"PATCH /v1/data-subjects/{call.path['id']}"),
    )
    pointers = ["", *(f"/identifiers/add/{position}" for position in range(len(asked.identifiers.add)))]
    return await recorded(call, recording, status=200, pointers=pointers)


def _refuse_time(call: Call) -> None:
    if "as_of" in call.query:
        raise Problematic(422, "not_implemented", "this version does not implement as_of yet; leave it out")


def _stated(value: Any) -> str | None:
    """A fact of the wire: absent says nothing (None), null clears (the empty string)."""
    return None if value is UNSET else value or ""


def _time(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else rfc3339(milliseconds)


def _in_force(one: InForce) -> wire.ConsentInForce:
    event: ConsentEvent = one.event
    return wire.ConsentInForce(
        purpose=one.purpose,
        channel=one.channel or "*",
        state=one.state,  # type: ignore[arg-type]  # a standing with an event is never unknown
        since=rfc3339(event.occurred_at),
        entry=event.entry,
        notice=event.notice,
        evidence_grade=f"E{event.grade}" if event.kind == "grant" else None,
        valid_from=_time(event.valid_from),
        valid_until=_time(event.valid_until),
    )


def _past(past: Past) -> wire.HistoryEntry:
    event = past.entry.event
    shared = {
        "previous",
        "evidence_grade",
        "occurred_at",
        "claimed_at",
        "actor",
        "component",
        "event",
        "valid_from",
        "valid_until",
    }
    detail = {name: value for name, value in msgspec.to_builtins(event).items() if name not in shared}
    match event:
        case ConsentRecorded():
            detail |= {
                name: rfc3339(getattr(event, name))
                for name in ("valid_from", "valid_until")
                if getattr(event, name) is not None
            }
            if event.kind == "grant":
                detail["evidence_grade"] = f"E{event.evidence_grade}"
        case DataSubjectUpdated():
            pass
    return wire.HistoryEntry(
        entry=past.entry.id,
        index=past.index,
        kind=past.kind,
        recorded_at=rfc3339(past.entry.recorded_at),
        occurred_at=rfc3339(event.occurred_at),
        effect="in_force" if past.in_force else "none",
        why=None if past.against is None else f"superseded_by:{past.against}",
        actor=event.actor,
        component=event.component,
        detail=detail,
    )
