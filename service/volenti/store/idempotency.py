"""Answers that were given, so that a retry is answered as the first time."""

from __future__ import annotations

from uuid import UUID

import msgspec

from volenti.store.database import Connection

KEPT_DAYS = 7


class StoredAnswer(msgspec.Struct, frozen=True):
    """An answer of an earlier request with the same key; positions are kept beside it."""

    fingerprint: bytes
    first_index: int
    entry_count: int
    answer: bytes


async def find(connection: Connection, workspace_id: UUID, credential_id: UUID, key: bytes) -> StoredAnswer | None:
    """The answer stored under a key's HMAC, by the primary key."""
    row = await connection.fetchrow(
        "SELECT fingerprint, first_index, entry_count, answer FROM idempotency WHERE workspace_id = $1 AND credential_id = $2 AND key = $3",
        workspace_id, credential_id, key,
    )  # fmt: skip
    return None if row is None else StoredAnswer(*row)


async def all_rows(connection: Connection, workspace_id: UUID) -> list[tuple[UUID, bytes, StoredAnswer]]:
    """Every stored answer with its credential and key."""
    rows = await connection.fetch(
        "SELECT credential_id, key, fingerprint, first_index, entry_count, answer FROM idempotency WHERE workspace_id = $1",
        workspace_id,
    )
    return [(row[0], row[1], StoredAnswer(*row[2:])) for row in rows]


async def prune(connection: Connection, workspace_id: UUID) -> int:
    """Delete the answers older than seven days; returns how many."""
    tag: str = await connection.execute(
        "DELETE FROM idempotency WHERE workspace_id = $1 AND created_at < volenti.now() - make_interval(days => $2)",
        workspace_id,
        KEPT_DAYS,
    )
    return int(tag.rpartition(" ")[2])
