"""POST /v1/check: decode, ask the flow, encode."""

from __future__ import annotations

from typing import Any

from volenti.api.endpoint import Call, Context, Reply
from volenti.api.problems import Problematic, not_implemented
from volenti.api.values import identifier
from volenti.api.wire import (
    CheckAnswer,
    CheckData,
    CheckedDataSubject,
    CheckedPolicy,
    CheckEvidence,
    CheckMessage,
    CheckObligation,
    CheckReason,
    CheckRequest,
    CheckSignals,
    DataSubjectReference,
)
from volenti.core import data_subject as core
from volenti.core.data_subject import ENTRY_KINDS
from volenti.core.decision import Deny, Given, Permit, Question, Situation, remedies
from volenti.core.policy.document import Action
from volenti.errors import Invalid
from volenti.flows.check_policy import DEADLINE_MS, Checked, Consistency, check, unread
from volenti.flows.clock import rfc3339
from volenti.flows.record_consents import parse_revision_token, revision_token


async def check_one(call: Call) -> Reply:
    """May this be done, to this person, now?"""
    asked: CheckRequest = call.body
    _refuse_unimplemented(asked)
    _authorise(call, asked)
    who, consistency = reference(asked.data_subject), _consistency(asked)
    try:
        checked = await check(
            call.services,
            call.workspace_id,
            who,
            _question(asked),
            consistency,
            _deadline(call),
            component=call.caller.component,
        )
    except Invalid as error:
        if consistency.mode != "at_least":
            raise
        raise Problematic(422, "revision", str(error), pointer="/consistency/revision") from None
    evidence = "evidence" in asked.include
    return _reply(_answer(checked, purpose=asked.purpose, given_id=asked.data_subject.id, evidence=evidence))


def unreadable(context: Context) -> Reply:
    """The answer while the database cannot even tell who asks: deny, and nothing else is said."""
    return _reply(_answer(unread(context.services, Situation(stale=True))))


def _reply(answer: CheckAnswer) -> Reply:
    return Reply(answer) if answer.determinate else Reply(answer, status=503, headers={"retry-after": "1"})


def _deadline(call: Call) -> int:
    """How long the caller gives the check. Raises a 400 problem for a header that says nothing usable."""
    text = call.headers.get("volenti-deadline-ms")
    if text is None:
        return DEADLINE_MS
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 5 <= int(text) <= 5000):
        raise Problematic(400, "deadline", "Volenti-Deadline-Ms is a whole number from 5 to 5000")
    return int(text)


def reference(given: DataSubjectReference, pointer: str = "/data_subject") -> core.Identifier:
    """The identifier that names a person. Raises a 422 problem unless exactly one is given."""
    if (given.id is None) == (given.identifier is None):
        raise Problematic(
            422, "data_subject", "name the data subject by exactly one of id and identifier", pointer=pointer
        )
    if given.id is not None:
        return core.Identifier("id", given.id)
    assert given.identifier is not None
    return identifier(given.identifier, f"{pointer}/identifier")


def _authorise(call: Call, asked: CheckRequest) -> None:
    caller = call.caller
    if (caller.purposes is not None and asked.purpose not in caller.purposes) or (
        caller.actions is not None and asked.action not in caller.actions
    ):
        raise Problematic(403, "out_of_scope", "the credential does not cover this purpose or action")


def _refuse_unimplemented(asked: CheckRequest) -> None:
    """A member that this version does not obey is refused unless it is at its default: never a silent yes."""
    if asked.action is Action.SEND and asked.channel is None:
        raise Problematic(422, "missing_member", "a send names its channel", pointer="/channel")
    message = asked.message or CheckMessage()
    later = {
        "/message/expires_at": message.expires_at is not None,
        "/data": asked.data not in (None, CheckData()),
        "/signals": asked.signals not in (None, CheckSignals(), CheckSignals(gpc=False)),
        "/reserve": asked.reserve is not None,
        "/at": asked.at is not None,
        "/as_of": asked.as_of is not None,
        "/detail": asked.detail == "explain",
    }
    for position, part in enumerate(asked.include):
        later[f"/include/{position}"] = part != "evidence"
    for pointer, given in later.items():
        if given:
            raise not_implemented(pointer)


def _question(asked: CheckRequest) -> Question:
    return Question(
        action=asked.action,
        purpose=asked.purpose,
        channel=asked.channel,
        topic=asked.topic,
        message_class=asked.message.message_class if asked.message is not None else None,
        jurisdiction=asked.jurisdiction,
        supported_obligations=None if asked.supported_obligations is None else frozenset(asked.supported_obligations),
        every_reason=asked.detail == "all",
    )


def _consistency(asked: CheckRequest) -> Consistency:
    given = asked.consistency
    if given.mode != "at_least":
        return Consistency(given.mode)
    token = parse_revision_token(given.revision) if given.revision is not None else None
    if token is None:
        raise Problematic(
            422, "revision", "at_least needs a revision token as a write returned it", pointer="/consistency/revision"
        )
    return Consistency("at_least", *token)


def _answer(checked: Checked, *, purpose: str = "", given_id: str | None = None, evidence: bool = False) -> CheckAnswer:
    decision = checked.decision
    reasons = decision.reasons
    notice = (
        checked.policy.purposes[purpose].notice
        if checked.policy is not None and purpose in checked.policy.purposes
        else None
    )
    retry = [given.retry_at for given in reasons if given.retry_at is not None]
    return CheckAnswer(
        decision="permit" if isinstance(decision, Permit) else "deny",
        allowed=isinstance(decision, Permit),
        determinate=not isinstance(decision, Deny) or decision.determinate,
        reason=reasons[0].reason.code,
        reasons=tuple(
            CheckReason(
                code=given.reason.code,
                step=given.reason.step,
                effect=given.reason.effect,
                ref=given.event.entry if given.event is not None else None,
            )
            for given in reasons
        ),
        remedies=tuple(_remedy(remedy) for remedy in remedies(decision, notice, purpose)),
        alternatives=(),
        obligations=tuple(
            CheckObligation(
                id=f"o{number}", type=obligation.type, mandatory=obligation.mandatory, properties=obligation.properties
            )
            for number, obligation in enumerate(decision.obligations if isinstance(decision, Permit) else (), 1)
        ),
        advice=(),
        evidence=tuple(_evidence(given) for given in reasons if given.event is not None) if evidence else (),
        data_subject=CheckedDataSubject(id=given_id or checked.caller_id, known=checked.known),
        not_before=None,
        retry_at=rfc3339(min(retry)) if retry and isinstance(decision, Deny) else None,
        valid_until=rfc3339(decision.valid_until),
        policy=None
        if checked.policy is None
        else CheckedPolicy(version=checked.policy_version, hash=f"sha256:{checked.policy.hash.hex()}"),
        revision=None if checked.epoch == 0 else revision_token(checked.epoch, checked.size),
        staleness_ms=checked.staleness_ms,
        access_request=None,
        reservation=None,
        permit=None,
        decision_id=f"dec_{checked.decision_id}",
        evaluated_at=rfc3339(checked.evaluated_at),
    )


def _evidence(given: Given) -> CheckEvidence:
    event = given.event
    assert event is not None
    return CheckEvidence(
        entry=event.entry, kind=ENTRY_KINDS[event.kind], at=rfc3339(event.occurred_at), notice=event.notice
    )


def _remedy(remedy: dict[str, Any]) -> dict[str, Any]:
    return {
        name: rfc3339(value) if name == "at" and isinstance(value, int) else value for name, value in remedy.items()
    }
