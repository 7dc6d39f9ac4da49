"""Log what was decided, without making a check wait: a bounded queue in each process, written five times a second.

What cannot be written waits. What finds no room is counted and becomes a gap, which is written as soon as anything can
be: the log may have holes, but it says where. A process that is killed loses what waits, a fifth of a second's worth
unless the database was away.
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date, datetime
from itertools import groupby, islice
from uuid import UUID

import msgspec
import structlog

from volenti.core.decision import Decision, Permit, Question
from volenti.core.policy.compile import CompiledPolicy, covers_region
from volenti.core.policy.document import Action
from volenti.errors import LedgerDamaged, Unavailable, VolentiError
from volenti.flows.clock import Entropy, milliseconds, uuid7
from volenti.store import decision_log
from volenti.store.database import Database, translated
from volenti.store.decision_log import DecisionRow, Gap

QUEUE_ROWS = 50_000
FLUSH_ROWS = 5_000
FLUSH_SECONDS = 0.2
CHUNK_ROWS = 500
"""Rows that one statement writes: encoding them holds up the process's checks for a few milliseconds."""
RETRY_SECONDS = 1.0
DRAIN_SECONDS = 5.0
"""How long a process that stops tries to write what waits."""

COMPLETE = frozenset((Action.AUTOMATE, Action.TRAIN, Action.SELL, Action.SHARE, Action.SEND))
"""Actions whose every decision is logged; of the others every deny and defer, and a sample of the permits."""
UNKNOWN = "?"
"""What stands for a key that the policy does not have, and may be anything that a caller typed. No key of a policy is this."""
OBLIGATIONS = frozenset(
    (
        "include_unsubscribe", "wait_until", "no_profiling", "no_automated_decision", "exclude_from_training", "restrict_recipients", "delete_by",
        "use_address", "identify_sender", "disclose_ai", "show_notice", "report_outcome", "log_access",
    )
)  # fmt: skip
"""Every obligation that an answer may carry: others that a caller says it supports play no part in a decision."""

log = structlog.get_logger()


def weight_of(decision_id: UUID, action: Action, *, permitted: bool, required: bool, every: int) -> int:
    """For how many decisions this one's row stands: 1, or `every` for one in `every`, or 0 for the others, which have no row.

    Depends on the id alone, so that nothing that a caller controls decides what is left out.
    """
    if not permitted or required or action in COMPLETE:
        return 1
    return every if zlib.crc32(decision_id.bytes) % every == 0 else 0


class Outcome(msgspec.Struct, frozen=True):
    """What of a decision its row keeps, and a replay must give again."""

    decision: str
    reasons: tuple[int, ...]
    evidence: tuple[UUID, ...]
    obligations_hash: bytes | None


def outcome_of(decision: Decision) -> Outcome:
    """The part of a decision that is logged."""
    obligations = decision.obligations if isinstance(decision, Permit) else ()
    return Outcome(
        str(decision.__struct_config__.tag),
        tuple(given.reason.number for given in decision.reasons),
        tuple(UUID(given.event.entry) for given in decision.reasons if given.event is not None),
        hashlib.sha256(_encode(obligations)).digest() if obligations else None,
    )


def masked(question: Question, policy: CompiledPolicy | None) -> Question:
    """The question without anything that a caller may have typed freely; the policy answers it as it answers the question."""
    purpose = None if policy is None else policy.purposes.get(question.purpose)
    topic = question.topic
    if topic is not None and (policy is None or topic not in policy.document.topics):
        topic = UNKNOWN
    supported = question.supported_obligations
    return msgspec.structs.replace(
        question,
        purpose=UNKNOWN if purpose is None else question.purpose,
        topic=topic,
        data_categories=tuple(
            one if purpose is not None and one in purpose.data else UNKNOWN for one in question.data_categories
        ),
        recipient=_known(question.recipient, purpose is not None and question.recipient in purpose.recipients),
        region=_known(question.region, purpose is not None and covers_region(purpose, question.region or "")),
        supported_obligations=None if supported is None else supported & OBLIGATIONS,
    )


def _known(text: str | None, known: bool) -> str | None:
    return text if text is None or known else UNKNOWN


_encode = msgspec.json.Encoder(order="sorted").encode
_IN_COLUMNS = frozenset(("action", "purpose", "channel", "topic", "message_class"))
_REST = tuple(
    (field.name, field.default) for field in msgspec.structs.fields(Question) if field.name not in _IN_COLUMNS
)


def document_of(question: Question) -> str:
    """The members of a question that have no column of their own and are not at their default, as canonical JSON."""
    return _encode(
        {name: getattr(question, name) for name, default in _REST if getattr(question, name) != default}
    ).decode()


def question_of(row: DecisionRow) -> Question:
    """The question that a row was the answer to."""
    members = {name: getattr(row, name) for name in _IN_COLUMNS}
    return msgspec.convert(members | msgspec.json.decode(row.question), Question)


def _workspace(waiting: tuple[UUID, DecisionRow]) -> UUID:
    return waiting[0]


class _Missed:
    """Rows of a workspace that found no room, until a gap tells of them."""

    def __init__(self, at: datetime) -> None:
        self.from_at = self.to_at = at
        self.number = 0

    def add(self, at: datetime) -> None:
        self.from_at, self.to_at = min(self.from_at, at), max(self.to_at, at)
        self.number += 1


_OF_A_ROW = ("22", "23", "54")
"""Classes of SQLSTATE that say that the value, a constraint or a limit forbids the row."""


