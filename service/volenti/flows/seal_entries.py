"""From events to what is appended: the sealed payload, the leaf that commits to it, and back."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import msgspec

from volenti.core.admission import NewEntry
from volenti.core.data_subject import DataSubjectState, Entry, decode_event, encode_event, encode_state
from volenti.core.entry import Leaf, commitment, decode, encode, tag
from volenti.errors import Invalid, LedgerDamaged
from volenti.flows.clock import instant
from volenti.flows.services import Services
from volenti.keys.sealer import NONCE_BYTES, open_sealed, payload_context, seal, state_context
from volenti.store.data_subjects import Payload
from volenti.store.ledger import PendingEntry

SALT_BYTES = 32


def sealed_entries(
    services: Services, workspace_id: UUID, log_id: int, holder: UUID, key: bytes, entries: Iterable[NewEntry], now: int
) -> tuple[PendingEntry, ...]:
    """The entries of one holder, payloads sealed under the holder's key, leaves with blinded tag and salted commitment."""
    pending = []
    for entry in entries:
        payload = encode_event(entry.event)
        salt = services.entropy(SALT_BYTES)
        leaf = encode(
            Leaf(
                entry.id,
                now,
                entry.kind,
                entry.purposes,
                entry.notice_hash,
                tag(key, entry.id),
                commitment(salt, payload),
            )
        )
        entry_id = UUID(entry.id)
        body = seal(
            key,
            services.entropy(NONCE_BYTES),
            salt + payload,
            payload_context(workspace_id.bytes, log_id, entry_id.bytes),
        )
        pending.append(PendingEntry(entry_id, instant(now), leaf, holder, body))
    return tuple(pending)


def open_entry(workspace_id: UUID, key: bytes, payload: Payload) -> Entry:
    """A holder's entry, opened. Raises LedgerDamaged unless payload, commitment, tag and leaf belong together."""
    plain = open_sealed(key, payload.body, payload_context(workspace_id.bytes, payload.log_id, payload.entry_id.bytes))
    salt, event = plain[:SALT_BYTES], plain[SALT_BYTES:]
    try:
        leaf = decode(payload.leaf)
        if (
            leaf.id != str(payload.entry_id)
            or leaf.tag != tag(key, leaf.id)
            or leaf.commitment != commitment(salt, event)
        ):
            raise LedgerDamaged(f"entry {payload.index} does not commit to its payload")
        return Entry(leaf.id, leaf.at_ms, decode_event(event))
    except (Invalid, msgspec.DecodeError) as error:
        raise LedgerDamaged(f"the payload of entry {payload.index} cannot be read") from error


def sealed_state(
    services: Services, workspace_id: UUID, holder: UUID, key: bytes, state: DataSubjectState, last_entry: UUID
) -> bytes:
    """A holder's state row: bound to workspace, holder and last entry, so that no row opens in another's place."""
    return seal(
        key,
        services.entropy(NONCE_BYTES),
        encode_state(state),
        state_context(workspace_id.bytes, holder.bytes, last_entry.bytes),
    )
