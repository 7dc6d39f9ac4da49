"""Credentials: only an HMAC of the secret is stored; what changes is that one is revoked."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from volenti.store.database import Connection


class Credential(msgspec.Struct, frozen=True):
    """Who calls and what it may do. `purposes` and `actions` None: all."""

    workspace_id: UUID
    credential_id: UUID
    component: str
    scopes: tuple[str, ...]
    purposes: tuple[str, ...] | None
    actions: tuple[str, ...] | None
    expires_at: datetime | None
    revoked_at: datetime | None

    def live(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def _credential(row: object) -> Credential:
    return msgspec.convert(row, Credential, strict=False, from_attributes=False)


async def find(connection: Connection, mac: bytes) -> Credential | None:
    """The credential with this HMAC, before its workspace is known."""
    row = await connection.fetchrow("SELECT * FROM find_credential($1)", mac)
    return None if row is None else _credential(dict(row))


async def issue(connection: Connection, credential: Credential, mac: bytes, now: datetime) -> None:
    """Insert a credential."""
    await connection.execute(
        "INSERT INTO credential VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, NULL)",
        credential.workspace_id, credential.credential_id, credential.component, list(credential.scopes),
        None if credential.purposes is None else list(credential.purposes), None if credential.actions is None else list(credential.actions),
        mac, now, credential.expires_at,
    )  # fmt: skip


async def revoke(connection: Connection, workspace_id: UUID, credential_id: UUID, now: datetime) -> bool:
    """Revoke a credential; False if it does not exist or is revoked already."""
    statement = "UPDATE credential SET revoked_at = $3 WHERE workspace_id = $1 AND credential_id = $2 AND revoked_at IS NULL RETURNING true"
    return bool(await connection.fetchval(statement, workspace_id, credential_id, now))


async def of_workspace(connection: Connection, workspace_id: UUID) -> list[tuple[Credential, bytes]]:
    """A workspace's credentials with their HMACs, by component."""
    rows = await connection.fetch(
        "SELECT workspace_id, credential_id, component, scopes, purposes, actions, expires_at, revoked_at, mac FROM credential"
        " WHERE workspace_id = $1 ORDER BY component, credential_id",
        workspace_id,
    )
    return [(_credential({key: value for key, value in row.items() if key != "mac"}), row["mac"]) for row in rows]
