"""The one append call, and reads of heads, entries, tiles and checkpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from volenti.core.ledger.tile import FULL_WIDTH
from volenti.errors import LedgerDamaged, NotFound
from volenti.store.database import Connection, streamed
from volenti.store.journal import Line

Verdict = Literal["appended", "duplicate", "again", "key_reused", "conflict", "clock"]


class PendingEntry(msgspec.Struct, frozen=True):
    """An entry to append: the exact leaf bytes, the signed time, and the payload's stored body."""

    id: UUID
    at: datetime
    leaf: bytes
    holder: UUID | None
    body: bytes


class PendingHolder(msgspec.Struct, frozen=True):
    """A holder whose state an item changes: the revision it was folded from, and the sealed state after the item.

    `position` counts from 1 and names the holder's last entry in the item.
    """

    holder: UUID
    expected_revision: int
    position: int
    last_entry: UUID
    sealed: bytes


class NewHolder(msgspec.Struct, frozen=True):
    """A person seen for the first time, with the wrapped key."""

    holder: UUID
    wrapped_key: bytes


class IdentifierChange(msgspec.Struct, frozen=True):
    """An identifier's binding, from the holder it is bound to now (None: nobody) to the one it is to be bound to."""

    blind_index: bytes
    bound_to: UUID | None
    bind_to: UUID | None
    sealed: bytes | None


class IdempotencyRow(msgspec.Struct, frozen=True):
    """What makes a retry answer as the first time did: HMACs of key and request, and the sealed answer."""

    credential_id: UUID
    key: bytes
    fingerprint: bytes
    answer: bytes


class Item(msgspec.Struct, frozen=True):
    """One request's entries, all or nothing."""

    entries: tuple[PendingEntry, ...]
    holders: tuple[PendingHolder, ...] = ()
    new_holders: tuple[NewHolder, ...] = ()
    identifiers: tuple[IdentifierChange, ...] = ()
    idempotency: IdempotencyRow | None = None
    journal: tuple[Line, ...] = ()
    """What the withdrawal journal must hold before the item is acknowledged; `index` counts within the item."""


class ItemResult(msgspec.Struct, frozen=True):
    """What became of an item. Positions are given for `appended` and `duplicate`; `answer` if an idempotency row holds one."""

    verdict: Verdict
    first_index: int | None
    entry_count: int | None
    answer: bytes | None
    tree_size: int


class Head(msgspec.Struct, frozen=True):
    """A log's committed tree head."""

    workspace_id: UUID
    log_id: int
    size: int
    root: bytes
    origin: str
    state: Literal["active", "frozen", "sealed"]


class StoredEntry(msgspec.Struct, frozen=True):
    """An entry as it is stored."""

    index: int
    id: UUID
    leaf_hash: bytes
    leaf: bytes


_APPEND = f"SELECT item, verdict, first_index, entry_count, answer, tree_size FROM ledger_append({', '.join(f'${n}' for n in range(1, 28))})"


async def append(connection: Connection, workspace_id: UUID, log_id: int, items: Sequence[Item]) -> list[ItemResult]:
    """Append items to a log in one statement; the result has one row an item, in order.

    Outside a transaction the statement commits by itself: when this returns, what was `appended` is durable. Inside
    one (administrative changes) it MUST be the last statement. An exception of a lost connection means that the
    outcome is unknown: send the same items again.
    """
    numbered = list(enumerate(items, 1))
    idempotency = [item.idempotency for item in items]
    new = [(n, holder) for n, item in numbered for holder in item.new_holders]
    changes = [(n, change) for n, item in numbered for change in item.identifiers]
    holders = [(n, holder) for n, item in numbered for holder in item.holders]
    entries = [(n, entry) for n, item in numbered for entry in item.entries]
    rows = await connection.fetch(
        _APPEND,
        workspace_id,
        log_id,
        [row and row.credential_id for row in idempotency],
        [row and row.key for row in idempotency],
        [row and row.fingerprint for row in idempotency],
        [row and row.answer for row in idempotency],
        [n for n, _ in new],
        [holder.holder for _, holder in new],
        [holder.wrapped_key for _, holder in new],
        [None for _ in new],  # addresses as holders come with suppressions
        [n for n, _ in changes],
        [change.blind_index for _, change in changes],
        [change.bound_to for _, change in changes],
        [change.bind_to for _, change in changes],
        [change.sealed for _, change in changes],
        [n for n, _ in holders],
        [holder.holder for _, holder in holders],
        [holder.expected_revision for _, holder in holders],
        [holder.position for _, holder in holders],
        [holder.last_entry for _, holder in holders],
        [holder.sealed for _, holder in holders],
        [n for n, _ in entries],
        [entry.holder for _, entry in entries],
        [entry.id for _, entry in entries],
        [entry.leaf for _, entry in entries],
        [entry.at for _, entry in entries],
        [entry.body for _, entry in entries],
    )
    return [ItemResult(row[1], row[2], row[3], row[4], row[5]) for row in rows]