@contextmanager
def _patient() -> Iterator[None]:
    """Raise Unavailable for every error whose reason is not in what was to be written, as where the database is read-only."""
    try:
        yield
    except Unavailable:
        raise
    except Exception as error:
        state = getattr(error, "sqlstate", None) or getattr(error.__cause__, "sqlstate", None)
        if (state is None and not isinstance(error, VolentiError)) or (state or "").startswith(_OF_A_ROW):
            raise
        raise Unavailable(f"the decision log takes no rows at the moment ({state or type(error).__name__})") from error


class DecisionLog:
    """The queue of one process, and the one task that writes it, which runs while there is something to write.

    Owned by the event loop: no await between a read and a write of its members.
    """

    def __init__(self, database: Database, entropy: Entropy) -> None:
        self._database, self._entropy = database, entropy
        self._queue: deque[tuple[UUID, DecisionRow]] = deque()
        self._missed: dict[UUID, _Missed] = {}
        self._gaps: deque[tuple[UUID, Gap]] = deque()
        self._days: set[date] = set()
        self._task: asyncio.Task[None] | None = None
        self._full = asyncio.Event()
        self._writing = asyncio.Lock()
        self._closed = False

    def record(self, workspace_id: UUID, row: DecisionRow) -> bool:
        """Take a row to be written; False if there is no room for it, which is counted. Never waits."""
        taken = len(self._queue) < QUEUE_ROWS and not self._closed
        if taken:
            self._queue.append((workspace_id, row))
            if len(self._queue) >= FLUSH_ROWS:
                self._full.set()
        else:
            self._miss(workspace_id, row.evaluated_at)
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._run())
        return taken

    async def flush(self) -> None:
        """Write what waits. Raises Unavailable, after which everything that was not written still waits."""
        async with self._writing:
            end = len(self._queue)  # what comes meanwhile is the next turn's, or a gap would wait for a pause
            for begin in range(0, end, CHUNK_ROWS):
                chunk = list(islice(self._queue, min(CHUNK_ROWS, end - begin)))
                await self._write(chunk)
                for _ in chunk:
                    self._queue.popleft()
            await self._tell_gaps()

    async def close(self) -> None:
        """Take no more rows and write what waits, for at most DRAIN_SECONDS; what is lost then is logged."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with suppress(TimeoutError, VolentiError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self.flush()
        lost = (
            len(self._queue)
            + sum(missed.number for missed in self._missed.values())
            + sum(gap.number for _, gap in self._gaps)
        )
        if lost:
            log.error("decisions.lost", count=lost)

    async def _run(self) -> None:
        away = False
        try:
            while self._queue or self._missed or self._gaps:
                if away:
                    await asyncio.sleep(RETRY_SECONDS)
                else:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._full.wait(), FLUSH_SECONDS)
                self._full.clear()
                try:
                    await self.flush()
                    away = False
                except Unavailable as error:
                    if not away:
                        log.warning("decisions.waiting", error=str(error), count=len(self._queue))
                    away = True
        finally:
            self._task = None

    async def _write(self, rows: list[tuple[UUID, DecisionRow]]) -> None:
        """Write rows, each workspace's in a transaction. Raises Unavailable; a row that can never be written becomes a gap."""
        refused: list[tuple[UUID, DecisionRow]] = []
        for workspace_id, group in groupby(sorted(rows, key=_workspace), key=_workspace):
            ours = [row for _, row in group]
            if not await self._insert(workspace_id, ours):
                refused += [(workspace_id, row) for row in ours if not await self._insert(workspace_id, [row])]
        for workspace_id, row in refused:
            self._miss(workspace_id, row.evaluated_at)

    async def _insert(self, workspace_id: UUID, rows: list[DecisionRow]) -> bool:
        """Write rows together; False if one of them can never be written. Raises Unavailable."""
        try:
            with _patient():
                try:
                    await self._insert_once(workspace_id, rows)
                except LedgerDamaged:  # a day that was there is gone: retention dropped it, or somebody did
                    self._days.clear()
                    await self._insert_once(workspace_id, rows)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with these rows, all others must not wait behind them
            log.error("decisions.refused", error=type(error).__name__, count=len(rows))
            return False
        return True

    async def _insert_once(self, workspace_id: UUID, rows: list[DecisionRow]) -> None:
        days = {row.evaluated_at.date() for row in rows} - self._days
        if days:
            async with self._database.connection("volenti_app") as connection:
                with translated("making the decision log's days"):
                    await decision_log.prepare(connection, sorted(days))
            self._days |= days
        async with self._database.workspace("volenti_app", workspace_id) as connection:
            await decision_log.insert(connection, workspace_id, rows)

    async def _tell_gaps(self) -> None:
        while self._missed:
            workspace_id, missed = self._missed.popitem()
            gap_id = uuid7(milliseconds(missed.to_at), self._entropy(10))
            self._gaps.append((workspace_id, Gap(gap_id, missed.from_at, missed.to_at, missed.number)))
        while self._gaps:
            workspace_id, gap = self._gaps[0]
            with _patient():
                async with self._database.workspace("volenti_app", workspace_id) as connection:
                    await decision_log.insert_gap(connection, workspace_id, gap)
            self._gaps.popleft()
            log.error("decisions.gap", count=gap.number)

    def _miss(self, workspace_id: UUID, at: datetime) -> None:
        self._missed.setdefault(workspace_id, _Missed(at)).add(at)
