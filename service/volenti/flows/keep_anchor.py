"""Compare a log with its anchor and its journal, and move the anchor on: rollback and fork are found here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias
from uuid import UUID

import msgspec

from volenti.core.ledger import checkpoint, merkle, note, witness
from volenti.core.ledger.checkpoint import TreeHead
from volenti.core.ledger.merkle import TreeSize
from volenti.core.ledger.tile import nodes_from, tiles_of, width_of
from volenti.errors import LedgerDamaged, NotFound, Unavailable, VerificationError
from volenti.flows.services import Services
from volenti.store import journal, ledger
from volenti.store.database import Connection, Turn, take_turn
from volenti.store.journal import Line
from volenti.store.ledger import Head, StoredCheckpoint

SWAPS = 3
"""How often a checkpoint is put up against others that are faster."""


class Agrees(msgspec.Struct, frozen=True):
    """The log is what was anchored, or extends it. `anchored` is the note that is kept; None where nothing is kept."""

    anchored: str | None


class Unanchored(msgspec.Struct, frozen=True):
    """Nothing is anchored for a log that has entries: the anchor was lost, or never was. An operator has to accept the head."""


class Contradicts(msgspec.Struct, frozen=True):
    """The log is behind or beside what was anchored or journaled: rolled back, forked, or the anchor was edited."""

    how: Literal["rolled_back", "forked", "anchor_altered", "journal_ahead"]
    anchored: str | None


Standing: TypeAlias = Agrees | Unanchored | Contradicts


class Anchored(msgspec.Struct, frozen=True):
    """What was read of a log's anchor. `due`: a checkpoint of the log was committed before, so that there has to be one."""

    note: str | None
    due: bool


async def anchored_head(services: Services, connection: Connection, workspace_id: UUID) -> tuple[Anchored, Head]:
    """What is anchored for a workspace's newest log, and its head; `due`, anchor and head are read in this order.

    Another replica may append, sign, anchor and recover between any two of the reads. A checkpoint is committed after it
    was anchored: one that is seen before the anchor is read was anchored by then. A head that is read after the anchor is
    never behind it, unless it was rolled back. The connection is READ COMMITTED. Raises Unavailable if the anchor cannot be read.
    """
    head = await ledger.head(connection, workspace_id)
    while True:
        log = head.log_id
        due = await ledger.checkpoint(connection, workspace_id, log) is not None
        anchored = Anchored(None if services.anchor is None else await services.anchor.read(head.origin), due)
        head = await ledger.head(connection, workspace_id)
        if head.log_id == log:
            return anchored, head


async def examine(
    services: Services, connection: Connection, seen: Anchored, head: Head, lines: Iterable[Line] = ()
) -> Standing:
    """How a committed head stands to its anchor, both as `anchored_head` gave them, and to the journal's lines."""
    anchored = seen.note
    if services.anchor is None:
        return Agrees(None)
    if anchored is None and seen.due:
        return Unanchored()
    if anchored is not None:  # a log that was never signed is about to be anchored
        try:
            known = checkpoint.verify(anchored, [note.parse_vkey(services.signer.vkey(head.origin))])
        except VerificationError:
            return Contradicts("anchor_altered", anchored)
        committed = TreeHead(head.origin, TreeSize(head.size), head.root)
        if how := witness.objection(known, committed, await _proof(connection, head, known)):
            return Contradicts(how, anchored)
    newest = max(
        (line for line in lines if line.origin == head.origin and line.index >= 0),
        key=lambda line: line.index,
        default=None,
    )
    if newest is not None and not await _stands(connection, head, newest):
        return Contradicts("journal_ahead", anchored)
    return Agrees(anchored)


async def _proof(connection: Connection, head: Head, known: TreeHead) -> list[bytes]:
    """The consistency proof from a known tree head to the committed one; empty where there is none."""
    if not 0 < known.size < head.size:
        return []
    plan = merkle.consistency_plan(known.size, TreeSize(head.size))
    try:
        return merkle.finish(plan, await fetch(connection, head, plan))
    except LedgerDamaged:  # a tile that is missing proves nothing
        return []