async def open_log(connection: Connection, workspace_id: UUID, origin: str) -> int:
    """Start a workspace's log, or take a frozen one up again; returns its number."""
    number: int = await connection.fetchval("SELECT ledger_open($1, $2)", workspace_id, origin)
    return number


async def freeze(connection: Connection, workspace_id: UUID, log_id: int) -> None:
    """Stop a log after the append in flight: it takes no entries until it is recovered."""
    await connection.execute("SELECT ledger_freeze($1, $2)", workspace_id, log_id)


async def heads(connection: Connection) -> list[Head]:
    """The committed heads of every workspace's logs, in one statement."""
    return [
        Head(**dict(row))
        for row in await connection.fetch(
            "SELECT workspace_id, log_id, size, root, origin, state FROM poll_heads() ORDER BY 1, 2"
        )
    ]


async def head(connection: Connection, workspace_id: UUID) -> Head:
    """The head of the workspace's newest log. Raises NotFound if it has none."""
    row = await connection.fetchrow(
        "SELECT h.workspace_id, h.log_id, h.size, h.root, l.origin, l.state FROM ledger_head h JOIN ledger_log l USING (workspace_id, log_id)"
        " WHERE h.workspace_id = $1 ORDER BY h.log_id DESC LIMIT 1",
        workspace_id,
    )
    if row is None:
        raise NotFound("the workspace has no ledger")
    return Head(**dict(row))


async def logs(connection: Connection, workspace_id: UUID) -> list[Head]:
    """The heads of all logs of a workspace, the oldest first; all but the newest are sealed."""
    rows = await connection.fetch(
        "SELECT h.workspace_id, h.log_id, h.size, h.root, l.origin, l.state FROM ledger_head h JOIN ledger_log l USING (workspace_id, log_id)"
        " WHERE h.workspace_id = $1 ORDER BY h.log_id",
        workspace_id,
    )
    return [Head(*row) for row in rows]


async def head_and_frontier(connection: Connection, workspace_id: UUID, log_id: int) -> tuple[Head, list[bytes]]:
    """The head of a log, and the roots of its perfect subtrees, largest first: of one instant, in one statement.

    Raises NotFound if the workspace has no such log.
    """
    row = await connection.fetchrow(
        "SELECT h.workspace_id, h.log_id, h.size, h.root, l.origin, l.state, h.frontier FROM ledger_head h JOIN ledger_log l"
        " USING (workspace_id, log_id) WHERE h.workspace_id = $1 AND h.log_id = $2",
        workspace_id,
        log_id,
    )
    if row is None:
        raise NotFound("the workspace has no such ledger")
    return Head(*row[:6]), list(row[6])


async def frontier(connection: Connection, workspace_id: UUID, log_id: int) -> list[bytes]:
    """The same of any log, for a snapshot, in which head and frontier cannot differ."""
    statement = "SELECT frontier FROM ledger_head WHERE workspace_id = $1 AND log_id = $2"
    return list(await connection.fetchval(statement, workspace_id, log_id) or [])


async def entry(connection: Connection, workspace_id: UUID, log_id: int, key: int | UUID) -> StoredEntry:
    """An entry by its index or its id. Raises NotFound."""
    column = "idx" if isinstance(key, int) else "entry_id"
    row = await connection.fetchrow(
        f"SELECT idx, entry_id, leaf_hash, leaf FROM ledger_entry WHERE workspace_id = $1 AND log_id = $2 AND {column} = $3",
        workspace_id, log_id, key,
    )  # fmt: skip
    if row is None:
        raise NotFound("the ledger has no such entry")
    return StoredEntry(*row)


async def entries(connection: Connection, workspace_id: UUID, log_id: int, first: int, last: int) -> list[StoredEntry]:
    """The entries with first <= index < last, in index order, at most as many as exist."""
    rows = await connection.fetch(
        "SELECT idx, entry_id, leaf_hash, leaf FROM ledger_entry WHERE workspace_id = $1 AND log_id = $2 AND idx >= $3 AND idx < $4 ORDER BY idx",
        workspace_id, log_id, first, last,
    )  # fmt: skip
    return [StoredEntry(*row) for row in rows]


async def all_entries(connection: Connection, workspace_id: UUID, log_id: int) -> AsyncIterator[StoredEntry]:
    """Every entry in index order, through a server-side cursor: constant memory. Needs a transaction."""
    statement = (
        "SELECT idx, entry_id, leaf_hash, leaf FROM ledger_entry WHERE workspace_id = $1 AND log_id = $2 ORDER BY idx"
    )
    async for row in streamed(connection, statement, workspace_id, log_id):
        yield StoredEntry(*row)


async def tiles(connection: Connection, workspace_id: UUID, log_id: int) -> dict[tuple[int, int], tuple[bytes, bytes]]:
    """Every full tile: (level, index) -> (root, hashes)."""
    rows = await connection.fetch(
        "SELECT level, idx, root, hashes FROM ledger_tile WHERE workspace_id = $1 AND log_id = $2", workspace_id, log_id
    )
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


