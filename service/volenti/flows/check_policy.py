"""Answer a check: fresh state, the policy in force, one evaluation."""

from __future__ import annotations

import asyncio
from typing import Literal
from uuid import UUID

import msgspec

from volenti.core.data_subject import EMPTY, Identifier
from volenti.core.decision import Decision, Question, Situation, evaluate
from volenti.core.policy.compile import CompiledPolicy
from volenti.core.policy.document import Action
from volenti.errors import Invalid, LedgerDamaged, NotFound, Unavailable
from volenti.flows.clock import boot_seconds, milliseconds
from volenti.flows.find_data_subject import Found, find
from volenti.flows.services import Services

CLOCK_SKEW_MS = 2_000
DEADLINE_MS = 1_000
"""How long a check may take if its caller does not say; callers say with the header Volenti-Deadline-Ms."""
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


async def check(
    services: Services,
    workspace_id: UUID,
    who: Identifier,
    question: Question,
    consistency: Consistency,
    deadline_ms: int = DEADLINE_MS,
) -> Checked:
    """Decide a question about one person. Whatever cannot be read in time denies; only a malformed question raises (Invalid)."""
    begun = boot_seconds()
    try:
        async with asyncio.timeout(deadline_ms / 1000):
            found = await find(services, workspace_id, (who,))
            policy = await services.policy(workspace_id, found.ground)
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
    )


def unread(services: Services, situation: Situation) -> Checked:
    """The answer where nothing could be read: a deny that says why, whatever was asked, for everybody."""
    now = services.clock()
    return Checked(evaluate(None, EMPTY, _ANY, now, situation), False, None, None, 0, 0, 0, now, 0)


def _situation(found: Found, consistency: Consistency, now: int) -> Situation:
    ground = found.ground
    asked, read = (consistency.epoch, consistency.size), (ground.epoch, ground.size)
    behind = consistency.mode == "at_least" and consistency.epoch >= ground.epoch and asked > read
    if behind and consistency.size > ground.size + FAR_AHEAD:
        raise Invalid("the revision was not given out by this ledger")
    restoring = ground.log_state != "active"
    skewed = abs(milliseconds(ground.at) - now) > CLOCK_SKEW_MS
    until = None if ground.policy_until is None else milliseconds(ground.policy_until)
    return Situation(restoring=restoring, stale=behind, clock_skewed=skewed, policy_until=until)