async def _stands(connection: Connection, head: Head, line: Line) -> bool:
    """True if the entry that was acknowledged last, as the journal knows it, is where it was acknowledged."""
    try:
        return str((await ledger.entry(connection, head.workspace_id, head.log_id, line.index)).id) == line.entry
    except NotFound:
        return False


async def fetch(connection: Connection, head: Head, plan: merkle.Plan) -> dict[merkle.Coordinate, bytes]:
    """Read the nodes that a proof needs from the tiles of a tree of the head's size."""
    tiles = {}
    for level, index in tiles_of(plan.nodes):
        width = width_of(TreeSize(head.size), level, index)
        tiles[level, index] = await ledger.tile_hashes(connection, head.workspace_id, head.log_id, level, index, width)
    return nodes_from(tiles, plan.nodes)


async def move_on(
    services: Services, connection: Connection, head: Head, anchored: str | None, signed: StoredCheckpoint
) -> None:
    """Anchor a checkpoint that was found to extend what is anchored.

    Another process may have been faster: what is anchored then is examined in the same way, and is enough if it is ours
    or longer. Raises LedgerDamaged if it contradicts the log; Unavailable if others were faster again and again, or
    the store does not say what it did: then the next pass starts over by reading the anchor.
    """
    if services.anchor is None:
        return
    for _ in range(SWAPS):
        if anchored == signed.note or await services.anchor.swap(head.origin, anchored, signed.note):
            return
        before = anchored
        seen, now = await anchored_head(services, connection, head.workspace_id)
        if now.log_id != head.log_id:
            return  # recovered meanwhile: the old log is sealed, and another one is anchored
        anchored = seen.note
        standing = await examine(services, connection, seen, now)
        if isinstance(standing, Contradicts) or (anchored is None and before is not None):
            raise LedgerDamaged(f"the anchor of {head.origin} was moved to what the log is not: the log is frozen")
        if anchored is not None and checkpoint.parse(note.parse(anchored).text).size >= signed.size:
            return
    raise Unavailable(f"the anchor of {head.origin} could not be moved on: others were faster {SWAPS} times")


def read_journal(services: Services) -> list[Line]:
    """Every line of the withdrawal journal. Raises LedgerDamaged if the journal was edited."""
    folder = services.settings.journal_path
    return [] if folder is None else list(journal.read(folder))


async def guard(services: Services, lines: Iterable[Line] = ()) -> dict[str, Standing]:
    """Before the first answer: freeze every log that contradicts its anchor or journal, or has none; returns how each stands.

    A frozen log takes no entries, and checks of its workspace deny `system.restoring`, until `volenti recover`.
    """
    known = list(lines)
    if services.journal is not None:
        services.journal.learn(known)  # what the database has to hold from now on
    standings: dict[str, Standing] = {}
    async with services.database.connection("volenti_signer") as connection:
        heads = await ledger.heads(connection)
    for head in heads:
        if head.state == "active":
            standings[head.origin] = (await guard_log(services, head.workspace_id, known))[1]
    return standings


async def guard_log(services: Services, workspace_id: UUID, lines: Iterable[Line] = ()) -> tuple[Head, Standing]:
    """The same for one workspace's newest log: its head, and how that stands.

    Nothing is frozen but in the turn of who signs and who recovers: a log that is recovered meanwhile is looked at again.
    """
    known = list(lines)
    async with services.database.workspace("volenti_signer", workspace_id) as connection:
        head, standing = await standing_of(services, connection, workspace_id, known)
        if not isinstance(standing, Agrees):
            await take_turn(connection, Turn.SIGN, str(workspace_id))
            head, standing = await standing_of(services, connection, workspace_id, known)
        if not isinstance(standing, Agrees):
            await ledger.freeze(connection, workspace_id, head.log_id)
    return head, standing


async def standing_of(
    services: Services, connection: Connection, workspace_id: UUID, lines: Iterable[Line]
) -> tuple[Head, Standing]:
    """The head of a workspace's newest log, and how it stands. Changes nothing."""
    anchored, head = await anchored_head(services, connection, workspace_id)
    return head, await examine(services, connection, anchored, head, lines)