async def tile_hashes(
    connection: Connection, workspace_id: UUID, log_id: int, level: int, index: int, width: int
) -> bytes:
    """The first `width` hashes (1 to 256, 32 bytes each) of a tile, full or at the edge of the tree.

    Raises LedgerDamaged if a hash that a tree of the head's size must have is missing: a stored tree has no holes.
    """
    first = index * FULL_WIDTH
    if width == FULL_WIDTH:
        hashes = await connection.fetchval(
            "SELECT hashes FROM ledger_tile WHERE workspace_id = $1 AND log_id = $2 AND level = $3 AND idx = $4",
            workspace_id,
            log_id,
            level,
            index,
        )
    elif level == 0:
        hashes = await connection.fetchval(
            "SELECT string_agg(leaf_hash, ''::bytea ORDER BY idx) FROM ledger_entry WHERE workspace_id = $1 AND log_id = $2 AND idx >= $3 AND idx < $4",
            workspace_id, log_id, first, first + width,
        )  # fmt: skip
    else:
        hashes = await connection.fetchval(
            "SELECT string_agg(root, ''::bytea ORDER BY idx) FROM ledger_tile WHERE workspace_id = $1 AND log_id = $2 AND level = $3 AND idx >= $4 AND idx < $5",
            workspace_id, log_id, level - 1, first, first + width,
        )  # fmt: skip
    if hashes is None or len(hashes) != width * 32:
        raise LedgerDamaged(f"tile {index} of level {level} is missing or short")
    return bytes(hashes)


class StoredCheckpoint(msgspec.Struct, frozen=True):
    """A signed tree head as it is stored."""

    size: int
    root: bytes
    note: str
    signed_at: datetime


async def checkpoint(
    connection: Connection, workspace_id: UUID, log_id: int, *, covering: int = 0
) -> StoredCheckpoint | None:
    """The newest signed checkpoint, if its size is at least `covering`; else None."""
    row = await connection.fetchrow(
        "SELECT size, root, note, signed_at FROM ledger_checkpoint WHERE workspace_id = $1 AND log_id = $2 AND size >= $3 ORDER BY size DESC LIMIT 1",
        workspace_id, log_id, covering,
    )  # fmt: skip
    return None if row is None else StoredCheckpoint(*row)


async def checkpoints(connection: Connection, workspace_id: UUID, log_id: int) -> list[StoredCheckpoint]:
    """Every signed checkpoint, by size."""
    rows = await connection.fetch(
        "SELECT size, root, note, signed_at FROM ledger_checkpoint WHERE workspace_id = $1 AND log_id = $2 ORDER BY size",
        workspace_id,
        log_id,
    )
    return [StoredCheckpoint(*row) for row in rows]


async def put_checkpoint(
    connection: Connection, workspace_id: UUID, log_id: int, *, size: int, root: bytes, note: str
) -> StoredCheckpoint:
    """Store a signed checkpoint; returns what the log has for that size, which is another one if somebody was faster."""
    await connection.execute(
        "INSERT INTO ledger_checkpoint VALUES ($1, $2, $3, $4, $5, volenti.now()) ON CONFLICT DO NOTHING",
        workspace_id,
        log_id,
        size,
        root,
        note,
    )
    row = await connection.fetchrow(
        "SELECT size, root, note, signed_at FROM ledger_checkpoint WHERE workspace_id = $1 AND log_id = $2 AND size = $3",
        workspace_id,
        log_id,
        size,
    )
    return StoredCheckpoint(*row)


async def prune_changes(connection: Connection, workspace_id: UUID) -> int:
    """Delete the change feed's rows older than 24 hours; returns how many."""
    tag: str = await connection.execute(
        "DELETE FROM ledger_change c USING (SELECT log_id, max(idx) AS idx FROM ledger_entry WHERE workspace_id = $1"
        " AND inserted_at < volenti.now() - interval '24 hours' GROUP BY log_id) old"
        " WHERE c.workspace_id = $1 AND c.log_id = old.log_id AND c.idx <= old.idx",
        workspace_id,
    )
    return int(tag.rpartition(" ")[2])


async def orphans(connection: Connection, workspace_id: UUID) -> dict[str, int]:
    """How many rows, by table, are of a log that the workspace does not have."""
    counts = {
        table: await connection.fetchval(
            f"SELECT count(*) FROM {table} r WHERE r.workspace_id = $1 AND NOT EXISTS (SELECT FROM ledger_log l"
            " WHERE l.workspace_id = $1 AND l.log_id = r.log_id)",
            workspace_id,
        )
        for table in ("ledger_head", "ledger_entry", "ledger_tile", "ledger_checkpoint")
    }
    return {table: count for table, count in counts.items() if count}


async def places(connection: Connection, workspace_id: UUID, ids: Collection[UUID]) -> dict[UUID, tuple[int, int]]:
    """Where entries stand, by id: the number of the log and the index in it."""
    rows = await connection.fetch(
        "SELECT entry_id, log_id, idx FROM ledger_log l JOIN ledger_entry e USING (workspace_id, log_id)"
        " WHERE l.workspace_id = $1 AND e.entry_id = ANY($2)",
        workspace_id, list(ids),
    )  # fmt: skip
    return {row[0]: (row[1], row[2]) for row in rows}
