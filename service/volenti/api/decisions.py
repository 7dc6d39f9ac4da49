"""/v1/decisions and a person's decisions: what was answered, and the same answer made again."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from volenti.api.check import trace
from volenti.api.endpoint import Call, Reply
from volenti.api.problems import Problematic
from volenti.api.wire import Answer, CheckedDataSubject, CheckedPolicy, CheckTrace
from volenti.errors import NotFound
from volenti.flows.clock import instant, milliseconds, rfc3339
from volenti.flows.log_decisions import Outcome
from volenti.flows.read_decisions import (
    BEGINNING,
    END,
    Erased,
    Reach,
    Replayed,
    caller_id,
    code_of,
    explain,
    of_person,
    read,
)
from volenti.flows.record_consents import revision_token
from volenti.store.decision_log import DecisionRow, Gap

PREFIX = "dec_"
DecisionWord = Annotated[str, Meta(extra_json_schema={"enum": ["permit", "deny", "defer"]})]


class DecisionAnswer(Answer, frozen=True):
    """A logged decision. A purpose or topic `?` was none of the policy's; `weight` says for how many decisions the row stands."""

    decision_id: str
    evaluated_at: str
    component: str
    data_subject: CheckedDataSubject
    action: str
    purpose: str
    channel: str | None
    topic: str | None
    message_class: str | None = msgspec.field(name="class")
    decision: DecisionWord
    reason: str
    reasons: tuple[str, ...]
    evidence: tuple[str, ...]
    policy: CheckedPolicy | None
    revision: str | None
    staleness_ms: int
    obligations_hash: str | None
    mode: str
    request_hash: str
    took_us: int
    weight: int
    question: dict[str, Any]


class ReplayedDecision(Answer, frozen=True):
    """The decision that today's service makes of the same question, at the same instant, by the policy and the entries of then."""

    decision: DecisionWord
    reason: str
    reasons: tuple[str, ...]
    evidence: tuple[str, ...]
    obligations_hash: str | None


class DecisionExplanation(Answer, frozen=True):
    """`reproduced` is null where nothing was evaluated again, and `why` says why; `trace` has the steps of what was."""

    logged: DecisionAnswer
    replayed: ReplayedDecision | None
    reproduced: bool | None
    why: str | None
    trace: tuple[CheckTrace, ...]


class DecisionGap(Answer, frozen=True):
    """So many rows of the workspace are missing within these instants: the log had no room for them."""

    from_at: str = msgspec.field(name="from")
    to: str
    number: int


class DecisionList(Answer, frozen=True):
    """Decisions about one person, oldest first. `gaps` are of the whole workspace, in the same time."""

    data: tuple[DecisionAnswer, ...]
    gaps: tuple[DecisionGap, ...]
    next_cursor: str | None


async def show_decision(call: Call) -> Reply:
    """A logged decision."""
    row = await _read(call)
    return Reply(_answer(row, await caller_id(call.services, call.workspace_id, row)))


async def explain_decision(call: Call) -> Reply:
    """A logged decision, made again from the state and by the policy of then."""
    row = await _read(call)
    explained = await explain(call.services, call.workspace_id, row)
    match explained:
        case Erased():
            raise Problematic(410, "erased", "the person is erased; the decision cannot be made again")
        case Replayed(outcome=outcome):
            logged = _answer(row, await caller_id(call.services, call.workspace_id, row))
            replayed = None if outcome is None else _replayed(outcome)
            return Reply(
                DecisionExplanation(
                    logged=logged,
                    replayed=replayed,
                    reproduced=explained.reproduced,
                    why=explained.why,
                    trace=trace(explained.steps),
                )
            )


async def list_decisions(call: Call) -> Reply:
    """The decisions about a person, by time."""
    cursor = call.query.get("cursor")
    page = await of_person(
        call.services,
        call.workspace_id,
        call.path["id"],
        _reach(call),
        since=BEGINNING if (since := call.instant("from")) is None else instant(since),
        until=END if (until := call.instant("to")) is None else instant(until),
        after=None if cursor is None else _cursor(cursor),
        limit=call.number("limit", 100, least=1, most=1000),
    )
    return Reply(
        DecisionList(
            data=tuple(_answer(row, call.path["id"]) for row in page.rows),
            gaps=tuple(_gap(gap) for gap in page.gaps),
            next_cursor=None if page.following is None else f"{PREFIX}{page.following}",
        )
    )


async def _read(call: Call) -> DecisionRow:
    decision_id = _parsed(call.path["id"])
    try:
        if decision_id is None:
            raise NotFound("no decision has such an id")
        return await read(call.services, call.workspace_id, decision_id, _reach(call))
    except NotFound:
        raise Problematic(
            404,
            "not_found",
            "the decision log has no such decision: permits of some actions are sampled, old days are dropped,"
            " and a decision is written up to a second after its answer",
        ) from None


def _parsed(text: str) -> UUID | None:
    try:
        return UUID(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else None
    except ValueError:
        return None


def _cursor(text: str) -> UUID:
    cursor = _parsed(text)
    if cursor is None:
        raise Problematic(422, "invalid_query", "the query parameter cursor is the next_cursor of the page before")
    return cursor


def _reach(call: Call) -> Reach:
    return Reach(call.caller.purposes, call.caller.actions)


def _answer(row: DecisionRow, person_id: str | None) -> DecisionAnswer:
    return DecisionAnswer(
        decision_id=f"{PREFIX}{row.decision_id}",
        evaluated_at=rfc3339(milliseconds(row.evaluated_at)),
        component=row.component,
        data_subject=CheckedDataSubject(id=person_id, known=row.holder is not None),
        action=row.action,
        purpose=row.purpose,
        channel=row.channel,
        topic=row.topic,
        message_class=row.message_class,
        decision=row.decision,
        reason=code_of(row.reasons[0]),
        reasons=tuple(code_of(number) for number in row.reasons),
        evidence=tuple(str(entry) for entry in row.evidence),
        policy=None
        if row.policy_version is None or row.policy_hash is None
        else CheckedPolicy(version=row.policy_version, hash=f"sha256:{row.policy_hash.hex()}"),
        revision=None if row.epoch == 0 else revision_token(row.epoch, row.size),
        staleness_ms=row.staleness_ms,
        obligations_hash=_hash(row.obligations_hash),
        mode=row.mode,
        request_hash=row.request_hash.hex(),
        took_us=row.took_us,
        weight=row.weight,
        question=msgspec.json.decode(row.question),
    )


def _replayed(outcome: Outcome) -> ReplayedDecision:
    return ReplayedDecision(
        decision=outcome.decision,
        reason=code_of(outcome.reasons[0]),
        reasons=tuple(code_of(number) for number in outcome.reasons),
        evidence=tuple(str(entry) for entry in outcome.evidence),
        obligations_hash=_hash(outcome.obligations_hash),
    )


def _gap(gap: Gap) -> DecisionGap:
    return DecisionGap(
        from_at=rfc3339(milliseconds(gap.from_at)), to=rfc3339(milliseconds(gap.to_at)), number=gap.number
    )


def _hash(value: bytes | None) -> str | None:
    return None if value is None else f"sha256:{value.hex()}"
