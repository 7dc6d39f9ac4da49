"""POST /v1/check and /v1/check/batch: decode, ask the flow, encode."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from volenti.api.endpoint import Call, Context, Reply, decode_json
from volenti.api.problems import Problematic, document_of, not_implemented, problem_of
from volenti.api.values import instant, item_key, place, reference
from volenti.api.wire import (
    CheckAccessRequest,
    CheckAnswer,
    CheckBatchAnswer,
    CheckBatchRequest,
    CheckData,
    CheckedDataSubject,
    CheckedPolicy,
    CheckEvidence,
    CheckItemAnswer,
    CheckMessage,
    CheckObligation,
    CheckReason,
    CheckRequest,
    CheckSignals,
    CheckTrace,
)
from volenti.core.decision import (
    Deny,
    Given,
    Permit,
    Question,
    Situation,
    Traced,
    alternatives,
    explain,
    ledger_kind,
    remedies,
)
from volenti.core.policy.document import Action
from volenti.core.reason import reason
from volenti.errors import Invalid
from volenti.flows.ask_consent import link_for
from volenti.flows.check_policy import (
    DEADLINE_MS,
    Answered,
    Asked,
    Checked,
    Consistency,
    Moment,
    UnknownRevision,
    check,
    unread,
)
from volenti.flows.clock import rfc3339
from volenti.flows.record_consents import parse_revision_token, revision_token
from volenti.flows.services import Services

AHEAD_MS: Final = 30 * 86_400_000
"""How far ahead a question may be asked for."""
DEFAULTS_BYTES: Final = 4096
"""How long the defaults of a batch may be as JSON: every item is read together with them."""
TURN_ITEMS: Final = 50
"""Items of a batch that are worked on at a stretch: others' checks wait for a few milliseconds, not for a whole batch."""
_INSTANTS: Final = frozenset(("at", "expires_at", "kept_until", "not_before"))
"""Members of remedies, obligations and traces that are instants: milliseconds in the core, RFC 3339 on the wire."""


async def check_one(call: Call) -> Reply:
    """May this be done, to this person, now?"""
    asked: CheckRequest = call.body
    (answered,) = await check(
        call.services,
        call.workspace_id,
        [_asked(call, asked)],
        component=call.caller.component,
        deadline_ms=_deadline(call),
    )
    checked = _seen(answered)
    return _reply(_answer(checked, asked, _access_request(call, checked, asked)))


async def check_batch(call: Call) -> Reply:
    """Many questions on one revision; a bad item is answered as a deny with its error."""
    batch: CheckBatchRequest = call.body
    _judge_defaults(batch.defaults)
    items = []
    for number, raw in enumerate(batch.items, 1):
        items.append(_item(call, batch.defaults, raw))
        if batch.semantic == "stop_on_deny" and isinstance(items[-1], _NoQuestion):
            break  # what is no question is a deny: nothing after it is asked
        await _breathe(number)
    answers = iter(
        await check(
            call.services,
            call.workspace_id,
            [item.asked for item in items if isinstance(item, _Item)],
            component=call.caller.component,
            deadline_ms=_deadline(call),
            semantic=batch.semantic,
        )
    )
    answered = []
    for number, item in enumerate(items, 1):
        answered.append(
            _item_answer(call, item, next(answers)) if isinstance(item, _Item) else _refusal(call.services, item)
        )
        await _breathe(number)
        if batch.semantic == ("stop_on_permit" if answered[-1].allowed else "stop_on_deny"):
            break
    return Reply(CheckBatchAnswer(items=tuple(answered)))


def unreadable(context: Context) -> Reply:
    """The answer while the database cannot even tell who asks: deny, and nothing else is said."""
    return _reply(_answer(unread(context.services, Situation(stale=True)), None))


def _reply(answer: CheckAnswer) -> Reply:
    return Reply(answer) if answer.determinate else Reply(answer, status=503, headers={"retry-after": "1"})


def _asked(call: Call, asked: CheckRequest) -> Asked:
    """The question of a caller who may ask it. Raises a 403 or 422 problem where that is not so."""
    _refuse_unimplemented(asked)
    _authorise(call, asked)
    return Asked(reference(asked.data_subject), _question(asked), _consistency(asked), _moment(call, asked))


