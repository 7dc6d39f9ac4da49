"""Issue and revoke credentials; each is a ledger entry, and effective on every replica within a second."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import msgspec

from volenti.core.policy.document import Action
from volenti.errors import Invalid, NotFound
from volenti.flows.administer import Change, change
from volenti.flows.clock import boot_seconds, instant, rfc3339
from volenti.flows.services import Services
from volenti.keys.blind import credential_mac
from volenti.keys.credential import mint, parse
from volenti.store import credentials, ledger
from volenti.store.credentials import Credential
from volenti.store.journal import Line

SCOPES = (
    "check", "decisions:read", "consents:write", "consents:read", "preferences:write", "contacts:write", "signals:write", "links:create",
    "sessions:create", "imports:write", "policy:read", "policy:write", "ledger:read", "audit:export", "data_subjects:erase", "webhooks:write", "admin",
)  # fmt: skip

REVOKED = "credential.revoked"
CACHED_SECONDS = 0.5
"""How long a process believes what it read about a credential: well under the second within which a revocation binds."""
_CACHED = 10_000


class Issued(msgspec.Struct, frozen=True):
    """A new credential. The secret is shown once and is not stored."""

    credential_id: str
    secret: str


async def issue(
    services: Services,
    workspace_id: UUID,
    *,
    component: str,
    scopes: Iterable[str],
    purposes: Iterable[str] | None = None,
    actions: Iterable[str] | None = None,
    expires_at: int | None = None,
) -> Issued:
    """Issue a credential. Raises Invalid for an unknown scope or action, or a component's name that does not fit."""
    async with change(services, workspace_id) as transaction:
        return await issue_within(
            transaction, component=component, scopes=scopes, purposes=purposes, actions=actions, expires_at=expires_at
        )


async def issue_within(
    transaction: Change,
    *,
    component: str,
    scopes: Iterable[str],
    purposes: Iterable[str] | None = None,
    actions: Iterable[str] | None = None,
    expires_at: int | None = None,
) -> Issued:
    """The same within an open change, whose last statement it is."""
    services = transaction.services
    unknown = [scope for scope in scopes if scope not in SCOPES] or [
        action for action in actions or () if action not in list(Action)
    ]
    if unknown:
        raise Invalid(f"there is no scope or action {unknown[0]!r}; the scopes are {', '.join(SCOPES)}")
    if not (component and len(component) <= 64 and component.isascii() and component.isprintable()) or not list(scopes):
        raise Invalid("a credential names a component (at most 64 printable ASCII characters) and at least one scope")
    credential_id = services.new_id()
    secret = mint(credential_id.bytes, services.entropy(32))
    credential = Credential(
        transaction.workspace_id, credential_id, component, tuple(sorted(scopes)), None if purposes is None else tuple(sorted(purposes)),
        None if actions is None else tuple(sorted(actions)), None if expires_at is None else instant(expires_at), None,
    )  # fmt: skip
    mac = credential_mac(services.keyring.pepper, secret)
    await credentials.issue(transaction.connection, credential, mac, instant(transaction.now))
    head = await ledger.head(transaction.connection, transaction.workspace_id)
    await transaction.record(
        "credential.issued", issued_payload(credential, mac), entry_id=services.new_id(), log_id=head.log_id
    )
    return Issued(str(credential_id), secret)


def issued_payload(credential: Credential, mac: bytes) -> dict[str, Any]:
    """What the ledger says of an issued credential: the whole row, so that a changed row is found."""
    payload: dict[str, Any] = {
        "credential": str(credential.credential_id),
        "component": credential.component,
        "scopes": sorted(credential.scopes),
        "mac": mac.hex(),
    }
    if credential.purposes is not None:
        payload["purposes"] = sorted(credential.purposes)
    if credential.actions is not None:
        payload["actions"] = sorted(credential.actions)
    if credential.expires_at is not None:
        payload["expires_at"] = rfc3339(round(credential.expires_at.timestamp() * 1000))
    return payload


async def revoke(services: Services, workspace_id: UUID, credential_id: UUID) -> None:
    """Revoke a credential. Raises NotFound if it does not exist or is revoked already.

    The journal has the revocation before the ledger does, so that no old backup brings the credential back.
    """
    entry_id = services.new_id()
    async with change(services, workspace_id) as transaction:
        if not await credentials.revoke(transaction.connection, workspace_id, credential_id, instant(transaction.now)):
            raise NotFound("there is no such credential, or it is revoked already")
        head = await ledger.head(transaction.connection, workspace_id)
        if services.journal is not None:
            now, name = transaction.now, str(credential_id)
            await services.journal.write([Line(head.origin, -1, str(entry_id), REVOKED, now, now, credential=name)])
        await transaction.record(REVOKED, {"credential": str(credential_id)}, entry_id=entry_id, log_id=head.log_id)


class Authenticator:
    """Tells who a secret belongs to, from memory for at most CACHED_SECONDS after it was read."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._known: dict[bytes, tuple[float, Credential | None]] = {}

    async def __call__(self, secret: str) -> Credential | None:
        """The live credential of a secret, else None. Raises Unavailable if it would have to be read and cannot be."""
        if parse(secret) is None:  # shape or checksum: a typo or a guess never reaches the database
            return None
        services = self._services
        mac = credential_mac(services.keyring.pepper, secret)
        read_at, credential = self._known.get(mac, (0.0, None))
        if boot_seconds() - read_at > CACHED_SECONDS:
            read_at = boot_seconds()  # when the question is sent, not when it is answered
            async with services.database.connection("volenti_app") as connection:
                credential = await credentials.find(connection, mac)
            if len(self._known) >= _CACHED:
                self._known.clear()
            self._known[mac] = (read_at, credential)
        return credential if credential is not None and credential.live(instant(services.clock())) else None
