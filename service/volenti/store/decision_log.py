"""The decision log: what was answered, in partitions of a day; and the gaps, where rows found no room.

COPY FROM is refused on a table under row-level security, and of the ways around it one INSERT from arrays was the
fastest (decision record 0018). A row that is written twice stands once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from volenti.errors import NotFound
from volenti.store.database import Connection

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOBODY = UUID(int=0)


class DecisionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One decision as it is logged. Holds no identifier and no free text; `question` is JSON of what the columns lack."""

    decision_id: UUID
    evaluated_at: datetime
    component: str
    holder: UUID | None
    """The person's internal id; None if nobody was known by what the caller named."""
    action: str
    purpose: str
    channel: str | None
    topic: str | None
    message_class: str | None
    decision: str
    """permit, deny or defer."""
    reasons: tuple[int, ...]
    policy_version: int | None
    policy_hash: bytes | None
    epoch: int
    log_id: int
    size: int
    staleness_ms: int
    evidence: tuple[UUID, ...]
    obligations_hash: bytes | None
    mode: str
    """live, shadow or audience."""
    request_hash: bytes
    took_us: int
    weight: int
    """How many decisions the row stands for."""
    question: str


class Gap(msgspec.Struct, frozen=True):
    """So many rows of a workspace, evaluated within these instants (both included), are missing in the log."""

    gap_id: UUID
    from_at: datetime
    to_at: datetime
    number: int


_COLUMNS = (
    ("decision_id", "uuid"), ("evaluated_at", "timestamptz"), ("component", "text"), ("holder", "uuid"), ("action", "text"),
    ("purpose", "text"), ("channel", "text"), ("topic", "text"), ("class", "text"), ("decision", "text"), ("reasons", "smallint[]"),
    ("policy_version", "int"), ("policy_hash", "bytea"), ("epoch", "int"), ("log_id", "int"), ("size", "bigint"), ("staleness_ms", "int"),
    ("evidence", "uuid[]"), ("obligations_hash", "bytea"), ("mode", "text"), ("request_hash", "bytea"), ("took_us", "int"), ("weight", "int"),
    ("question", "jsonb"),
)  # fmt: skip
"""Column and type, in the order of the members of DecisionRow."""
_MEMBERS = DecisionRow.__struct_fields__
_READ = ", ".join(name for name, _ in _COLUMNS)


def _sent_as(type_name: str) -> str:
    """The type of an element of a parameter's array: unnest flattens arrays of arrays, so those go as text."""
    return "text" if type_name.endswith("[]") or type_name == "jsonb" else type_name


_INSERT = (
    f"INSERT INTO decision_log (workspace_id, {_READ}) SELECT $1, {', '.join(f'{name}::{kind}' for name, kind in _COLUMNS)}"
    f" FROM unnest({', '.join(f'${n}::{_sent_as(kind)}[]' for n, (_, kind) in enumerate(_COLUMNS, 2))}) AS u({_READ})"
    " ON CONFLICT DO NOTHING"
)


_OF_THESE_DAYS = "SET LOCAL plan_cache_mode = force_custom_plan"
"""A plan made for the instants of the question locks their days only; a generic one locks every day there is."""


async def prepare(connection: Connection, days: Sequence[date]) -> int:
    """Make the partitions of these days (UTC) that are missing; returns how many."""
    return int(await connection.fetchval("SELECT decision_log_prepare($1)", list(days)))


async def drop(connection: Connection, keep_days: int) -> int:
    """Drop the days that lie wholly more than so many days back; returns how many."""
    return int(await connection.fetchval("SELECT decision_log_drop($1)", keep_days))


async def insert(connection: Connection, workspace_id: UUID, rows: Sequence[DecisionRow]) -> None:
    """Write rows of one workspace, of days whose partitions exist. A row that is there already is left as it is."""
    columns = [[getattr(row, member) for row in rows] for member in _MEMBERS]
    for position, (_, kind) in enumerate(_COLUMNS):
        if kind.endswith("[]"):
            columns[position] = [f"{{{','.join(map(str, values))}}}" for values in columns[position]]
    await connection.execute(_INSERT, workspace_id, *columns)


