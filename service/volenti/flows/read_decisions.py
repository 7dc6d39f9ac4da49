"""Read logged decisions, and make one again: from the person's entries of then, under the policy of then."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from uuid import UUID

import msgspec

from volenti.core.data_subject import EMPTY, DataSubjectState, fold
from volenti.core.decision import Traced, evaluate
from volenti.core.decision import explain as steps_of
from volenti.core.reason import REASONS, Reason
from volenti.errors import LedgerDamaged, NotFound
from volenti.flows.clock import instant, milliseconds
from volenti.flows.find_data_subject import named, open_person
from volenti.flows.log_decisions import Outcome, outcome_of, question_of
from volenti.flows.prune import DAYS_AHEAD
from volenti.flows.seal_entries import open_entry
from volenti.flows.services import Services
from volenti.keys.sealer import holder_key_context, open_sealed
from volenti.store import data_subjects, decision_log, ledger
from volenti.store.database import translated
from volenti.store.decision_log import DecisionRow, Gap

BEGINNING, END = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
WINDOW = timedelta(days=32)
"""How much of the log one statement looks at: a statement over all days at once would take a thousand locks."""
_BY_NUMBER: Mapping[int, Reason] = {reason.number: reason for reason in REASONS.values()}


class Reach(msgspec.Struct, frozen=True):
    """The purposes and actions that a reader may know of; None: all. What lies outside looks as if it did not exist."""

    purposes: Collection[str] | None = None
    actions: Collection[str] | None = None

    def covers(self, row: DecisionRow) -> bool:
        return (self.purposes is None or row.purpose in self.purposes) and (
            self.actions is None or row.action in self.actions
        )


class Page(msgspec.Struct, frozen=True):
    """Decisions of one person, oldest first; `following` is the cursor of the next page. `gaps` are the workspace's, in the same time."""

    rows: tuple[DecisionRow, ...]
    gaps: tuple[Gap, ...]
    following: UUID | None


class Replayed(msgspec.Struct, frozen=True):
    """A logged decision, made again. `outcome` None: it was not made again, and `why` says why."""

    row: DecisionRow
    outcome: Outcome | None
    why: str | None = None
    steps: tuple[Traced, ...] = ()

    @property
    def reproduced(self) -> bool | None:
        return None if self.outcome is None else self.outcome == logged_outcome(self.row)


class Erased(msgspec.Struct, frozen=True):
    """The person is erased: what was decided about them cannot be made again."""


Explained: TypeAlias = Replayed | Erased


def code_of(number: int) -> str:
    """The wire value of a reason's number; the number itself where a newer release than this wrote the row."""
    known = _BY_NUMBER.get(number)
    return str(number) if known is None else known.code


def logged_outcome(row: DecisionRow) -> Outcome:
    """What a replay must give."""
    return Outcome(row.decision, row.reasons, row.evidence, row.obligations_hash)


async def read(services: Services, workspace_id: UUID, decision_id: UUID, reach: Reach) -> DecisionRow:
    """A logged decision. Raises NotFound, also for another workspace's, one out of reach, and one that was not logged."""
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        row = await decision_log.by_id(connection, workspace_id, decision_id)
    if not reach.covers(row):
        raise NotFound("the decision log has no such decision")
    return row


async def caller_id(services: Services, workspace_id: UUID, row: DecisionRow) -> str | None:
    """The caller's id of the person that a decision was about; None if nobody was known, or the person is erased."""
    if row.holder is None:
        return None
    key = await services.workspace_key(workspace_id)
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        try:
            stored = await data_subjects.by_holder(connection, workspace_id, row.holder)
        except NotFound:
            return None
    return open_person(workspace_id, key, stored).state.caller_id()


async def of_person(
    services: Services,
    workspace_id: UUID,
    person_id: str,
    reach: Reach,
    *,
    since: datetime = BEGINNING,
    until: datetime = END,
    after: UUID | None = None,
    limit: int = 100,
) -> Page:
    """The decisions about a person, by time. Raises NotFound if nobody is known by the id."""
    _, person = await named(services, workspace_id, person_id)
    now = instant(services.clock())
    begin = max(since, now - timedelta(days=services.settings.decision_log_days + 1))
    begin = begin if after is None else max(begin, decision_log.time_of(after))
    end = min(until, now + timedelta(days=DAYS_AHEAD + 1))
    rows: list[DecisionRow] = []
    while begin < end and len(rows) <= limit:
        async with services.database.workspace("volenti_app", workspace_id) as connection:
            rows += await decision_log.of_holder(
                connection,
                workspace_id,
                person.holder,
                since=begin,
                until=min(begin + WINDOW, end),
                after=after,
                limit=limit + 1 - len(rows),
                purposes=reach.purposes,
                actions=reach.actions,
            )
        begin += WINDOW
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        gaps = await decision_log.gaps(connection, workspace_id, since=since, until=until)
    following = rows[limit - 1].decision_id if len(rows) > limit else None
    return Page(tuple(rows[:limit]), tuple(gaps), following)


async def explain(services: Services, workspace_id: UUID, row: DecisionRow) -> Explained:
    """Make a decision again and compare. A decision of the system itself rests on no rule, and is not made again."""
    first = _BY_NUMBER.get(row.reasons[0])
    if first is None:
        return Replayed(row, None, "a newer release of the service decided; this one does not know the reason")
    if first.step == "system":
        return Replayed(row, None, "the system could not answer then; no rule decided, so there is none to ask again")
    if row.holder is None:
        return await _again(services, workspace_id, row, EMPTY)
    state = await _state_then(services, workspace_id, row, row.holder)
    match state:
        case None:
            return Replayed(row, None, "the ledger is shorter than it was: it was put back, and its log began anew")
        case Erased():
            return state
        case DataSubjectState():
            return await _again(services, workspace_id, row, state)


async def _again(services: Services, workspace_id: UUID, row: DecisionRow, state: DataSubjectState) -> Replayed:
    at = milliseconds(row.evaluated_at)
    try:  # by its number: while a version is being published, checks already after its instant still use the one before
        policy = await services.policy_version(workspace_id, row.policy_version or 0, at)
    except NotFound as error:
        raise LedgerDamaged("the policy version that the decision was made by is gone") from error
    if policy.hash != row.policy_hash:
        raise LedgerDamaged("the policy version is not the one that the decision was made by")
    question = question_of(row)
    decision = evaluate(policy, state, question, at)
    return Replayed(row, outcome_of(decision), steps=steps_of(policy, state, question, at))


async def _state_then(
    services: Services, workspace_id: UUID, row: DecisionRow, holder: UUID
) -> DataSubjectState | Erased | None:
    """The fold of the person's entries that stood below the logged revision; None if the ledger no longer reaches there."""
    workspace_key = await services.workspace_key(workspace_id)
    async with services.database.workspace("volenti_app", workspace_id, snapshot=True) as connection:
        with translated("reading a person's entries"):
            sizes = {head.log_id: head.size for head in await ledger.logs(connection, workspace_id)}
            if sizes.get(row.log_id, 0) < row.size:
                return None
            try:
                stored = await data_subjects.by_holder(connection, workspace_id, holder)
            except NotFound:
                return Erased()
            payloads = await data_subjects.payloads(connection, workspace_id, holder)
    key = open_sealed(workspace_key, stored.wrapped_key, holder_key_context(workspace_id.bytes, holder.bytes))
    then = (row.log_id, row.size)
    return fold(
        open_entry(workspace_id, key, payload) for payload in payloads if (payload.log_id, payload.index) < then
    )