def _seen(answered: Answered) -> Checked:
    if isinstance(answered, UnknownRevision):
        detail = "the revision was not given out by this ledger"
        raise Problematic(422, "revision", detail, pointer="/consistency/revision")
    return answered


class _Item(msgspec.Struct, frozen=True):
    """An item of a batch that is a question which its caller may ask."""

    key: str | None
    wire: CheckRequest
    asked: Asked


class _NoQuestion(msgspec.Struct, frozen=True):
    """An item that is none, with the problem that it would be alone."""

    key: str | None
    problem: Problematic


async def _breathe(number: int) -> None:
    if number % TURN_ITEMS == 0:
        await asyncio.sleep(0)


_REQUIRED: Final = {"data_subject": {}, "action": "use", "purpose": "any"}
"""Stand in for what the defaults leave to the items."""


def _judge_defaults(defaults: dict[str, Any]) -> None:
    """Raise a 422 problem, with a pointer into the defaults, for what could be a member of no question."""
    encoded = msgspec.json.encode(defaults)
    if len(encoded) > DEFAULTS_BYTES:
        detail = f"the defaults have at most {DEFAULTS_BYTES} bytes"
        raise Problematic(422, "invalid_value", detail, pointer="/defaults")
    try:
        place(decode_json(msgspec.json.encode(_REQUIRED | defaults), CheckRequest).jurisdiction, "/jurisdiction")
    except Problematic as problem:
        raise Problematic(
            problem.status, problem.type, problem.detail, pointer=f"/defaults{problem.pointer or ''}"
        ) from None


def _item(call: Call, defaults: dict[str, Any], raw: msgspec.Raw) -> _Item | _NoQuestion:
    key = None
    try:
        members = decode_json(bytes(raw), dict[str, Any])
        key = item_key(members)
        asked = decode_json(msgspec.json.encode(defaults | members), CheckRequest)
        return _Item(key, asked, _asked(call, asked))
    except (Problematic, Invalid) as error:
        return _NoQuestion(key, problem_of(error))


def _item_answer(call: Call, item: _Item, answered: Answered) -> CheckItemAnswer:
    try:
        checked = _seen(answered)
    except Problematic as problem:
        return _refusal(call.services, _NoQuestion(item.key, problem))
    answer = _answer(checked, item.wire, _access_request(call, checked, item.wire))
    return CheckItemAnswer(**_members(answer), key=item.key)


def _refusal(services: Services, item: _NoQuestion) -> CheckItemAnswer:
    """The deny of an item that is no question: invalid, or beyond what the credential covers."""
    problem = item.problem
    said = reason("request.out_of_scope" if problem.status == 403 else "request.invalid")
    nothing = unread(services, Situation())
    answer = _answer(msgspec.structs.replace(nothing, decision=Deny((Given(said),), nothing.evaluated_at + 1)), None)
    return CheckItemAnswer(**_members(answer), key=item.key, error=document_of(problem))


def _members(answer: CheckAnswer) -> dict[str, Any]:
    return {name: getattr(answer, name) for name in CheckAnswer.__struct_fields__}


def _deadline(call: Call) -> int:
    """How long the caller gives the check. Raises a 400 problem for a header that says nothing usable."""
    text = call.headers.get("volenti-deadline-ms")
    if text is None:
        return DEADLINE_MS
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 5 <= int(text) <= 5000):
        raise Problematic(400, "deadline", "Volenti-Deadline-Ms is a whole number from 5 to 5000")
    return int(text)


def _authorise(call: Call, asked: CheckRequest) -> None:
    caller = call.caller
    if (caller.purposes is not None and asked.purpose not in caller.purposes) or (
        caller.actions is not None and asked.action not in caller.actions
    ):
        raise Problematic(403, "out_of_scope", "the credential does not cover this purpose or action")
    for scope, pointer in (
        ("decisions:read", "/detail" if asked.detail == "explain" else None),
        ("consents:read", "/as_of" if asked.as_of is not None else None),
    ):
        if pointer is not None and scope not in caller.scopes:
            raise Problematic(403, "scope_missing", f"this needs the scope {scope}", pointer=pointer)


