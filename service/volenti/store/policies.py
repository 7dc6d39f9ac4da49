"""Published policies and notices, and when they are in force: versioned and immutable."""

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


class Activation(msgspec.Struct, frozen=True):
    """A version is in force from an instant on, until the next activation. Of the same instant the larger number counts."""

    number: int
    version: int
    active_from: datetime
    recorded_at: datetime
    entry_id: UUID


class InForce(msgspec.Struct, frozen=True):
    """The activation that decides at an instant, how many activations were known, and the deployment's epoch."""

    activation: Activation
    known: int
    epoch: int


_COLUMNS = "version, hash, document, source, published_at, entry_id"
_ACTIVATION = "number, version, active_from, recorded_at, entry_id"


async def version(connection: Connection, workspace_id: UUID, number: int) -> PolicyVersion:
    """A version by its number. Raises NotFound."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM policy_version WHERE workspace_id = $1 AND version = $2", workspace_id, number
    )
    if row is None:
        raise NotFound("no such policy version was published")
    return PolicyVersion(*row)


async def publisher(connection: Connection, workspace_id: UUID, notice: str, notice_version: int) -> PolicyVersion:
    """The policy version with which a notice version was published: it holds the words. Raises NotFound."""
    number = await connection.fetchval(
        "SELECT policy_version FROM notice_version WHERE workspace_id = $1 AND notice = $2 AND version = $3",
        workspace_id, notice, notice_version,
    )  # fmt: skip
    if number is None:
        raise NotFound("no such notice version was published")
    return await version(connection, workspace_id, number)


async def versions(connection: Connection, workspace_id: UUID) -> list[PolicyVersion]:
    """Every published version, oldest first."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM policy_version WHERE workspace_id = $1 ORDER BY version", workspace_id
    )
    return [PolicyVersion(*row) for row in rows]


async def newest(connection: Connection, workspace_id: UUID) -> int:
    """The number of the version that was published last; 0 if there is none."""
    return int(
        await connection.fetchval(
            "SELECT coalesce(max(version), 0) FROM policy_version WHERE workspace_id = $1", workspace_id
        )
    )


async def activations(connection: Connection, workspace_id: UUID) -> list[Activation]:
    """Every activation, in the order in which they were recorded."""
    rows = await connection.fetch(
        f"SELECT {_ACTIVATION} FROM policy_activation WHERE workspace_id = $1 ORDER BY number", workspace_id
    )
    return [Activation(*row) for row in rows]


async def activation_of(connection: Connection, workspace_id: UUID, entry_id: UUID) -> Activation:
    """The activation that an entry recorded. Raises NotFound."""
    row = await connection.fetchrow(
        f"SELECT {_ACTIVATION} FROM policy_activation WHERE workspace_id = $1 AND entry_id = $2", workspace_id, entry_id
    )
    if row is None:
        raise NotFound("no activation of the policy has this entry")
    return Activation(*row)


async def in_force(
    connection: Connection, workspace_id: UUID, at: datetime, known_at: datetime | None = None
) -> InForce | None:
    """What decides at an instant, by the activations recorded until `known_at` (None: all); None: nothing does.

    Relies on the index `policy_activation_in_force`. `find_states` gives the same for the present.
    """
    row = await connection.fetchrow(
        f"SELECT k.known, (SELECT epoch FROM deployment), {_ACTIVATION} FROM (SELECT max(b.number) AS known FROM policy_activation b"
        " WHERE b.workspace_id = $1 AND ($3::timestamptz IS NULL OR b.recorded_at <= $3)) k"
        " CROSS JOIN LATERAL (SELECT * FROM policy_activation a WHERE a.workspace_id = $1 AND a.active_from <= $2"
        " AND a.number <= k.known ORDER BY a.active_from DESC, a.number DESC LIMIT 1) f",
        workspace_id, at, known_at,
    )  # fmt: skip
    return None if row is None else InForce(Activation(*row[2:]), *row[:2])


async def now(connection: Connection) -> datetime:
    """The database's clock in whole milliseconds: the only one that says what is in force, so that replicas agree."""
    at: datetime = await connection.fetchval("SELECT date_trunc('milliseconds', volenti.now())")
    return at


# Of two activations of the same instant the first one never came into force.
_BEGAN = (
    "SELECT DISTINCT ON (a.active_from) a.version, a.active_from FROM policy_activation a"
    " WHERE a.workspace_id = $1 AND a.number <= coalesce($2, a.number) ORDER BY a.active_from, a.number DESC"
)


async def came_into_force(connection: Connection, workspace_id: UUID, by: datetime) -> list[PolicyVersion]:
    """Every version that is or was in force at some time until `by`, or will be if nothing else is decided."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM policy_version WHERE workspace_id = $1 AND version IN"
        f" (SELECT version FROM ({_BEGAN}) b WHERE b.active_from <= $3) ORDER BY version",
        workspace_id, None, by,
    )  # fmt: skip
    return [PolicyVersion(*row) for row in rows]


async def notices(
    connection: Connection, workspace_id: UUID, *, up_to: int, known: int | None = None
) -> list[PublishedNotice]:
    """The notice versions that were published with policy version `up_to` or before.

    `published_at` is when the first policy that holds it came into force, by the first `known` activations (None: all):
    before that nobody can have been shown it. None: it never did, and is not scheduled to.
    """
    rows = await connection.fetch(
        f"WITH shown AS MATERIALIZED (SELECT b.active_from, convert_from(p.document, 'UTF8')::jsonb -> 'notices' AS notices"
        f" FROM ({_BEGAN}) b JOIN policy_version p ON p.workspace_id = $1 AND p.version = b.version)"
        " SELECT n.notice, n.version, n.change, n.hash, (SELECT min(s.active_from) FROM shown s"
        " WHERE s.notices -> n.notice ->> 'version' = n.version::text) AS published_at,"
        " coalesce(convert_from(p.document, 'UTF8')::jsonb -> 'notices' -> n.notice -> 'adds', '{}') AS adds"
        " FROM notice_version n JOIN policy_version p ON p.workspace_id = $1 AND p.version = n.policy_version"
        " WHERE n.workspace_id = $1 AND n.policy_version <= $3 ORDER BY n.notice, n.version",
        workspace_id, known, up_to,
    )  # fmt: skip
    return [msgspec.convert({**row, "adds": msgspec.json.decode(row["adds"])}, PublishedNotice) for row in rows]


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


async def activate(
    connection: Connection,
    workspace_id: UUID,
    version: int,
    *,
    active_from: datetime,
    recorded_at: datetime,
    entry_id: UUID,
) -> Activation:
    """Insert an activation under the next number. The caller has the turn to publish."""
    row = await connection.fetchrow(
        f"INSERT INTO policy_activation SELECT $1, coalesce(max(number), 0) + 1, $2, $3, $4, $5 FROM policy_activation"
        f" WHERE workspace_id = $1 RETURNING {_ACTIVATION}",
        workspace_id, version, active_from, recorded_at, entry_id,
    )  # fmt: skip
    return Activation(*row)
