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
from volenti.errors import Conflict, Unavailable
from volenti.flows.clock import instant
from volenti.flows.seal_entries import SALT_BYTES
from volenti.flows.services import Services
from volenti.keys.blind import workspace_entry_mac
from volenti.store import ledger
from volenti.store.database import Connection, translated
from volenti.store.ledger import Item, PendingEntry

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
    ) -> None:
        """Append the entry of this change. Its payload is not sealed: it names operators and credentials by opaque ids only.

        It bears a MAC under the workspace's key, so that no entry of the workspace can be made without the key file.

        Raises Conflict if the entry cannot be appended; the transaction is rolled back.
        """
        bare = _canonical.encode(payload)
        mac = workspace_entry_mac(self.key, entry_id.bytes, self.now, kind, content_hash or b"", bare)
        body = _canonical.encode({**payload, MAC: mac.hex()})
        salt = self.services.entropy(SALT_BYTES)
        leaf = encode(Leaf(str(entry_id), self.now, kind, purposes, content_hash, None, commitment(salt, body)))
        entry = PendingEntry(entry_id, instant(self.now), leaf, None, salt + body)
        (result,) = await ledger.append(self.connection, self.workspace_id, log_id, [Item((entry,))])
        if result.verdict == "clock":
            raise Unavailable("the clocks of service and database are more than 30 s apart; set them right")
        if result.verdict != "appended" or result.first_index is None:
            raise Conflict(f"the change was not recorded: {result.verdict}")
        self.first_index, self.tree_size = result.first_index, result.tree_size


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
