"""Answer checks: fresh state, the policy in force, one evaluation a question, a row in the decision log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal, TypeAlias
from uuid import UUID

import msgspec

from volenti.core.data_subject import EMPTY, DataSubjectState, Identifier
from volenti.core.decision import Decision, NamedAddress, Permit, Question, Situation, evaluate
from volenti.core.identifier import match_key
from volenti.core.policy.compile import CompiledPolicy
from volenti.core.policy.document import Action, Addresses, LogGuarantee
from volenti.errors import LedgerDamaged, NotFound, Unavailable
from volenti.flows.clock import boot_seconds, instant, milliseconds, uuid7
from volenti.flows.find_data_subject import Person, find
from volenti.flows.log_decisions import document_of, masked, outcome_of, weight_of
from volenti.flows.read_data_subject import state_as_of
from volenti.flows.services import Services
from volenti.keys.blind import decision_mac
from volenti.store.data_subjects import Ground
from volenti.store.decision_log import DecisionRow

CLOCK_SKEW_MS = 2_000
DEADLINE_MS = 1_000
"""How long a check may take if its caller does not say; callers say with the header Volenti-Deadline-Ms."""
_INT4 = 2**31 - 1
FAR_AHEAD = 1_000_000
"""A revision this far beyond the log was never given out: the token is refused instead of waited for."""


class Consistency(msgspec.Struct, frozen=True):
    """What an answer must have seen. Every check reads the database for now, so `bounded` and `strong` are the same."""

    mode: Literal["bounded", "at_least", "strong"] = "bounded"
    epoch: int = 0
    size: int = 0


class Moment(msgspec.Struct, frozen=True):
    """When a question is asked for, in milliseconds UTC, at most one of the two.

    `at`: what would be answered at a later instant if nothing else were recorded. `as_of`: what was answered at an
    earlier one, by what was recorded and in force then. Neither: now.
    """

    at: int | None = None
    as_of: int | None = None

    def instant(self, now: int) -> int:
        """The instant that the question is for."""
        return next(one for one in (self.as_of, self.at, now) if one is not None)


class Asked(msgspec.Struct, frozen=True):
    """A question about one person, for when it is asked, and what its answer must have seen."""

    who: Identifier
    question: Question
    consistency: Consistency = Consistency()
    moment: Moment = Moment()


class UnknownRevision(msgspec.Struct, frozen=True):
    """The revision that the answer should have seen was not given out by this ledger."""


class Checked(msgspec.Struct, frozen=True):
    """A decision with what it stands on. `policy` is None only where the decision says so."""

    decision: Decision
    question: Question
    state: DataSubjectState
    known: bool
    holder: UUID | None
    policy: CompiledPolicy | None
    policy_version: int
    situation: Situation
    epoch: int
    size: int
    evaluated_at: int
    staleness_ms: int
    decision_id: UUID
    log_id: int = 0
    index: bytes = b""
    """The blind index that was looked up; empty where nothing could be read."""

    @property
    def caller_id(self) -> str | None:
        return self.state.caller_id()


Answered: TypeAlias = Checked | UnknownRevision
Semantic: TypeAlias = Literal["all", "stop_on_deny", "stop_on_permit"]
"""Whether several questions are answered to the last, or to the first that is denied or permitted."""


async def check(
    services: Services,
    workspace_id: UUID,
    asked: Sequence[Asked],
    *,
    component: str = "",
    deadline_ms: int = DEADLINE_MS,
    semantic: Semantic = "all",
) -> list[Answered]:
    """Decide questions on one read, at one revision, in their order, and log what was decided for now.

    Whatever cannot be read in time denies. What was asked for another instant permits nothing now, and is not logged.
    What follows the answer that `semantic` stops at is neither answered nor logged.
    """
    begun = boot_seconds()
    answers: list[Answered] = []
    for one, answer in zip(asked, await _answered(services, workspace_id, asked, deadline_ms, begun), strict=True):
        if isinstance(answer, Checked) and one.moment == Moment():
            answer = _logged(services, workspace_id, component, answer, begun)
        answers.append(answer)
        permitted = isinstance(answer, Checked) and isinstance(answer.decision, Permit)
        if semantic == ("stop_on_permit" if permitted else "stop_on_deny"):
            break
    return answers


async def _answered(
    services: Services, workspace_id: UUID, asked: Sequence[Asked], deadline_ms: int, begun: float
) -> list[Answered]:
    try:
        async with asyncio.timeout(deadline_ms / 1000):
            return await _check(services, workspace_id, asked, begun)
    except TimeoutError:
        return [unread(services, Situation(late=True), one.question) for one in asked]
    except (Unavailable, NotFound, LedgerDamaged):
        return [unread(services, Situation(stale=True), one.question) for one in asked]


async def _check(services: Services, workspace_id: UUID, asked: Sequence[Asked], begun: float) -> list[Answered]:
    found = await find(services, workspace_id, tuple(one.who for one in asked))
    ground, read_at = found.ground, services.clock()
    policies = {
        moment: await _policy(services, workspace_id, ground, moment, read_at)
        for moment in {one.moment for one in asked}
    }
    staleness = round((boot_seconds() - begun) * 1000)
    answers: list[Answered] = []
    for one, person, index in zip(asked, found.people, found.indexes, strict=True):
        situation = _situation(ground, one.consistency, read_at)
        if situation is None:
            answers.append(UnknownRevision())
            continue
        state, known = await _state(services, workspace_id, person, one.moment)
        version, policy = policies[one.moment]
        now = one.moment.instant(read_at)
        question = _addressed(one, state, policy)
        answers.append(
            Checked(
                decision=evaluate(policy, state, question, now, situation),
                question=question,
                state=state,
                known=known,
                holder=None if person is None else person.holder,
                policy=policy,
                policy_version=version,
                situation=situation,
                epoch=ground.epoch,
                size=ground.size,
                evaluated_at=now,
                staleness_ms=staleness,
                decision_id=_new_id(services, now),
                log_id=ground.log_id,
                index=index,
            )
        )
    return answers


def _addressed(one: Asked, state: DataSubjectState, policy: CompiledPolicy | None) -> Question:
    """The question with what is known of the address that it names the person by, where the policy asks for verified ones."""
    who = one.who
    if who.type == "id" or policy is None or policy.addresses is not Addresses.VERIFIED:
        return one.question
    key = match_key(who.type, who.value)
    same = [
        known for known in state.identifiers if known.type == who.type and match_key(known.type, known.value) == key
    ]
    if not same:
        return one.question
    address = NamedAddress(who.type, any(known.verified_at is not None for known in same))
    return msgspec.structs.replace(one.question, address=address)


async def _policy(
    services: Services, workspace_id: UUID, ground: Ground, moment: Moment, read_at: int
) -> tuple[int, CompiledPolicy | None]:
    """The version that is in force at the moment asked for, as it was known then, and its compiled form."""
    if moment == Moment():
        return ground.policy_version or 0, await services.policy(workspace_id, ground)
    known_at = read_at if moment.as_of is None else moment.as_of
    return await services.policy_in_force(workspace_id, moment.instant(read_at), known_at) or (0, None)


async def _state(
    services: Services, workspace_id: UUID, person: Person | None, moment: Moment
) -> tuple[DataSubjectState, bool]:
    """The person's state at the moment asked for, and whether the person was known then."""
    if person is None:
        return EMPTY, False
    if moment.as_of is None:
        return person.state, True
    state = await state_as_of(services, workspace_id, person, moment.as_of)
    return (EMPTY, False) if state is None else (state, True)


