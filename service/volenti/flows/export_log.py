"""Write a log to a folder in the C2SP layout: checkpoint, tiles of hashes, bundles of entries."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from volenti.core.audit.verify import CHECKPOINT_FILE
from volenti.core.ledger import tile
from volenti.core.ledger.merkle import TreeSize
from volenti.errors import Conflict, Invalid, LedgerDamaged
from volenti.flows.prove_entry import newest_checkpoint
from volenti.flows.services import Services
from volenti.store import ledger


async def export_log(services: Services, workspace_id: UUID, folder: Path) -> tuple[int, str]:
    """Write the signed log and return its size and its verifier key, which is handed over apart from the folder.

    The checkpoint is written last, so that a folder without one is incomplete. Raises Conflict unless the folder is
    missing or empty, Invalid if it cannot be written.
    """
    signed = await newest_checkpoint(services, workspace_id)
    try:
        _make_empty(folder)
        async with services.database.workspace("volenti_audit", workspace_id, snapshot=True) as connection:
            head = await ledger.head(connection, workspace_id)
            for bundle in tile.expected_bundles(TreeSize(signed.size)):
                first = bundle.index * tile.FULL_WIDTH
                entries = await ledger.entries(connection, workspace_id, head.log_id, first, first + bundle.width)
                if len(entries) != bundle.width:
                    raise LedgerDamaged(f"entries are missing between {first} and {first + bundle.width}")
                _write(folder / bundle.path, tile.encode_bundle([entry.leaf for entry in entries]))
            for hashes in tile.expected_tiles(TreeSize(signed.size)):
                content = await ledger.tile_hashes(
                    connection, workspace_id, head.log_id, hashes.level, hashes.index, hashes.width
                )
                _write(folder / hashes.path, content)
        _write(folder / CHECKPOINT_FILE, signed.note.encode())
    except OSError as error:
        raise Invalid(f"{folder} cannot be written: {error.strerror}") from error
    return signed.size, services.signer.vkey(head.origin)


def _make_empty(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
