"""/v1/data-subjects: what is in force for a person, the history, the lookup by identifier, and facts."""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from volenti.api import wire
from volenti.api.consents import authorise_actor, recorded, retry_of
from volenti.api.endpoint import Call, Reply
from volenti.api.problems import Problematic, not_implemented
from volenti.api.values import composed, identifier, instant, optional_instant, place, zone
from volenti.core.admission import PERMISSIVE, Command, Facts, Restriction
from volenti.core.consent import ConsentEvent
from volenti.core.data_subject import ConsentRecorded, DataSubjectState, Guardian, Identifier, Relation
from volenti.errors import NotFound
from volenti.flows import clock
from volenti.flows.clock import rfc3339
from volenti.flows.find_data_subject import find, named
from volenti.flows.read_data_subject import InForce, Past, compare, history, standing
from volenti.flows.record_consents import record, revision_token


async def show(call: Call) -> Reply:
    """What is, or with `as_of` was, in force for a person."""
    found, state, in_effect = await standing(call.services, call.workspace_id, call.path["id"], call.instant("as_of"))
    answer = wire.DataSubjectAnswer(
        **msgspec.structs.asdict(_known(state)),
        consents=tuple(_in_force(one) for one in in_effect),
        revision=revision_token(found.ground.epoch, found.ground.size),
    )
    return Reply(answer)


def _known(state: DataSubjectState) -> wire.KnownFacts:
    return wire.KnownFacts(
        id=state.caller_id(),
        identifiers=tuple(
            wire.KnownIdentifier(type=known.type, value=known.value, verified_at=_time(known.verified_at))
            for known in state.identifiers
        ),
        jurisdiction=state.jurisdiction or None,
        time_zone=state.time_zone or None,
        locale=state.locale or None,
        birth_date=state.birth_date or None,
        guardians=tuple(
            wire.KnownGuardian(id=one.id, method=one.method, since=rfc3339(one.since), until=_time(one.until))
            for one in state.guardians.values()
        ),
        relations=tuple(
            wire.KnownRelation(type=kind, at=rfc3339(fact.occurred_at)) for kind, fact in state.relations.items()
        ),
        restricted_since=None if state.restriction is None else rfc3339(state.restriction.occurred_at),
    )


async def show_difference(call: Call) -> Reply:
    """What changed for a person between two instants, by what was recorded until each."""
    earlier, later = call.instant("from"), call.instant("to")
    if earlier is None:
        raise Problematic(422, "invalid_query", "the query parameter from is an RFC 3339 instant")
    later = call.services.clock() if later is None else later
    if later < earlier:
        raise Problematic(422, "invalid_query", "to is not before from")
    compared = await compare(call.services, call.workspace_id, call.path["id"], earlier, later)
    before, after = (msgspec.structs.asdict(_known(state)) for state in (compared.before, compared.after))
    answer = wire.DataSubjectDifference(
        id=compared.person.state.caller_id(),
        from_=rfc3339(earlier),
        to=rfc3339(later),
        facts=tuple(
            wire.FactDifference(fact=name, before=before[name], after=after[name])
            for name in before
            if before[name] != after[name]
        ),
        consents=tuple(
            wire.ConsentDifference(
                purpose=one.purpose,
                channel=one.channel or "*",
                before=None if one.before is None else _in_force(one.before),
                after=None if one.after is None else _in_force(one.after),
            )
            for one in compared.changed
        ),
        revision=revision_token(compared.found.ground.epoch, compared.found.ground.size),
    )
    return Reply(answer)


async def show_history(call: Call) -> Reply:
    """Every entry of a person, oldest first, with its present effect."""
    past = await history(call.services, call.workspace_id, call.path["id"], call.instant("as_of"))
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
    """Change facts about a person: identifiers and their verification, place, time zone, locale, age, guardian, relations."""
    asked: wire.FactsRequest = call.body
    authorise_actor(call, asked.actor)
    if asked.push_permission is not None:
        raise not_implemented("/push_permission")
    jurisdiction = asked.jurisdiction if asked.jurisdiction is UNSET else place(asked.jurisdiction, "/jurisdiction")
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
        jurisdiction=_stated(jurisdiction),
        time_zone=_stated(time_zone),
        locale=_stated(asked.locale),
        birth_date=_stated(_birth_date(call, asked.birth_date)),
        guardian=_guardian(asked.guardian),
        relations=tuple(
            Relation(one.type, instant(one.at, f"/relations/{position}/at"))
            for position, one in enumerate(asked.relations)
        ),
    )
    command = Command(
        actor=asked.actor.type,
        component=call.caller.component,
        guardian=asked.actor.id,
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


async def restrict(call: Call) -> Reply:
    """Restrict the processing of a person's data (GDPR Art. 18), or lift the restriction."""
    asked: wire.RestrictionRequest = call.body
    authorise_actor(call, asked.actor)
    command = Command(
        actor=asked.actor.type,
        component=call.caller.component,
        guardian=asked.actor.id,
        restriction=Restriction(lifted=not asked.restricted, ground=asked.ground),
        method=asked.method,
        surface=composed(asked.surface),
    )
    await named(call.services, call.workspace_id, call.path["id"])
    retry = retry_of(call, f"POST /v1/data-subjects/{call.path['id']}/restriction")
    recording = await record(call.services, call.workspace_id, command, (Identifier("id", call.path["id"]),), retry)
    return await recorded(call, recording, status=200, pointers=[""])


def _birth_date(call: Call, given: str | UnsetType | None) -> str | UnsetType | None:
    """A day that exists and is not to come."""
    if isinstance(given, str):
        try:
            known = date.fromisoformat(given) <= clock.instant(call.services.clock()).date()
        except ValueError:
            known = False
        if not known:
            raise Problematic(422, "invalid_value", "the value is no day up to today", pointer="/birth_date")
    return given


def _guardian(given: wire.GuardianFact | None) -> Guardian | None:
    if given is None:
        return None
    since, until = instant(given.since, "/guardian/since"), optional_instant(given.until, "/guardian/until")
    if until is not None and until <= since:
        raise Problematic(422, "invalid_value", "until is later than since", pointer="/guardian/until")
    return Guardian(given.id, given.method, since, until)


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
        evidence_grade=f"E{event.grade}" if event.kind in PERMISSIVE else None,
        valid_from=_time(event.valid_from),
        valid_until=_time(event.valid_until if one.ends_at is None else one.ends_at),
    )


_SHARED = frozenset(("previous", "evidence_grade", "occurred_at", "claimed_at", "actor", "component", "event"))
"""Members of an event that are not detail: they are said elsewhere, or are the ledger's own."""
_INSTANTS = frozenset(("at", "since", "until", "valid_from", "valid_until", "verified_at"))


def _past(past: Past) -> wire.HistoryEntry:
    event = past.entry.event
    detail = {name: _said(name, value) for name, value in msgspec.to_builtins(event).items() if name not in _SHARED}
    if isinstance(event, ConsentRecorded) and event.kind in PERMISSIVE:
        detail["evidence_grade"] = f"E{event.evidence_grade}"
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


def _said(name: str, value: Any) -> Any:
    """A member of an event as the wire says it: instants and grades are numbers in the ledger."""
    if isinstance(value, dict):
        return {inner: _said(inner, member) for inner, member in value.items()}
    if isinstance(value, list | tuple):
        return [_said(name, member) for member in value]
    if name in _INSTANTS:
        return rfc3339(value)
    return f"E{value}" if name == "minimum_grade" else value
