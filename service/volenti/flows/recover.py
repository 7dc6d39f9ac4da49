"""Recover a workspace whose log was rolled back or forked: a new log under a new origin, and everything taken back stays so."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal
from uuid import UUID

import msgspec

from volenti.core.admission import NewEntry
from volenti.core.data_subject import (
    EMPTY,
    ENTRY_KINDS,
    OUR_ID,
    RESTRICTED,
    UPDATED,
    ConsentRecorded,
    DataSubjectState,
    DataSubjectUpdated,
    Entry,
    Event,
    Identifier,
    ProcessingRestricted,
    evolve,
)
from volenti.errors import Conflict, Invalid, NotFound, Unavailable
from volenti.flows.administer import Change, change
from volenti.flows.clock import instant
from volenti.flows.find_data_subject import Person, index_of, open_person
from volenti.flows.keep_anchor import Agrees, Contradicts, Unanchored, guard_log, standing_of
from volenti.flows.seal_entries import sealed_entries, sealed_state
from volenti.flows.services import Services
from volenti.flows.sign_checkpoint import sign
from volenti.keys.sealer import NONCE_BYTES, holder_key_context, identifier_context, seal
from volenti.store import credentials, data_subjects, ledger, workspaces
from volenti.store.database import Turn, take_turn
from volenti.store.journal import Line
from volenti.store.ledger import Head, IdentifierChange, Item, NewHolder, PendingHolder
from volenti.store.workspaces import Workspace

COMPONENT = "recovery"
LINES_AT_ONCE = 10_000
"""So many of the journal's lines are looked up in a statement, which has five seconds."""
_KINDS = {kind: choice for choice, kind in ENTRY_KINDS.items()}


class Recovered(msgspec.Struct, frozen=True):
    """What was done for a workspace. `origin` is the log that goes on; `replayed` counts the journal's lines that were missing."""

    workspace: str
    how: str
    origin: str
    replayed: int
    epoch: int


class NotRecovered(msgspec.Struct, frozen=True):
    """What kept a workspace from being recovered, or from being signed after that."""

    workspace: str
    error: Exception


async def recover(
    services: Services, lines: Sequence[Line], *, accept_head: Collection[str] = ()
) -> list[Recovered | NotRecovered]:
    """Recover every workspace whose log is frozen; those that stand as they should are left alone.

    A log that contradicts its anchor or journal is sealed and goes on under a new origin: one transaction appends an
    entry that names the anchored checkpoint, and each restriction of the journal that no log of the workspace holds, so
    that all of them are in effect before the first permit. A log without an anchor is taken up again only if its
    workspace is in `accept_head`, which is itself recorded; one that is not is Invalid. What keeps one workspace from
    being recovered keeps no other.
    """
    async with services.database.connection("volenti_admin") as connection:
        known = await workspaces.names(connection)
    done: list[Recovered | NotRecovered] = []
    for workspace in known:
        one: Recovered | NotRecovered | None
        try:
            one = await _recover(services, workspace, lines, accept=workspace.name in accept_head)
        except Exception as error:  # noqa: BLE001 - of whatever kind: it is told at the end
            one = NotRecovered(workspace.name, error)
        if one is not None:
            done.append(one)
    return done


async def _recover(
    services: Services, workspace: Workspace, lines: Sequence[Line], *, accept: bool
) -> Recovered | None:
    name, workspace_id = workspace.name, workspace.workspace_id
    async with services.database.workspace("volenti_signer", workspace_id) as connection:
        head, standing = await standing_of(services, connection, workspace_id, lines)
    if isinstance(standing, Contradicts) or (isinstance(standing, Unanchored) and accept):
        head, standing = await guard_log(services, workspace_id, lines)
    match standing:
        case Agrees() if head.state != "frozen":
            return None
        case Agrees() if not accept:
            return await _take_up(services, name, head, "thawed")
        case Unanchored() if not accept:
            # Nor frozen: the anchor's setting may be wrong where `recover` runs, and nowhere else.
            raise Invalid(
                f"nothing is anchored for {head.origin}: if its {head.size} entries are all that there ever were, say so with --accept-head {name}"
            )
        case Agrees() | Unanchored():
            # Anchored while it is frozen still: whoever looks at it once it is open finds an anchor.
            await sign(services, workspace_id, unanchored=True, wait=True)
            return await _take_up(services, name, head, "head_accepted")
        case Contradicts():
            return await _begin_anew(services, name, head, standing, lines)


