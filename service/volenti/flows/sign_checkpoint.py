"""Sign the newest committed head of a log: never inside an append, and only what is consistent with what was signed."""

from __future__ import annotations

import asyncio
from uuid import UUID

import structlog

from volenti.core.ledger import checkpoint, merkle, note
from volenti.core.ledger.checkpoint import TreeHead
from volenti.core.ledger.merkle import TreeSize
from volenti.errors import LedgerDamaged, Unavailable, VerificationError, told
from volenti.flows.clock import boot_seconds, milliseconds
from volenti.flows.keep_anchor import Anchored, Contradicts, Unanchored, anchored_head, examine, fetch, move_on
from volenti.flows.services import Services
from volenti.store import ledger
from volenti.store.database import Connection, Turn, take_turn, translated, try_turn
from volenti.store.ledger import Head, StoredCheckpoint

EVERY_SECONDS = 0.2
EXAMINED_SECONDS = 5.0
"""So often a log that nobody writes is examined too: its database may have been put back to an older one."""
EXAMINED_AT_ONCE = 20
"""So many of them in a pass, those whose turn was due first: no log that moved waits for all that did not."""
SIGNER_SECONDS = 5.0
"""How long a signer may take: a key service that does not answer is one that failed."""

log = structlog.get_logger()


async def sign(
    services: Services, workspace_id: UUID, *, unanchored: bool = False, wait: bool = False
) -> StoredCheckpoint | None:
    """Sign the workspace's committed head and anchor it, unless that is done already; returns the newest checkpoint.

    `unanchored`: an operator accepted the head of a log whose anchor is lost. Returns None if another process is signing
    this log at the moment, unless it is to `wait` for it. Raises LedgerDamaged, after freezing the log, if the head
    contradicts an earlier checkpoint, its anchor or itself; Unavailable if the signer or the anchor fails.
    """
    async with services.database.workspace("volenti_signer", workspace_id) as connection:
        with translated("signing a checkpoint"):
            if wait:
                await take_turn(connection, Turn.SIGN, str(workspace_id))
            elif not await try_turn(connection, Turn.SIGN, str(workspace_id)):
                return None
            signed = await _signed_or_frozen(services, connection, workspace_id, unanchored=unanchored)
    if isinstance(signed, LedgerDamaged):
        raise signed
    return signed


async def _signed_or_frozen(
    services: Services, connection: Connection, workspace_id: UUID, *, unanchored: bool
) -> StoredCheckpoint | LedgerDamaged:
    """The checkpoint; or what is wrong with the log, which is frozen when the transaction commits.

    It is frozen within the turn in which it was examined: nobody recovers it in between.
    """
    anchored, seen = await anchored_head(services, connection, workspace_id)
    await connection.execute("SAVEPOINT examined")
    try:
        return await _sign(services, connection, anchored, seen, unanchored=unanchored)
    except LedgerDamaged as damaged:
        await connection.execute("ROLLBACK TO SAVEPOINT examined")
        await ledger.freeze(connection, workspace_id, seen.log_id)
        return damaged


async def _sign(
    services: Services, connection: Connection, anchored: Anchored, seen: Head, *, unanchored: bool
) -> StoredCheckpoint:
    workspace_id = seen.workspace_id
    head, frontier = await ledger.head_and_frontier(connection, workspace_id, seen.log_id)
    before = await ledger.checkpoint(connection, workspace_id, head.log_id)
    newest = None if services.journal is None else services.journal.newest(head.origin)
    standing = await examine(services, connection, anchored, head, [] if newest is None else [newest])
    match standing:
        case Contradicts(how=how):
            raise LedgerDamaged(
                f"{head.origin} contradicts its anchor ({how}): the log is frozen; run: volenti recover"
            )
        case Unanchored() if not unanchored:
            raise LedgerDamaged(f"nothing is anchored for {head.origin}: the log is frozen; run: volenti recover")
        case _:
            pass
    if before is None or before.size != head.size or before.root != head.root:
        await _examine(connection, head, frontier, before)
        if before is not None and services.clock() < milliseconds(before.signed_at):
            raise Unavailable("the clock stands before the newest checkpoint; nothing is signed until it has caught up")
        text = checkpoint.render(TreeHead(head.origin, TreeSize(head.size), head.root))
        signed = await _signed(services, head.origin, text)
        before = await ledger.put_checkpoint(
            connection, workspace_id, head.log_id, size=head.size, root=head.root, note=signed
        )
        if before.root != head.root:
            raise LedgerDamaged(f"two roots for size {head.size} of {head.origin}: the log is frozen")
    await move_on(services, connection, head, anchored.note, before)
    return before