def _refuse_unimplemented(asked: CheckRequest) -> None:
    """A member that this version does not obey is refused unless it is at its default: never a silent yes."""
    if asked.action is Action.SEND and asked.channel is None:
        raise Problematic(422, "missing_member", "a send names its channel", pointer="/channel")
    message = asked.message or CheckMessage()
    later = {
        "/message/expires_at": message.expires_at is not None,
        "/signals": asked.signals not in (None, CheckSignals(), CheckSignals(gpc=False)),
        "/reserve": asked.reserve is not None,
    }
    for position, part in enumerate(asked.include):
        later[f"/include/{position}"] = part in ("caps", "permit")
    for pointer, given in later.items():
        if given:
            raise not_implemented(pointer)


def _question(asked: CheckRequest) -> Question:
    data = asked.data or CheckData()
    return Question(
        action=asked.action,
        purpose=asked.purpose,
        channel=asked.channel,
        topic=asked.topic,
        message_class=asked.message.message_class if asked.message is not None else None,
        jurisdiction=place(asked.jurisdiction, "/jurisdiction"),
        data_categories=data.categories,
        recipient=data.recipient,
        region=data.region,
        supported_obligations=None if asked.supported_obligations is None else frozenset(asked.supported_obligations),
        every_reason=asked.detail != "primary",
    )


def _consistency(asked: CheckRequest) -> Consistency:
    given = asked.consistency
    if given.mode != "at_least":
        if given.revision is not None:
            raise Problematic(422, "revision", "a revision needs the mode at_least", pointer="/consistency/revision")
        return Consistency(given.mode)
    token = parse_revision_token(given.revision) if given.revision is not None else None
    if token is None:
        raise Problematic(
            422, "revision", "at_least needs a revision token as a write returned it", pointer="/consistency/revision"
        )
    return Consistency("at_least", *token)


def _moment(call: Call, asked: CheckRequest) -> Moment:
    """The instant that the question is for.

    Raises a 422 problem for both, for a past `at`, for a future `as_of`, and for one about whoever has an identifier
    now: who had it then is not known.
    """
    if asked.at is not None and asked.as_of is not None:
        raise Problematic(422, "invalid_value", "ask for a later instant or as of an earlier one", pointer="/as_of")
    now = call.services.clock()
    if asked.at is not None:
        at = instant(asked.at, "/at")
        if not now <= at <= now + AHEAD_MS:
            raise Problematic(422, "invalid_value", "at lies ahead, at most 30 days", pointer="/at")
        return Moment(at=at)
    if asked.as_of is not None:
        as_of = instant(asked.as_of, "/as_of")
        if as_of > now:
            raise Problematic(422, "invalid_value", "as_of lies in the past", pointer="/as_of")
        if asked.data_subject.id is None:
            detail = "as_of needs the caller's id of the person: an identifier may have been another's then"
            raise Problematic(422, "invalid_value", detail, pointer="/data_subject/identifier")
        return Moment(as_of=as_of)
    return Moment()


def _access_request(call: Call, checked: Checked, asked: CheckRequest) -> CheckAccessRequest | None:
    """The page that asks the person, for a caller who may make links: whoever holds one can answer in the person's place."""
    if "links:create" not in call.caller.scopes or asked.at is not None or asked.as_of is not None:
        return None
    link = link_for(call.services, call.workspace_id, checked)
    if link is None:
        return None
    token, expires_at = link
    url = f"{call.services.settings.base_url}/p/{token}"
    return CheckAccessRequest(form_url=url, expires_at=rfc3339(expires_at), binding_token=token)


