"""Answer a check: fresh state, the policy in force, one evaluation, one row in the decision log."""

from __future__ import annotations

import asyncio
from typing import Literal
from uuid import UUID

import msgspec

from volenti.core.data_subject import EMPTY, Identifier
from volenti.core.decision import SOUND, Decision, Deny, Given, Permit, Question, Situation, evaluate
from volenti.core.policy.compile import CompiledPolicy
from volenti.core.policy.document import Action
from volenti.core.reason import reason
from volenti.errors import Invalid, LedgerDamaged, NotFound, Unavailable
from volenti.flows.clock import boot_seconds, instant, milliseconds, uuid7
from volenti.flows.find_data_subject import Found, find
from volenti.flows.log_decisions import document_of, masked, outcome_of, weight_of
from volenti.flows.services import Services
from volenti.keys.blind import decision_mac
from volenti.store.decision_log import DecisionRow

CLOCK_SKEW_MS = 2_000
DEADLINE_MS = 1_000
"""How long a check may take if its caller does not say; callers say with the header Volenti-Deadline-Ms."""
_INT4 = 2**31 - 1
_ANY = Question(action=Action.USE, purpose="")
FAR_AHEAD = 1_000_000
"""A revision this far beyond the log was never given out: the token is refused instead of waited for."""


class Consistency(msgspec.Struct, frozen=True):
    """What an answer must have seen. Every check reads the database for now, so `bounded` and `strong` are the same."""

    mode: Literal["bounded", "at_least", "strong"] = "bounded"
    epoch: int = 0
    size: int = 0


class Checked(msgspec.Struct, frozen=True):
    """A decision with what it stands on. `policy` is None only where the decision says so."""

    decision: Decision
    known: bool
    caller_id: str | None
    policy: CompiledPolicy | None
    policy_version: int
    epoch: int
    size: int
    evaluated_at: int
    staleness_ms: int
    decision_id: UUID
    holder: UUID | None = None
    log_id: int = 0
    index: bytes = b""
    """The blind index that was looked up; empty where nothing could be read."""


async def check(
    services: Services,
    workspace_id: UUID,
    who: Identifier,
    question: Question,
    consistency: Consistency,
    deadline_ms: int = DEADLINE_MS,
    *,
    component: str = "",
) -> Checked:
    """Decide a question about one person and log the decision. Whatever cannot be read in time denies; only a malformed question raises (Invalid)."""
    begun = boot_seconds()
    checked = await _check(services, workspace_id, who, question, consistency, deadline_ms, begun)
    return _logged(services, workspace_id, component, question, checked, begun)


async def _check(
    services: Services,
    workspace_id: UUID,
    who: Identifier,
    question: Question,
    consistency: Consistency,
    deadline_ms: int,
    begun: float,
) -> Checked:
    try:
        async with asyncio.timeout(deadline_ms / 1000):
            found, policy = await _read(services, workspace_id, who)
    except TimeoutError:
        return unread(services, Situation(late=True))
    except (Unavailable, NotFound, LedgerDamaged):
        return unread(services, Situation(stale=True))
    now = services.clock()
    person = found.person
    decision = evaluate(
        policy, EMPTY if person is None else person.state, question, now, _situation(found, consistency, now)
    )
    return Checked(
        decision=decision,
        known=person is not None,
        caller_id=None if person is None else person.state.caller_id(),
        policy=policy,
        policy_version=found.ground.policy_version or 0,
        epoch=found.ground.epoch,
        size=found.ground.size,
        evaluated_at=now,
        staleness_ms=round((boot_seconds() - begun) * 1000),
        decision_id=_new_id(services, now),
        holder=None if person is None else person.holder,
        log_id=found.ground.log_id,
        index=found.indexes[0],
    )


def _logged(
    services: Services, workspace_id: UUID, component: str, question: Question, checked: Checked, begun: float
) -> Checked:
    """Log a decision; where there is no room for one whose purpose demands its log, the answer becomes a deny."""
    policy, decision = checked.policy, checked.decision
    purpose = None if policy is None else policy.purposes.get(question.purpose)
    required = getattr(purpose, "log_guarantee", None) == "required"  # policies do not have this member yet
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
    unlogged = Deny((Given(reason("system.evaluation_error")),), checked.evaluated_at + 1)
    return msgspec.structs.replace(checked, decision=unlogged)


async def _read(services: Services, workspace_id: UUID, who: Identifier) -> tuple[Found, CompiledPolicy | None]:
    found = await find(services, workspace_id, (who,))
    version = found.ground.policy_version
    return found, None if version is None else await services.policy(workspace_id, version)


def unread(services: Services, situation: Situation) -> Checked:
    """The answer where nothing could be read: a deny that says why, whatever was asked, for everybody."""
    now = services.clock()
    decision = evaluate(None, EMPTY, _ANY, now, situation)
    return Checked(decision, False, None, None, 0, 0, 0, now, 0, _new_id(services, now))


def _new_id(services: Services, now: int) -> UUID:
    """A decision's id carries the instant of the decision: so the decision log finds its day by the id."""
    return uuid7(now, services.entropy(10))


def _situation(found: Found, consistency: Consistency, now: int) -> Situation:
    ground = found.ground
    asked, read = (consistency.epoch, consistency.size), (ground.epoch, ground.size)
    behind = consistency.mode == "at_least" and consistency.epoch >= ground.epoch and asked > read
    if behind and consistency.size > ground.size + FAR_AHEAD:
        raise Invalid("the revision was not given out by this ledger")
    restoring = ground.log_state != "active"
    skewed = abs(milliseconds(ground.at) - now) > CLOCK_SKEW_MS
    if not (behind or restoring or skewed):
        return SOUND
    return Situation(restoring=restoring, stale=behind, clock_skewed=skewed)