async def _examine(connection: Connection, head: Head, frontier: list[bytes], before: StoredCheckpoint | None) -> None:
    """Raise LedgerDamaged unless the head folds from its frontier, its last leaf hashes right and it extends what was signed."""
    if (merkle.root(frontier) if frontier else merkle.EMPTY_ROOT) != head.root:
        raise LedgerDamaged(f"the head of {head.origin} does not fold to its root: the log is frozen")
    if head.size:
        last = await ledger.entries(connection, head.workspace_id, head.log_id, head.size - 1, head.size)
        if [merkle.leaf_hash(entry.leaf) for entry in last] != [entry.leaf_hash for entry in last] or not last:
            raise LedgerDamaged(
                f"entry {head.size - 1} of {head.origin} is missing or does not hash to its leaf hash: the log is frozen"
            )
    if before is not None and before.size:
        if before.size > head.size:
            raise LedgerDamaged(f"{head.origin} is shorter than its newest checkpoint: the log is frozen")
        plan = merkle.consistency_plan(TreeSize(before.size), TreeSize(head.size))
        nodes = await fetch(connection, head, plan)
        if not merkle.verify_consistency(
            TreeSize(before.size), TreeSize(head.size), merkle.finish(plan, nodes), before.root, head.root
        ):
            raise LedgerDamaged(f"{head.origin} does not extend its newest checkpoint: the log is frozen")


async def _signed(services: Services, origin: str, text: str) -> str:
    key = note.parse_vkey(services.signer.vkey(origin))
    try:
        async with asyncio.timeout(SIGNER_SECONDS):
            signature = await services.signer.sign(text.encode())
    except Exception as error:  # whatever the client of a key service raises
        raise Unavailable(f"the signer failed ({type(error).__name__})") from error
    try:
        signed = note.assemble(text, [note.signature_line(origin, key.key_id, signature)])
        checkpoint.verify(signed, [key])  # a signer that returns a wrong signature is found here, not by an auditor
    except VerificationError as error:
        raise Unavailable("the signer gave a signature that does not verify") from error
    return signed


async def covering(services: Services, workspace_id: UUID, size: int, *, seconds: float) -> StoredCheckpoint | None:
    """A checkpoint of at least this size, signed on request; None if none came in time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        signed = await sign(services, workspace_id)
        if signed is None:
            async with services.database.workspace("volenti_app", workspace_id) as connection:
                head = await ledger.head(connection, workspace_id)
                signed = await ledger.checkpoint(connection, workspace_id, head.log_id, covering=size)
        if signed is not None and signed.size >= size:
            return signed
        if asyncio.get_running_loop().time() > deadline:
            return None
        await asyncio.sleep(0.02)


class Checkpointer:
    """Signs, every 200 ms, each log whose head moved. Several replicas may run one: a lock lets one sign at a time."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._signed: dict[UUID, tuple[int, int, bytes]] = {}
        self._examined: dict[UUID, float] = {}

    async def run(self) -> None:
        """Run until cancelled. A fault of whatever kind is logged and tried again in the next pass."""
        while True:
            try:
                await self.sign_all()
            except Exception as error:  # noqa: BLE001 - the task must not end
                log.warning("checkpoint.failed", error=told(error))
            await asyncio.sleep(EVERY_SECONDS)

    async def sign_all(self) -> None:
        """Sign every active log that moved since this process last saw it signed, and examine those that did not now and then.

        A log's fault is logged and keeps no other waiting.
        """
        async with self._services.database.connection("volenti_signer") as connection:
            with translated("polling the heads"):
                heads = await ledger.heads(connection)
        for head in self._due([head for head in heads if head.state == "active"]):
            self._examined[head.workspace_id] = boot_seconds()
            try:
                signed = await sign(self._services, head.workspace_id)
            except Exception as error:  # noqa: BLE001 - of whatever kind: the others are signed
                log.warning("checkpoint.failed", origin=head.origin, error=told(error))
                continue
            if signed is not None:
                self._signed[head.workspace_id] = (head.log_id, signed.size, signed.root)

    def _due(self, heads: list[Head]) -> list[Head]:
        before = boot_seconds() - EXAMINED_SECONDS
        moved, idle = [], []
        for head in heads:
            if self._signed.get(head.workspace_id) != (head.log_id, head.size, head.root):
                moved.append(head)
            elif self._examined[head.workspace_id] <= before:
                idle.append(head)
        return moved + sorted(idle, key=lambda head: self._examined[head.workspace_id])[:EXAMINED_AT_ONCE]
