"""/v1/ledger and /log: entries, proofs, checkpoints and the C2SP layout of the log."""

from __future__ import annotations

import base64
from typing import Any
from uuid import UUID

import msgspec

from volenti.api import wire
from volenti.api.endpoint import Call, Reply
from volenti.api.problems import Problematic
from volenti.core.ledger import tile
from volenti.core.ledger.tile import Bundle
from volenti.errors import Invalid, NotFound
from volenti.flows.prove_entry import consistency, find_entry, newest_checkpoint, prove, tile_bytes
from volenti.store import ledger
from volenti.store.database import translated
from volenti.store.ledger import StoredEntry

TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"


async def show_checkpoint(call: Call) -> Reply:
    """The newest signed tree head, as a C2SP checkpoint."""
    return Reply((await newest_checkpoint(call.services, call.workspace_id)).note, media=TEXT)


async def show_entry(call: Call) -> Reply:
    """An entry by its index or its id: the bytes that were hashed."""
    _, entry = await find_entry(call.services, call.workspace_id, _key(call))
    return Reply(_entry(entry))


async def show_proof(call: Call) -> Reply:
    """The proof that an entry is in the signed tree: tlog-proof text, or JSON."""
    proven = await prove(call.services, call.workspace_id, _key(call))
    if "text/plain" in call.headers.get("accept", ""):
        return Reply(proven.text, media=TEXT)
    answer = wire.LedgerProof(
        index=proven.entry.index, entry=str(proven.entry.id), leaf_hash=proven.entry.leaf_hash.hex(), size=proven.checkpoint.size,
        root=proven.checkpoint.root.hex(), path=tuple(node.hex() for node in proven.path), checkpoint=proven.checkpoint.note,
    )  # fmt: skip
    return Reply(answer)


async def show_consistency(call: Call) -> Reply:
    """The proof that the tree of one size extends that of another."""
    old, new = call.number("from"), call.number("to")
    try:
        path = await consistency(call.services, call.workspace_id, old, new)
    except Invalid as error:
        raise Problematic(422, "invalid_query", str(error)) from None
    return Reply(wire.ConsistencyProof(from_size=old, to=new, path=tuple(node.hex() for node in path)))


async def show_keys(call: Call) -> Reply:
    """The keys that sign the workspace's log, with the sizes that each may sign."""
    async with call.services.database.workspace("volenti_app", call.workspace_id) as connection:
        head = await ledger.head(connection, call.workspace_id)
    key = wire.LedgerKey(
        origin=head.origin, vkey=call.services.signer.vkey(head.origin), from_size=0, to_size=None, status="active"
    )
    return Reply(wire.LedgerKeys(data=(key,), next_cursor=None))


async def show_jwks(call: Call) -> Reply:
    """The public keys of the tokens that this service signs (RFC 7517)."""
    keyring = call.services.keyring
    public = base64.urlsafe_b64encode(keyring.token_key.public_key().public_bytes_raw()).decode().rstrip("=")
    key = {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": keyring.token_key_id, "x": public}
    return Reply(wire.JsonWebKeySet(keys=(key,)))


async def log_checkpoint(call: Call) -> Reply:
    """The newest checkpoint under the log's own prefix, for witnesses and monitors."""
    workspace_id = await _log(call)
    return Reply((await newest_checkpoint(call.services, workspace_id)).note, media=TEXT)


async def log_tile(call: Call) -> Reply:
    """A tile of hashes, full or at the edge of the signed tree."""
    return await _tile(call, await _log(call), f"tile/{call.path['rest'].lstrip('/')}", entries=False)


async def log_entries(call: Call) -> Reply:
    """A bundle of entries, full or at the edge of the signed tree."""
    return await _tile(call, await _log(call), f"tile/entries/{call.path['rest'].lstrip('/')}", entries=True)


async def _tile(call: Call, workspace_id: UUID, path: str, *, entries: bool) -> Reply:
    try:
        wanted = tile.parse(path)
    except Invalid:
        raise NotFound("no such tile") from None
    if isinstance(wanted, Bundle) is not entries:
        raise NotFound("no such tile")
    content = await tile_bytes(call.services, workspace_id, wanted)
    full = wanted.width == tile.FULL_WIDTH
    return Reply(
        content, media=BINARY, headers={"cache-control": "public, max-age=31536000, immutable" if full else "no-store"}
    )


async def _log(call: Call) -> UUID:
    """The workspace whose log the path names: the caller's own, or any if checkpoints and tiles are public."""
    origin = f"{call.services.settings.origin}/{call.path['log']}"
    async with call.services.database.connection("volenti_app") as connection:
        with translated("reading the heads"):
            found = [head.workspace_id for head in await ledger.heads(connection) if head.origin == origin]
    if not found or (call.caller.scopes and found[0] != call.workspace_id):
        raise NotFound("no such log")
    return found[0]


def _key(call: Call) -> int | UUID:
    text = call.path["key"]
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return int(text)
    try:
        return UUID(text)
    except ValueError:
        raise NotFound("no such entry") from None


def _entry(entry: StoredEntry) -> wire.LedgerEntry:
    content: dict[str, Any] = msgspec.json.decode(entry.leaf)
    return wire.LedgerEntry(
        index=entry.index,
        entry=str(entry.id),
        leaf_hash=entry.leaf_hash.hex(),
        leaf=base64.b64encode(entry.leaf).decode(),
        content=content,
    )
