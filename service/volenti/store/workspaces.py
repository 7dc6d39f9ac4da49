"""Workspaces and the deployment that they live in."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from volenti.errors import NotFound
from volenti.store.database import Connection


class Workspace(msgspec.Struct, frozen=True):
    """One controller or brand: its name and its wrapped key."""

    workspace_id: UUID
    name: str
    wrapped_key: bytes


class Deployment(msgspec.Struct, frozen=True):
    """What binds a database to its keys, and the clock if it stands."""

    key_fingerprint: bytes
    epoch: int
    test_clock: datetime | None


async def deployment(connection: Connection) -> Deployment | None:
    """The deployment's row; None in a database that no key file was bound to yet."""
    row = await connection.fetchrow("SELECT key_fingerprint, epoch, test_clock FROM deployment")
    return None if row is None else Deployment(*row)


async def epoch(connection: Connection) -> int:
    """The deployment's epoch: 1, and one more after each recovery."""
    return int(await connection.fetchval("SELECT epoch FROM deployment"))


async def raise_epoch(connection: Connection) -> int:
    """Begin the next epoch, after a recovery; returns it."""
    return int(await connection.fetchval("UPDATE deployment SET epoch = epoch + 1 RETURNING epoch"))


async def has_settings(connection: Connection, workspace_id: UUID) -> bool:
    """True if the workspace has settings of its own."""
    return bool(
        await connection.fetchval("SELECT settings <> '{}' FROM workspace WHERE workspace_id = $1", workspace_id)
    )


async def bind_keys(connection: Connection, fingerprint: bytes, test_clock: datetime | None) -> None:
    """Bind the database to a key ring, once; a second call changes nothing."""
    await connection.execute(
        "INSERT INTO deployment VALUES (true, $1, 1, $2) ON CONFLICT DO NOTHING", fingerprint, test_clock
    )


async def set_test_clock(connection: Connection, now: datetime) -> bool:
    """Move a standing clock forward. False if the clock does not stand, or is later already."""
    return bool(
        await connection.fetchval("UPDATE deployment SET test_clock = $1 WHERE test_clock <= $1 RETURNING true", now)
    )


async def create(connection: Connection, workspace: Workspace) -> None:
    """Insert a workspace. Raises LedgerDamaged through `translated` if the name is taken: look first."""
    await connection.execute(
        "INSERT INTO workspace VALUES ($1, $2, $3, '{}')", workspace.workspace_id, workspace.name, workspace.wrapped_key
    )


async def by_name(connection: Connection, name: str) -> Workspace:
    """A workspace by its name; only the administrative role sees all. Raises NotFound."""
    row = await connection.fetchrow("SELECT workspace_id, name, wrapped_key FROM workspace WHERE name = $1", name)
    if row is None:
        raise NotFound(f"there is no workspace {name}")
    return Workspace(*row)


async def by_id(connection: Connection, workspace_id: UUID) -> Workspace:
    """A workspace by its id. Raises NotFound."""
    row = await connection.fetchrow(
        "SELECT workspace_id, name, wrapped_key FROM workspace WHERE workspace_id = $1", workspace_id
    )
    if row is None:
        raise NotFound("there is no such workspace")
    return Workspace(*row)


async def names(connection: Connection) -> list[Workspace]:
    """All workspaces, by name; only the administrative role sees all."""
    return [
        Workspace(*row)
        for row in await connection.fetch("SELECT workspace_id, name, wrapped_key FROM workspace ORDER BY name")
    ]