async def _take_up(services: Services, name: str, head: Head, how: Literal["thawed", "head_accepted"]) -> Recovered:
    """Let a frozen log go on as it is, with an entry that says so."""
    async with change(services, head.workspace_id) as transaction:
        frozen = await _in_turn(transaction, head)
        log_id = await ledger.open_log(transaction.connection, head.workspace_id, head.origin)
        epoch = await workspaces.epoch(transaction.connection)
        payload: dict[str, Any] = {"origin": head.origin}
        if how == "head_accepted":
            payload.update(size=frozen.size, root=frozen.root.hex())
        await transaction.record(f"log.{how}", payload, entry_id=services.new_id(), log_id=log_id)
    await _sign(services, head.workspace_id, head.origin)
    return Recovered(name, how, head.origin, 0, epoch)


async def _begin_anew(
    services: Services, name: str, head: Head, standing: Contradicts, lines: Sequence[Line]
) -> Recovered:
    workspace_key = await services.workspace_key(head.workspace_id)
    base = "/".join(head.origin.split("/")[:2])
    origin = f"{base}/{head.log_id + 1}"
    ours = [line for line in lines if line.origin == base or line.origin.startswith(f"{base}/")]
    async with change(services, head.workspace_id) as transaction:
        connection = transaction.connection
        frozen = await _in_turn(transaction, head)
        log_id = await ledger.open_log(connection, head.workspace_id, origin)
        epoch = await workspaces.raise_epoch(connection)
        payload: dict[str, Any] = {
            "from": head.origin,
            "how": standing.how,
            "size": frozen.size,
            "root": frozen.root.hex(),
            "epoch": epoch,
        }
        if standing.anchored is not None:
            payload["anchored"] = _readable(standing.anchored)
        await transaction.record("log.recovered", payload, entry_id=services.new_id(), log_id=log_id)
        replayed = await _Replay(transaction, log_id, workspace_key).run(ours)
    # Committed: the restrictions are in effect, and only now does the workspace permit anything again.
    await _sign(services, head.workspace_id, origin)
    return Recovered(name, standing.how, origin, replayed, epoch)


def _readable(anchored: str) -> str:
    """What was anchored, as JSON can hold it: of what is no UTF-8 each byte is written as `\\xff`."""
    return anchored.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


async def _in_turn(transaction: Change, head: Head) -> Head:
    """Keep all who sign and guard away from the log until the transaction ends; the head at which it was frozen.

    Raises Conflict if it is frozen no more: another process recovers too.
    """
    await take_turn(transaction.connection, Turn.SIGN, str(transaction.workspace_id))
    now = await ledger.head(transaction.connection, transaction.workspace_id)
    if now.log_id != head.log_id or now.state != "frozen":
        raise Conflict(f"another process recovered {head.origin} at the same moment; run it again to see how it stands")
    return now


async def _sign(services: Services, workspace_id: UUID, origin: str) -> None:
    """Sign and anchor a log that was opened. Raises Unavailable if that failed: the service tries it again at its next pass."""
    try:
        await sign(services, workspace_id, wait=True)
    except Unavailable as error:
        raise Unavailable(f"{origin} was recovered and goes on, but could not be signed yet: {error}") from error