def _answer(checked: Checked, asked: CheckRequest | None, access: CheckAccessRequest | None = None) -> CheckAnswer:
    """The answer on the wire. `asked` None: nothing is known of the question, and nothing is said of it."""
    decision, question = checked.decision, checked.question
    reasons = decision.reasons
    include = () if asked is None else asked.include
    permitted = isinstance(decision, Permit)
    return CheckAnswer(
        decision="permit" if permitted else "deny",
        allowed=permitted,
        determinate=not isinstance(decision, Deny) or decision.determinate,
        reason=reasons[0].reason.code,
        reasons=tuple(_reason(given) for given in reasons),
        remedies=tuple(
            _timed(remedy) | ({"form_url": access.form_url} if access and remedy["type"] == "ask_consent" else {})
            for remedy in remedies(checked.policy, checked.state, question, decision, checked.evaluated_at)
        ),
        alternatives=_alternatives(checked) if "alternatives" in include and not permitted else (),
        obligations=tuple(
            CheckObligation(
                id=f"o{number}",
                type=obligation.type,
                mandatory=obligation.mandatory,
                properties=_timed(obligation.properties),
            )
            for number, obligation in enumerate(decision.obligations if isinstance(decision, Permit) else (), 1)
        ),
        advice=_advice(checked) if "advice" in include else (),
        evidence=tuple(_evidence(given) for given in reasons if given.event is not None)
        if "evidence" in include
        else (),
        data_subject=CheckedDataSubject(
            id=(asked.data_subject.id if asked is not None else None) or checked.caller_id, known=checked.known
        ),
        not_before=None,
        retry_at=None if reasons[0].retry_at is None else rfc3339(reasons[0].retry_at),
        valid_until=rfc3339(decision.valid_until),
        policy=None
        if checked.policy is None
        else CheckedPolicy(version=checked.policy_version, hash=f"sha256:{checked.policy.hash.hex()}"),
        revision=None if checked.epoch == 0 else revision_token(checked.epoch, checked.size),
        staleness_ms=checked.staleness_ms,
        access_request=access,
        reservation=None,
        permit=None,
        decision_id=f"dec_{checked.decision_id}" if asked and (asked.at or asked.as_of) is None else None,
        evaluated_at=rfc3339(checked.evaluated_at),
        trace=_trace(checked) if asked is not None and asked.detail == "explain" else msgspec.UNSET,
    )


def _reason(given: Given) -> CheckReason:
    return CheckReason(
        code=given.reason.code,
        step=given.reason.step,
        effect=given.reason.effect,
        ref=given.event.entry if given.event is not None else None,
    )


def _evidence(given: Given) -> CheckEvidence:
    event = given.event
    assert event is not None
    return CheckEvidence(entry=event.entry, kind=ledger_kind(event), at=rfc3339(event.occurred_at), notice=event.notice)


def _alternatives(checked: Checked) -> tuple[dict[str, Any], ...]:
    if checked.policy is None:
        return ()
    found = alternatives(checked.policy, checked.state, checked.question, checked.evaluated_at, checked.situation)
    return tuple(
        {"channel": one.channel, "topic": one.topic, "decision": "permit", "not_before": None} for one in found
    )


def _advice(checked: Checked) -> tuple[dict[str, Any], ...]:
    """What the caller may do along with the answer."""
    found: list[dict[str, Any]] = []
    if checked.state.locale:
        found.append({"type": "preferred_locale", "properties": {"locale": checked.state.locale}})
    if isinstance(checked.decision, Permit) and checked.question.action is Action.SEND:
        found.append({"type": "recheck_before_send", "properties": {"after": "valid_until"}})
    return tuple(found)


def _trace(checked: Checked) -> tuple[CheckTrace, ...]:
    if checked.policy is None:
        return ()
    return trace(explain(checked.policy, checked.state, checked.question, checked.evaluated_at, checked.situation))


def trace(steps: Iterable[Traced]) -> tuple[CheckTrace, ...]:
    """The steps of an evaluation as the wire has them."""
    return tuple(
        CheckTrace(step=one.step, outcome=one.outcome, reasons=one.reasons, inputs=_timed(one.inputs), ref=one.ref)
        for one in steps
    )


def _timed(members: dict[str, Any]) -> dict[str, Any]:
    return {
        name: rfc3339(value) if name in _INSTANTS and isinstance(value, int) else value
        for name, value in members.items()
    }