async def by_id(connection: Connection, workspace_id: UUID, decision_id: UUID) -> DecisionRow:
    """A decision by its id, which tells its day. Needs a transaction. Raises NotFound."""
    await connection.execute(_OF_THESE_DAYS)
    row = await connection.fetchrow(
        f"SELECT {_READ} FROM decision_log WHERE workspace_id = $1 AND evaluated_at = $2 AND decision_id = $3",
        workspace_id, time_of(decision_id), decision_id,
    )  # fmt: skip
    if row is None:
        raise NotFound("the decision log has no such decision")
    return _row(row)


async def of_holder(
    connection: Connection,
    workspace_id: UUID,
    holder: UUID,
    *,
    since: datetime,
    until: datetime,
    after: UUID | None,
    limit: int,
    purposes: Collection[str] | None,
    actions: Collection[str] | None,
) -> list[DecisionRow]:
    """Decisions about one person with since <= time < until, oldest first, `after` the one with this id. Needs a transaction.

    Purposes and actions None: all. The period should be short: each day of it is a table to look at.
    """
    await connection.execute(_OF_THESE_DAYS)
    rows = await connection.fetch(
        f"SELECT {_READ} FROM decision_log WHERE workspace_id = $1 AND holder = $2 AND evaluated_at >= $3 AND evaluated_at < $4"
        " AND (evaluated_at, decision_id) > ($5, $6) AND ($7::text[] IS NULL OR purpose = ANY($7)) AND ($8::text[] IS NULL OR action = ANY($8))"
        " ORDER BY evaluated_at, decision_id LIMIT $9",
        workspace_id, holder, since, until, since if after is None else time_of(after), after or _NOBODY,
        None if purposes is None else list(purposes), None if actions is None else list(actions), limit,
    )  # fmt: skip
    return [_row(row) for row in rows]


async def insert_gap(connection: Connection, workspace_id: UUID, gap: Gap) -> None:
    """Write a gap; a second time changes nothing."""
    await connection.execute(
        "INSERT INTO decision_gap VALUES ($1, $2, $3, $4, $5, volenti.now()) ON CONFLICT DO NOTHING",
        workspace_id, gap.gap_id, gap.from_at, gap.to_at, gap.number,
    )  # fmt: skip


async def gaps(connection: Connection, workspace_id: UUID, *, since: datetime, until: datetime) -> list[Gap]:
    """The workspace's gaps that touch since <= time < until, oldest first."""
    rows = await connection.fetch(
        "SELECT gap_id, from_at, to_at, number FROM decision_gap WHERE workspace_id = $1 AND to_at >= $2 AND from_at < $3 ORDER BY from_at, gap_id",
        workspace_id, since, until,
    )  # fmt: skip
    return [Gap(*row) for row in rows]


async def prune_gaps(connection: Connection, workspace_id: UUID, keep_days: int) -> int:
    """Delete the gaps older than so many days; returns how many."""
    tag: str = await connection.execute(
        "DELETE FROM decision_gap WHERE workspace_id = $1 AND to_at < volenti.now() - make_interval(days => $2)",
        workspace_id, keep_days,
    )  # fmt: skip
    return int(tag.rpartition(" ")[2])


def time_of(decision_id: UUID) -> datetime:
    """The instant that a UUIDv7 carries; of any other id some instant."""
    return _EPOCH + timedelta(milliseconds=min(decision_id.int >> 80, 253_402_300_799_999))  # 9999 ends there


def _row(row: Any) -> DecisionRow:
    members = dict(zip(_MEMBERS, row, strict=True))
    return DecisionRow(**{**members, "reasons": tuple(members["reasons"]), "evidence": tuple(members["evidence"])})