class _Replay:
    """Appends the journal's lines that are missing, within the recovery's transaction."""

    def __init__(self, transaction: Change, log_id: int, workspace_key: bytes) -> None:
        self.transaction, self.services = transaction, transaction.services
        self.workspace_id, self.connection = transaction.workspace_id, transaction.connection
        self.now, self.log_id, self.workspace_key = transaction.now, log_id, workspace_key

    async def run(self, lines: Sequence[Line]) -> int:
        ids, known = [UUID(line.entry) for line in lines], set[UUID]()
        for first in range(0, len(ids), LINES_AT_ONCE):
            known.update(await ledger.places(self.connection, self.workspace_id, ids[first : first + LINES_AT_ONCE]))
        missing = {
            line.entry: line for line in lines if UUID(line.entry) not in known
        }  # each once, whoever wrote it twice
        for line in sorted(missing.values(), key=lambda line: (line.recorded_at, line.origin, line.index)):
            await (self._revoke(line) if line.credential else self._restrict(line))
        return len(missing)

    async def _revoke(self, line: Line) -> None:
        await credentials.revoke(self.connection, self.workspace_id, UUID(line.credential), instant(self.now))
        await self.transaction.record(
            line.kind, {"credential": line.credential}, entry_id=UUID(line.entry), log_id=self.log_id
        )

    async def _restrict(self, line: Line) -> None:
        """Append a restriction under its own id; a person whom the backup does not know is made again, with a new key."""
        holder = UUID(line.holder)
        person = await self._person(holder)
        events: list[NewEntry] = []
        state = EMPTY if person is None else person.state
        ours: tuple[Identifier, ...] = ()
        if person is None:
            ours = (Identifier("id", f"{OUR_ID}{self.services.new_id()}"),)  # until a caller names the person again
            identity = DataSubjectUpdated(
                added=ours,
                blind_indexes=line.blind_indexes,
                occurred_at=self.now,
                claimed_at=self.now,
                actor="system",
                component=COMPONENT,
            )
            state = self._add(events, state, str(self.services.new_id()), UPDATED, (), identity, None)
        previous = str(person.last_entry) if person is not None else events[-1].id
        event = _restriction(line)
        state = self._add(events, state, line.entry, line.kind, line.purposes, event, previous)
        await self._append(holder, person, events, state, line, ours)

    def _add(
        self,
        events: list[NewEntry],
        state: DataSubjectState,
        entry_id: str,
        kind: str,
        purposes: tuple[str, ...],
        event: Event,
        previous: str | None,
    ) -> DataSubjectState:
        event = msgspec.structs.replace(event, previous=previous)
        events.append(NewEntry(entry_id, kind, purposes, None, event))
        return evolve(state, Entry(entry_id, self.now, event))

    async def _person(self, holder: UUID) -> Person | None:
        try:
            return open_person(
                self.workspace_id,
                self.workspace_key,
                await data_subjects.by_holder(self.connection, self.workspace_id, holder),
            )
        except NotFound:
            return None

    async def _append(
        self,
        holder: UUID,
        person: Person | None,
        events: list[NewEntry],
        state: DataSubjectState,
        line: Line,
        ours: Sequence[Identifier],
    ) -> None:
        services, workspace_id = self.services, self.workspace_id
        key = services.entropy(32) if person is None else person.key
        entries = sealed_entries(services, workspace_id, self.log_id, holder, key, events, self.now)
        last = entries[-1].id
        changes: tuple[IdentifierChange, ...] = ()
        new: tuple[NewHolder, ...] = ()
        if person is None:
            wrapped = seal(
                self.workspace_key,
                services.entropy(NONCE_BYTES),
                key,
                holder_key_context(workspace_id.bytes, holder.bytes),
            )
            new = (NewHolder(holder, wrapped),)
            indexes = [bytes.fromhex(index) for index in line.blind_indexes]
            bound = await data_subjects.bound(self.connection, workspace_id, indexes)
            changes = tuple(IdentifierChange(index, None, holder, None) for index in indexes if index not in bound)
            changes += tuple(self._binding(holder, key, identifier) for identifier in ours)
        item = Item(
            entries=entries,
            holders=(
                PendingHolder(
                    holder,
                    0 if person is None else person.revision,
                    len(entries),
                    last,
                    sealed_state(services, workspace_id, holder, key, state, last),
                ),
            ),
            new_holders=new,
            identifiers=changes,
        )
        (result,) = await ledger.append(self.connection, workspace_id, self.log_id, [item])
        if result.verdict != "appended":
            raise Conflict(f"entry {line.entry} of the journal could not be replayed: {result.verdict}")

    def _binding(self, holder: UUID, key: bytes, identifier: Identifier) -> IdentifierChange:
        index = index_of(self.services, self.workspace_id, identifier)
        context = identifier_context(self.workspace_id.bytes, index)
        sealed = seal(key, self.services.entropy(NONCE_BYTES), identifier.value.encode(), context)
        return IdentifierChange(index, None, holder, sealed)


def _restriction(line: Line) -> Event:
    """What a line of the journal says."""
    if line.kind == RESTRICTED:
        return ProcessingRestricted(occurred_at=line.at, claimed_at=line.at, actor="system", component=COMPONENT)
    (purpose,) = line.purposes
    return ConsentRecorded(
        kind=_KINDS[line.kind], purpose=purpose, channels=line.channels, names=line.names or None, occurred_at=line.at, claimed_at=line.at,
        actor="system", component=COMPONENT,
    )  # fmt: skip
