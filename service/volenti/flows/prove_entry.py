"""Prove an entry: its leaf, its path to a signed tree head, verified before it leaves."""

from __future__ import annotations

from uuid import UUID

import msgspec

from volenti.core.ledger import merkle, note, proof
from volenti.core.ledger.merkle import LeafIndex, TreeSize
from volenti.core.ledger.proof import Proof
from volenti.core.ledger.tile import FULL_WIDTH, Bundle, Tile, encode_bundle, width_of
from volenti.errors import Invalid, LedgerDamaged, NotFound, Unavailable
from volenti.flows.keep_anchor import fetch
from volenti.flows.services import Services
from volenti.flows.sign_checkpoint import covering
from volenti.store import ledger
from volenti.store.ledger import Head, StoredCheckpoint, StoredEntry

WAIT_SECONDS = 5.0


class Proven(msgspec.Struct, frozen=True):
    """An entry with its proof. `text` is the C2SP tlog-proof; the path and the checkpoint in it are the same."""

    entry: StoredEntry
    path: tuple[bytes, ...]
    checkpoint: StoredCheckpoint
    text: str


async def find_entry(services: Services, workspace_id: UUID, key: int | UUID) -> tuple[Head, StoredEntry]:
    """An entry of the workspace's newest log by index or id. Raises NotFound."""
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        head = await ledger.head(connection, workspace_id)
        return head, await ledger.entry(connection, workspace_id, head.log_id, key)


async def prove(
    services: Services, workspace_id: UUID, key: int | UUID, *, wait_seconds: float = WAIT_SECONDS
) -> Proven:
    """Prove an entry against a signed checkpoint, signing one if needed. Raises NotFound, Unavailable, LedgerDamaged."""
    head, entry = await find_entry(services, workspace_id, key)
    signed = await _signed(services, workspace_id, head, entry.index + 1, wait_seconds)
    size = TreeSize(signed.size)
    plan = merkle.inclusion_plan(LeafIndex(entry.index), size)
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        path = tuple(
            merkle.finish(plan, await fetch(connection, msgspec.structs.replace(head, size=signed.size), plan))
        )
    made = Proof(LeafIndex(entry.index), path, signed.note)
    vkey = note.parse_vkey(services.signer.vkey(head.origin))
    text = proof.render(made)
    if merkle.leaf_hash(entry.leaf) != entry.leaf_hash or not merkle.verify_inclusion(
        LeafIndex(entry.index), size, entry.leaf_hash, path, signed.root
    ):
        raise LedgerDamaged(f"entry {entry.index} cannot be proved; run: volenti audit verify")
    proof.verify(text, entry.leaf_hash, [vkey])
    return Proven(entry, path, signed, text)


async def newest_checkpoint(services: Services, workspace_id: UUID) -> StoredCheckpoint:
    """The newest checkpoint, made now if there is none or the log has grown. Raises Unavailable."""
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        head = await ledger.head(connection, workspace_id)
    return await _signed(services, workspace_id, head, head.size, WAIT_SECONDS)


async def consistency(services: Services, workspace_id: UUID, old: int, new: int) -> list[bytes]:
    """The proof that the tree of size `new` extends that of size `old`; both at most the newest checkpoint's.

    Raises Invalid unless 0 < old <= new and new is signed.
    """
    signed = await newest_checkpoint(services, workspace_id)
    if not 0 < old <= new <= signed.size:
        raise Invalid(f"a consistency proof needs 0 < from <= to <= {signed.size}, the signed size")
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        head = await ledger.head(connection, workspace_id)
        plan = merkle.consistency_plan(TreeSize(old), TreeSize(new))
        return merkle.finish(plan, await fetch(connection, msgspec.structs.replace(head, size=new), plan))


async def tile_bytes(services: Services, workspace_id: UUID, tile: Tile | Bundle) -> bytes:
    """The bytes of a hash tile or an entry bundle below the signed size. Raises NotFound for one that is not there yet."""
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        head = await ledger.head(connection, workspace_id)
    signed = await _signed(services, workspace_id, head, 0, WAIT_SECONDS)
    level = tile.level if isinstance(tile, Tile) else 0
    if tile.width > width_of(TreeSize(signed.size), level, tile.index):
        raise NotFound("the signed tree does not reach this tile")
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        if isinstance(tile, Tile):
            return await ledger.tile_hashes(connection, workspace_id, head.log_id, tile.level, tile.index, tile.width)
        first = tile.index * FULL_WIDTH
        entries = await ledger.entries(connection, workspace_id, head.log_id, first, first + tile.width)
    if len(entries) != tile.width:
        raise LedgerDamaged(f"entries are missing between {first} and {first + tile.width}")
    return encode_bundle([entry.leaf for entry in entries])


async def _signed(services: Services, workspace_id: UUID, head: Head, size: int, seconds: float) -> StoredCheckpoint:
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        signed = await ledger.checkpoint(connection, workspace_id, head.log_id, covering=size)
    if signed is None:
        signed = await covering(services, workspace_id, size, seconds=seconds)
    if signed is None:
        raise Unavailable("the ledger could not be signed in time; try again")
    return signed
