"""People as they are stored: states, identifiers and payloads, all sealed; found by blind index."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from volenti.errors import NotFound
from volenti.store.database import Connection, streamed


class Ground(msgspec.Struct, frozen=True):
    """What an answer stands on: the log, its committed size, the epoch, the policy in force and the database's clock."""

    log_id: int
    log_state: str
    size: int
    epoch: int
    policy_version: int | None
    """The version in force at `at`; None: none is."""
    at: datetime
    origin: str
    policy_activation: int | None = None
    """The activation by which it is."""
    policy_until: datetime | None = None
    """When the next activation comes; None: none is scheduled."""


class StoredState(msgspec.Struct, frozen=True):
    """A holder's row: the wrapped key, the revision (index of the last entry + 1) and the sealed state."""

    holder: UUID
    wrapped_key: bytes
    revision: int
    last_entry: UUID
    sealed: bytes


class Payload(msgspec.Struct, frozen=True):
    """An entry of a holder with its sealed payload, as stored."""

    log_id: int
    index: int
    entry_id: UUID
    leaf: bytes
    body: bytes


async def find(
    connection: Connection, workspace_id: UUID, indexes: Sequence[bytes]
) -> tuple[Ground, dict[bytes, StoredState]]:
    """The ground and, by blind index, the states of those who are known: one round trip, one snapshot.

    Relies on the primary keys of `data_subject_identifier` and `data_subject_state`. Raises NotFound if the workspace
    has no ledger.
    """
    rows = await connection.fetch("SELECT * FROM find_states($1, $2)", workspace_id, indexes)
    if not rows:
        raise NotFound("the workspace has no ledger")
    found = {row[7]: StoredState(row[8], row[9], row[10], row[11], row[12]) for row in rows if row[8] is not None}
    return Ground(*rows[0][:7], *rows[0][13:]), found


async def by_holder(connection: Connection, workspace_id: UUID, holder: UUID) -> StoredState:
    """A holder's state. Raises NotFound."""
    row = await connection.fetchrow(
        "SELECT s.holder, d.wrapped_key, s.revision, s.last_entry_id, s.sealed FROM data_subject_state s JOIN data_subject d USING (workspace_id, holder)"
        " WHERE s.workspace_id = $1 AND s.holder = $2",
        workspace_id, holder,
    )  # fmt: skip
    if row is None:
        raise NotFound("no such data subject")
    return StoredState(*row)


async def payloads(connection: Connection, workspace_id: UUID, holder: UUID) -> list[Payload]:
    """A holder's entries with their sealed payloads, in ledger order."""
    rows = await connection.fetch(
        "SELECT x.log_id, x.idx, e.entry_id, e.leaf, p.body FROM data_subject_entry x JOIN ledger_entry e USING (workspace_id, log_id, idx)"
        " JOIN entry_payload p USING (workspace_id, log_id, idx) WHERE x.workspace_id = $1 AND x.holder = $2 ORDER BY x.log_id, x.idx",
        workspace_id, holder,
    )  # fmt: skip
    return [Payload(*row) for row in rows]


async def holders(connection: Connection, workspace_id: UUID) -> list[UUID]:
    """Everybody with a key, a state or an entry: a row that lost its others is among them."""
    rows = await connection.fetch(
        "SELECT holder FROM data_subject WHERE workspace_id = $1 UNION SELECT holder FROM data_subject_state WHERE workspace_id = $1"
        " UNION SELECT holder FROM data_subject_entry WHERE workspace_id = $1 ORDER BY 1",
        workspace_id,
    )
    return [row[0] for row in rows]


async def bound(connection: Connection, workspace_id: UUID, indexes: Collection[bytes]) -> set[bytes]:
    """Which of these blind indexes are bound to somebody, by the primary key."""
    rows = await connection.fetch(
        "SELECT blind_index FROM data_subject_identifier WHERE workspace_id = $1 AND blind_index = ANY($2)",
        workspace_id,
        list(indexes),
    )
    return {row[0] for row in rows}


async def identifiers(connection: Connection, workspace_id: UUID) -> dict[bytes, tuple[UUID, bytes | None]]:
    """Every identifier: blind index -> (holder, sealed value)."""
    rows = await connection.fetch(
        "SELECT blind_index, holder, sealed FROM data_subject_identifier WHERE workspace_id = $1", workspace_id
    )
    return {row[0]: (row[1], row[2]) for row in rows}


class EntryNeighbours(msgspec.Struct, frozen=True):
    """An entry with everything that stands beside it under the same index."""

    index: int
    entry_id: UUID
    leaf: bytes
    body: bytes | None
    holder: UUID | None
    """Of `data_subject_entry`."""
    in_feed: bool
    feed_holder: UUID | None


async def neighbours(connection: Connection, workspace_id: UUID, log_id: int) -> AsyncIterator[EntryNeighbours]:
    """Every entry of a log with its payload, holder and change row, in index order. Needs a transaction."""
    statement = (
        "SELECT e.idx, e.entry_id, e.leaf, p.body, x.holder, c.idx IS NOT NULL, c.holder FROM ledger_entry e"
        " LEFT JOIN entry_payload p USING (workspace_id, log_id, idx) LEFT JOIN data_subject_entry x USING (workspace_id, log_id, idx)"
        " LEFT JOIN ledger_change c USING (workspace_id, log_id, idx) WHERE e.workspace_id = $1 AND e.log_id = $2 ORDER BY e.idx"
    )
    async for row in streamed(connection, statement, workspace_id, log_id):
        yield EntryNeighbours(*row)


async def lineages(connection: Connection, workspace_id: UUID) -> AsyncIterator[tuple[UUID, Payload]]:
    """Every holder's entries with their sealed payloads, holder by holder, in ledger order. Needs a transaction.

    Follows the primary key of `data_subject_entry`, so that one holder at a time is in memory.
    """
    statement = (
        "SELECT x.holder, x.log_id, x.idx, e.entry_id, e.leaf, p.body FROM data_subject_entry x JOIN ledger_entry e USING (workspace_id, log_id, idx)"
        " JOIN entry_payload p USING (workspace_id, log_id, idx) WHERE x.workspace_id = $1 ORDER BY x.holder, x.log_id, x.idx"
    )
    async for row in streamed(connection, statement, workspace_id):
        yield row[0], Payload(*row[1:])


async def strays(connection: Connection, workspace_id: UUID) -> dict[str, int]:
    """How many rows, by table, stand beside no entry of the workspace's logs."""
    beside = ("ledger_change", "entry_payload", "data_subject_entry")
    counts = {
        table: await connection.fetchval(
            f"SELECT count(*) FROM {table} t WHERE t.workspace_id = $1 AND NOT EXISTS (SELECT FROM ledger_entry e"
            " WHERE e.workspace_id = $1 AND e.log_id = t.log_id AND e.idx = t.idx)",
            workspace_id,
        )
        for table in beside
    }
    counts["suppression"] = await connection.fetchval(
        "SELECT count(*) FROM suppression WHERE workspace_id = $1", workspace_id
    )
    return {table: count for table, count in counts.items() if count}
