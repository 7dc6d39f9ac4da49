"""Published policies and notices: versioned and immutable."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from volenti.core.policy.notice import PublishedNotice
from volenti.errors import NotFound
from volenti.store.database import Connection


class PolicyVersion(msgspec.Struct, frozen=True):
    """One published version: the canonical document that was hashed, and the YAML that its author wrote."""

    version: int
    hash: bytes
    document: bytes
    source: str
    published_at: datetime
    entry_id: UUID


_COLUMNS = "version, hash, document, source, published_at, entry_id"


async def version(connection: Connection, workspace_id: UUID, number: int) -> PolicyVersion:
    """A version by its number. Raises NotFound."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM policy_version WHERE workspace_id = $1 AND version = $2", workspace_id, number
    )
    if row is None:
        raise NotFound("no such policy version was published")
    return PolicyVersion(*row)


async def versions(connection: Connection, workspace_id: UUID) -> list[PolicyVersion]:
    """Every published version, oldest first."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM policy_version WHERE workspace_id = $1 ORDER BY version", workspace_id
    )
    return [PolicyVersion(*row) for row in rows]


async def notices(connection: Connection, workspace_id: UUID, *, up_to: int) -> list[PublishedNotice]:
    """The notice versions that were published with policy version `up_to` or before."""
    rows = await connection.fetch(
        "SELECT notice, version, change, hash, published_at FROM notice_version WHERE workspace_id = $1 AND policy_version <= $2 ORDER BY notice, version",
        workspace_id, up_to,
    )  # fmt: skip
    return [msgspec.convert(dict(row), PublishedNotice) for row in rows]


class NoticeRow(msgspec.Struct, frozen=True):
    """A published notice version as it is stored, whatever its columns hold."""

    notice: str
    version: int
    change: str
    hash: bytes
    policy_version: int
    published_at: datetime


async def notice_rows(connection: Connection, workspace_id: UUID) -> list[NoticeRow]:
    """Every stored notice version."""
    rows = await connection.fetch(
        "SELECT notice, version, change, hash, policy_version, published_at FROM notice_version WHERE workspace_id = $1",
        workspace_id,
    )
    return [NoticeRow(*row) for row in rows]


async def publish(
    connection: Connection, workspace_id: UUID, policy: PolicyVersion, new_notices: list[PublishedNotice]
) -> None:
    """Insert a version with the notice versions that are new in it."""
    await connection.execute(
        "INSERT INTO policy_version VALUES ($1, $2, $3, $4, $5, $6, $7)",
        workspace_id, policy.version, policy.hash, policy.document, policy.source, policy.published_at, policy.entry_id,
    )  # fmt: skip
    await connection.executemany(
        "INSERT INTO notice_version VALUES ($1, $2, $3, $4, $5, $6, $7)",
        [
            (
                workspace_id,
                notice.notice,
                notice.version,
                notice.change,
                notice.hash,
                policy.version,
                policy.published_at,
            )
            for notice in new_notices
        ],
    )
