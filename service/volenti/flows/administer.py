"""Administrative changes: the row and its ledger entry commit in one transaction, outside the appender's batches."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from volenti.core.entry import Leaf, commitment, encode
from volenti.core.ledger.merkle import leaf_hash
from volenti.errors import Conflict, Unavailable
from volenti.flows.clock import instant
from volenti.flows.record_consents import KeyMisused, RecordedEntry, Retry, answer_to_store, seen_since, stored_entries
from volenti.flows.seal_entries import SALT_BYTES
from volenti.flows.services import Services
from volenti.keys.blind import fingerprint_mac, idempotency_mac, workspace_entry_mac
from volenti.keys.sealer import NONCE_BYTES, answer_context, open_sealed, seal
from volenti.store import idempotency, ledger
from volenti.store.database import Connection, translated
from volenti.store.ledger import IdempotencyRow, Item, PendingEntry

MAC = "entry_mac"
_canonical = msgspec.json.Encoder(order="sorted")


@dataclass
class Change:
    """An administrative transaction: do the rows' work over `connection`, then `record` the entry as the last statement."""

    services: Services
    workspace_id: UUID
    key: bytes
    connection: Connection
    now: int
    first_index: int = -1
    tree_size: int = 0

    async def record(
        self,
        kind: str,
        payload: dict[str, Any],
        *,
        entry_id: UUID,
        log_id: int,
        purposes: tuple[str, ...] = (),
        content_hash: bytes | None = None,
        retry: Retry | None = None,
    ) -> None:
        """Append the entry of this change. Its payload is not sealed: it names operators and credentials by opaque ids only.

        It bears a MAC under the workspace's key, so that no entry of the workspace can be made without the key file.
        With `retry` the entry is found again by `repeated`.

        Raises Conflict if the entry cannot be appended; the transaction is rolled back.
        """
        bare = _canonical.encode(payload)
        mac = workspace_entry_mac(self.key, entry_id.bytes, self.now, kind, content_hash or b"", bare)
        body = _canonical.encode({**payload, MAC: mac.hex()})
        salt = self.services.entropy(SALT_BYTES)
        leaf = encode(Leaf(str(entry_id), self.now, kind, purposes, content_hash, None, commitment(salt, body)))
        entry = PendingEntry(entry_id, instant(self.now), leaf, None, salt + body)
        once = (
            None
            if retry is None
            else self._once(retry, RecordedEntry(str(entry_id), kind, leaf_hash(leaf).hex(), True, None))
        )
        (result,) = await ledger.append(self.connection, self.workspace_id, log_id, [Item((entry,), idempotency=once)])
        if result.verdict == "clock":
            raise Unavailable("the clocks of service and database are more than 30 s apart; set them right")
        if result.verdict != "appended" or result.first_index is None:
            raise Conflict(f"the change was not recorded: {result.verdict}")
        self.first_index, self.tree_size = result.first_index, result.tree_size

    async def repeated(self, retry: Retry) -> tuple[UUID, int] | KeyMisused | None:
        """The entry of the first request that came with this key, and the tree size that knows of it; None if this is the first."""
        mac, fingerprint = self._macs(retry)
        stored = await idempotency.find(self.connection, self.workspace_id, retry.credential_id, mac)
        if stored is None:
            return None
        if stored.fingerprint != fingerprint:
            return KeyMisused()
        context = answer_context(self.workspace_id.bytes, retry.credential_id.bytes, mac, fingerprint)
        (entry,) = stored_entries(open_sealed(self.key, stored.answer, context))
        seen = await seen_since(self.connection, self.workspace_id, entry)
        return UUID(entry), stored.first_index + 1 if seen is None else seen

    def _once(self, retry: Retry, entry: RecordedEntry) -> IdempotencyRow:
        mac, fingerprint = self._macs(retry)
        context = answer_context(self.workspace_id.bytes, retry.credential_id.bytes, mac, fingerprint)
        sealed = seal(self.key, self.services.entropy(NONCE_BYTES), answer_to_store(entry), context)
        return IdempotencyRow(retry.credential_id, mac, fingerprint, sealed)

    def _macs(self, retry: Retry) -> tuple[bytes, bytes]:
        pepper, workspace = self.services.keyring.pepper, self.workspace_id.bytes
        return (
            idempotency_mac(pepper, workspace, retry.credential_id.bytes, retry.key),
            fingerprint_mac(pepper, workspace, retry.request, retry.body),
        )


def opened_payload(
    key: bytes, entry_id: UUID, at: int, kind: str, content_hash: bytes | None, payload: bytes
) -> dict[str, Any] | None:
    """What an entry of the workspace's own says; None unless the service recorded it."""
    try:
        said = msgspec.json.decode(payload, type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    mac = said.pop(MAC, None)
    expected = workspace_entry_mac(key, entry_id.bytes, at, kind, content_hash or b"", _canonical.encode(said))
    return said if isinstance(mac, str) and hmac.compare_digest(mac.encode(), expected.hex().encode()) else None


@asynccontextmanager
async def change(services: Services, workspace_id: UUID, key: bytes | None = None) -> AsyncIterator[Change]:
    """Open an administrative transaction; commits when the block ends, with everything or nothing.

    `key` is that of a workspace which does not exist yet.
    """
    key = await services.workspace_key(workspace_id) if key is None else key
    async with services.database.workspace("volenti_admin", workspace_id) as connection:
        with translated("an administrative change"):
            yield Change(services, workspace_id, key, connection, services.clock())