def unread(services: Services, situation: Situation, question: Question | None = None) -> Checked:
    """The answer where nothing could be read: a deny that says why, whatever was asked, for everybody."""
    now = services.clock()
    question = question or Question(action=Action.USE, purpose="")
    return Checked(
        decision=evaluate(None, EMPTY, question, now, situation),
        question=question,
        state=EMPTY,
        known=False,
        holder=None,
        policy=None,
        policy_version=0,
        situation=situation,
        epoch=0,
        size=0,
        evaluated_at=now,
        staleness_ms=0,
        decision_id=_new_id(services, now),
    )


def _new_id(services: Services, now: int) -> UUID:
    """A decision's id carries the instant of the decision: so the decision log finds its day by the id."""
    return uuid7(now, services.entropy(10))


def _logged(services: Services, workspace_id: UUID, component: str, checked: Checked, begun: float) -> Checked:
    """Log a decision; where there is no room for one whose purpose demands its log, the answer becomes a deny."""
    policy, decision, question = checked.policy, checked.decision, checked.question
    purpose = None if policy is None else policy.purposes.get(question.purpose)
    required = purpose is not None and purpose.log_guarantee is LogGuarantee.REQUIRED
    weight = weight_of(
        checked.decision_id,
        question.action,
        permitted=isinstance(decision, Permit),
        required=required,
        every=services.settings.decision_sample,
    )
    if weight == 0:
        return checked
    asked, outcome = masked(question, policy), outcome_of(decision)
    row = DecisionRow(
        decision_id=checked.decision_id,
        evaluated_at=instant(checked.evaluated_at),
        component=component,
        holder=checked.holder,
        action=asked.action,
        purpose=asked.purpose,
        channel=asked.channel,
        topic=asked.topic,
        message_class=asked.message_class,
        decision=outcome.decision,
        reasons=outcome.reasons,
        policy_version=checked.policy_version or None,
        policy_hash=None if policy is None else policy.hash,
        epoch=checked.epoch,
        log_id=checked.log_id,
        size=checked.size,
        staleness_ms=min(checked.staleness_ms, _INT4),
        evidence=outcome.evidence,
        obligations_hash=outcome.obligations_hash,
        mode="live",
        request_hash=decision_mac(
            services.keyring.pepper,
            workspace_id.bytes,
            checked.decision_id.bytes,
            checked.index,
            msgspec.json.encode(question, order="sorted"),
        ),
        took_us=min(round((boot_seconds() - begun) * 1_000_000), _INT4),
        weight=weight,
        question=document_of(asked),
    )
    if services.decisions.record(workspace_id, row) or not required:
        return checked
    unlogged = msgspec.structs.replace(checked.situation, unlogged=True)
    decision = evaluate(policy, checked.state, question, checked.evaluated_at, unlogged)
    return msgspec.structs.replace(checked, decision=decision, situation=unlogged)


def _situation(ground: Ground, consistency: Consistency, now: int) -> Situation | None:
    """What is known of the ground of an answer; None where the caller asks for a revision that never was."""
    asked, read = (consistency.epoch, consistency.size), (ground.epoch, ground.size)
    behind = consistency.mode == "at_least" and consistency.epoch >= ground.epoch and asked > read
    if behind and consistency.size > ground.size + FAR_AHEAD:
        return None
    return Situation(
        restoring=ground.log_state != "active",
        stale=behind,
        clock_skewed=abs(milliseconds(ground.at) - now) > CLOCK_SKEW_MS,
        policy_until=None if ground.policy_until is None else milliseconds(ground.policy_until),
    )
