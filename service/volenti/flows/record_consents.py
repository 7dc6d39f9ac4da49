"""Record choices and facts of one person: load, admit, seal, append, answer."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import TypeAlias
from uuid import UUID

import msgspec

from volenti.core.admission import PERMISSIVE, Admitted, Command, Facts, NewEntry, Refusal, admit, most_entries
from volenti.core.consent import RESTRICTIVE, ConsentEvent
from volenti.core.data_subject import (
    EMPTY,
    OUR_ID,
    RESTRICTIONS,
    ConsentRecorded,
    DataSubjectState,
    Entry,
    Identifier,
    restricts,
)
from volenti.core.entry import decode
from volenti.core.ledger.merkle import leaf_hash
from volenti.core.policy.compile import CompiledPolicy
from volenti.errors import LedgerDamaged, Unavailable
from volenti.flows.clock import boot_seconds, milliseconds, uuid7
from volenti.flows.find_data_subject import Found, Person, find, index_of
from volenti.flows.seal_entries import open_entry, sealed_entries, sealed_state
from volenti.flows.services import Services
from volenti.keys.blind import fingerprint_mac, idempotency_mac
from volenti.keys.sealer import NONCE_BYTES, answer_context, holder_key_context, identifier_context, open_sealed, seal
from volenti.store import data_subjects, idempotency, ledger, workspaces
from volenti.store.appender import CLOCKS_APART_MS, Appended, ClockSkewed, IdClash, KeyReused, Moved, Repeated
from volenti.store.data_subjects import Ground
from volenti.store.database import Connection
from volenti.store.journal import Line
from volenti.store.ledger import IdempotencyRow, IdentifierChange, Item, NewHolder, PendingEntry, PendingHolder

ROUNDS = 5
ROUNDS_SECONDS = 2.0
"""How often and how long a person who is written by others at the same moment is read again before the caller is asked to retry."""


class Retry(msgspec.Struct, frozen=True):
    """What makes a request safe to repeat: the caller's key, and the request that it stands for."""

    credential_id: UUID
    key: str
    request: str
    """Method and path."""
    body: bytes
    """The canonical body."""
    beside: bytes = b""
    """What the first answer said beside its entries, for the repetition to say again."""


class RecordedEntry(msgspec.Struct, frozen=True):
    """An entry of the answer. `applied`: what it asks for is in force; else `why` names the entry in its way."""

    entry: str
    kind: str
    leaf_hash: str
    applied: bool
    why: str | None


class Recorded(msgspec.Struct, frozen=True):
    """Committed: from here the person's choice holds. Entries stand at `first_index` and after, adjacent.

    `seen`: the size of the log that goes on, where the entries stand in one that a recovery sealed since.
    """

    data_subject: str | None
    entries: tuple[RecordedEntry, ...]
    first_index: int
    epoch: int
    holder: UUID | None = None
    replayed: bool = False
    beside: bytes = b""
    """Of a repetition: what the first request's `Retry` had in it."""
    seen: int | None = None

    @property
    def size(self) -> int:
        """The tree size that a check must have seen to know of this write."""
        return self.first_index + len(self.entries) if self.seen is None else self.seen


class KeyMisused(msgspec.Struct, frozen=True):
    """The idempotency key was used for another request. Nothing was changed."""


class IdentifierTaken(msgspec.Struct, frozen=True):
    """An identifier of the request belongs to another person. Nothing was changed. `position` counts within the request's identifiers."""

    position: int


Recording: TypeAlias = Recorded | Refusal | KeyMisused | IdentifierTaken


class _Answer(msgspec.Struct, frozen=True, array_like=True):
    data_subject: str | None
    entries: tuple[RecordedEntry, ...]
    holder: UUID | None = None
    beside: bytes = b""


async def record(
    services: Services,
    workspace_id: UUID,
    command: Command,
    who: tuple[Identifier, ...],
    retry: Retry | None = None,
    ids: tuple[UUID, ...] = (),
) -> Recording:
    """Record a command for the person that `who` names, and create the person if nobody is known by it.

    `who` holds the caller's id first, if there is one, then the identifiers that the request states; they are bound to
    the person. `ids` fixes the entry ids (imports). Answers a repeated key as the first time. All or nothing. Raises
    Invalid for a malformed identifier, Unavailable when the outcome is unknown or the person is being written too much.
    """
    async with services.appender.turn(*((workspace_id, identifier.type, identifier.value) for identifier in who)):
        return await _record(services, workspace_id, command, who, retry, ids)


async def _record(
    services: Services,
    workspace_id: UUID,
    command: Command,
    who: tuple[Identifier, ...],
    retry: Retry | None,
    ids: tuple[UUID, ...],
) -> Recording:
    if retry is not None:
        mac, fingerprint = _macs(services, workspace_id, retry)
    begun = boot_seconds()
    for round_number in range(ROUNDS):
        decided = await _decide(services, workspace_id, command, who, ids)
        if retry is not None and not _left_to_the_append(services, decided):
            repeated = await _answered(services, workspace_id, retry.credential_id, mac, fingerprint)
            if isinstance(repeated, Recorded):
                await _journal_again(services, workspace_id, who, repeated)
            if repeated is not None:
                return repeated
        if not isinstance(decided, _Decided):
            return decided
        found, admission = decided.found, decided.admission
        if not admission.entries:
            return Recorded(admission.state.caller_id(), (), found.ground.size, found.ground.epoch)
        item = await _item(services, workspace_id, decided)
        answer = _Answer(
            admission.state.caller_id(),
            tuple(
                _recorded(new, obstacle, pending)
                for (new, obstacle), pending in zip(decided.told(), item.entries, strict=True)
            ),
            item.holders[-1].holder,
            b"" if retry is None else retry.beside,
        )
        if retry is not None:
            key = await services.workspace_key(workspace_id)
            context = answer_context(workspace_id.bytes, retry.credential_id.bytes, mac, fingerprint)
            sealed = seal(key, services.entropy(NONCE_BYTES), msgspec.msgpack.encode(answer), context)
            item = msgspec.structs.replace(
                item, idempotency=IdempotencyRow(retry.credential_id, mac, fingerprint, sealed)
            )
        outcome = await services.appender.append(workspace_id, found.ground.log_id, item)
        match outcome:
            case Appended(first_index=first_index):
                # Committed: from here on the choice holds for every check that has seen this size, and for all within a second.
                return Recorded(answer.data_subject, answer.entries, first_index, found.ground.epoch, answer.holder)
            case Repeated(first_index=first_index, answer=stored):
                if stored is not None and retry is not None:
                    replayed = await _opened(
                        services,
                        workspace_id,
                        retry.credential_id,
                        mac,
                        fingerprint,
                        first_index,
                        stored,
                    )
                    await _journal_again(services, workspace_id, who, replayed)
                    return replayed
                return Recorded(
                    answer.data_subject, answer.entries, first_index, found.ground.epoch, answer.holder, replayed=True
                )
            case KeyReused():
                return KeyMisused()
            case IdClash():
                if command.offer is not None:
                    return Refusal(
                        "offer_invalid", "the offer was used already; an offer settles one form", "/evidence/offer"
                    )
                return Refusal("entry_exists", "an entry with this id exists with other content", "")
            case ClockSkewed():
                if round_number:
                    raise Unavailable("the clocks of service and database are more than 30 s apart; set them right")
            case Moved():
                if boot_seconds() - begun > ROUNDS_SECONDS:
                    break
    raise Unavailable("this person is being written by others at the same moment; try again")


async def first_answer(services: Services, workspace_id: UUID, retry: Retry) -> Recorded | KeyMisused | None:
    """What a request with this key was answered before; None: there was none."""
    return await _answered(services, workspace_id, retry.credential_id, *_macs(services, workspace_id, retry))


def _macs(services: Services, workspace_id: UUID, retry: Retry) -> tuple[bytes, bytes]:
    """What stands for the key, and for the request, in the database."""
    pepper = services.keyring.pepper
    return (
        idempotency_mac(pepper, workspace_id.bytes, retry.credential_id.bytes, retry.key),
        fingerprint_mac(pepper, workspace_id.bytes, retry.request, retry.body),
    )


async def rehearse(
    services: Services, workspace_id: UUID, command: Command, who: tuple[Identifier, ...], ids: tuple[UUID, ...] = ()
) -> Recording:
    """What `record` would answer at this instant, without recording anything: the entries stand at no index."""
    decided = await _decide(services, workspace_id, command, who, ids)
    if not isinstance(decided, _Decided):
        return decided
    entries = tuple(
        RecordedEntry(
            new.id, new.kind, "", obstacle is None, None if obstacle is None else f"superseded_by:{obstacle.entry}"
        )
        for new, obstacle in decided.told()
    )
    ground = decided.found.ground
    return Recorded(decided.admission.state.caller_id(), entries, ground.size, ground.epoch)


class _Decided(msgspec.Struct, frozen=True):
    """A command admitted against what one read found.

    `others`: people whose identifier a restriction names beside the person, with what is recorded for each of them too.
    Their entries stand before the person's own.
    """

    found: Found
    person: Person | None
    admission: Admitted
    now: int
    others: tuple[tuple[Person, Admitted], ...] = ()

    def told(self) -> Iterator[tuple[NewEntry, ConsentEvent | None]]:
        """Each entry, in the order of the append, with what is in the way of its taking effect."""
        for admission in (*(admitted for _, admitted in self.others), self.admission):
            yield from zip(admission.entries, admission.obstacles, strict=True)


def _left_to_the_append(services: Services, decided: _Decided | Refusal | IdentifierTaken) -> bool:
    """Tell whether the append may find a repeated key: it looks it up first of all, and no transaction is needed before it.

    Not where nothing will be appended: what would be answered now may not be what was answered then. Nor with a
    journal's lines, which name entries that a repeated key does not write.
    """
    if not isinstance(decided, _Decided) or decided.found.ground.log_state != "active":
        return False
    entries = decided.admission.entries
    return bool(entries) and (services.journal is None or not any(new.kind in RESTRICTIONS for new in entries))


async def _decide(
    services: Services, workspace_id: UUID, command: Command, who: tuple[Identifier, ...], ids: tuple[UUID, ...]
) -> _Decided | Refusal | IdentifierTaken:
    now = services.clock()
    found = await find(services, workspace_id, who)
    if abs(milliseconds(found.ground.at) - now) > CLOCKS_APART_MS:  # what such a clock finds at fault is no fault
        raise Unavailable("the clocks of service and database are more than 30 s apart; set them right")
    policy = await services.policy(workspace_id, found.ground)
    if policy is None:
        raise Unavailable("the workspace has no policy; publish one")
    chosen = _choose(found, who, command)
    if isinstance(chosen, IdentifierTaken):
        return chosen
    person, added, owners = chosen
    if person is None and not any(identifier.type == "id" for identifier in added):
        added = (Identifier("id", f"{OUR_ID}{services.new_id()}"), *added)
    gone = {index_of(services, workspace_id, identifier) for identifier in command.facts.removed}
    known = () if person is None else person.state.identifiers
    removed = tuple(
        one for one in known if gone and index_of(services, workspace_id, one) in gone
    )  # however it is spelt
    facts = msgspec.structs.replace(command.facts, added=(*added, *command.facts.added), removed=removed)
    # Replicas' clocks differ: what is said now is not older than what was recorded before it.
    now = max([now, *(one.state.last_recorded() for one in (*owners, person) if one is not None)])
    entry_ids = ids or tuple(services.new_id() for _ in range(most_entries(command)))
    admission = admit(
        msgspec.structs.replace(command, facts=facts),
        EMPTY if person is None else person.state,
        policy,
        now,
        [str(entry_id) for entry_id in entry_ids],
        previous=None if person is None else str(person.last_entry),
    )
    if isinstance(admission, Refusal):
        return admission
    others = tuple((owner, _restricted(command, owner, policy, now, entry_ids)) for owner in owners)
    return _Decided(found, person, admission, now, others)


def _restricted(command: Command, owner: Person, policy: CompiledPolicy, now: int, ids: tuple[UUID, ...]) -> Admitted:
    """The restrictions of a command, recorded for the owner of an identifier that it names; their ids follow from its own."""
    choices = tuple(choice for choice in command.choices if choice.kind in RESTRICTIVE)
    restriction = msgspec.structs.replace(
        command, choices=choices, facts=Facts(), asked=(), restriction=None, offer=None
    )
    own = [str(_id_for(owner.holder, entry_id)) for entry_id in ids]
    admission = admit(restriction, owner.state, policy, now, own, previous=str(owner.last_entry))
    assert isinstance(admission, Admitted), "a restriction is never refused, and the policy has its purpose"
    return admission


def _id_for(holder: UUID, entry_id: UUID) -> UUID:
    return uuid7(int.from_bytes(entry_id.bytes[:6]), sha256(entry_id.bytes + holder.bytes).digest())


def _choose(
    found: Found, who: tuple[Identifier, ...], command: Command
) -> tuple[Person | None, tuple[Identifier, ...], tuple[Person, ...]] | IdentifierTaken:
    """The person, the identifiers to bind, and other people who are restricted too.

    The caller's id decides. Where it is not known yet, an identifier may lead to a person that no caller has named so
    far (an import knew the address only), who then gets the id. An identifier of somebody else's is refused; a request
    that only restricts is never refused for that: the identifier stays where it is, and the restriction binds whom it
    belongs to as well, since what was taken back for an address must not go on reaching it.
    """
    person = found.people[0] if who and who[0].type == "id" else found.person
    if person is None and found.person is not None:
        named = any(
            identifier.type == "id" and not identifier.value.startswith(OUR_ID)
            for identifier in found.person.state.identifiers
        )
        person = None if named else found.person
    added, owners = [], {}
    for position, (identifier, owner) in enumerate(zip(who, found.people, strict=True)):
        if owner is not None and (person is None or owner.holder != person.holder):
            if any(choice.kind in PERMISSIVE for choice in command.choices) or not command.choices:
                return IdentifierTaken(position)
            if any(choice.kind in RESTRICTIVE for choice in command.choices):
                owners[owner.holder] = owner
            continue
        nameless = owner is not None and found.indexes[position].hex() in owner.state.blind_indexes
        if owner is None or nameless or identifier.verified_at is not None:
            added.append(identifier)
    return person, tuple(added), tuple(owners.values())


async def _item(services: Services, workspace_id: UUID, decided: _Decided) -> Item:
    found, person, admission, now = decided.found, decided.person, decided.admission, decided.now
    holder = UUID(bytes=services.entropy(16), version=4) if person is None else person.holder
    key = services.entropy(32) if person is None else person.key
    new_holders: tuple[NewHolder, ...] = ()
    if person is None:
        workspace_key = await services.workspace_key(workspace_id)
        wrapped = seal(
            workspace_key, services.entropy(NONCE_BYTES), key, holder_key_context(workspace_id.bytes, holder.bytes)
        )
        new_holders = (NewHolder(holder, wrapped),)
    entries: tuple[PendingEntry, ...] = ()
    holders: tuple[PendingHolder, ...] = ()
    lines: tuple[Line, ...] = ()
    parts = [(one.holder, one.key, one.revision, admitted) for one, admitted in decided.others]
    for whose, secret, revision, said in (*parts, (holder, key, 0 if person is None else person.revision, admission)):
        places = [(len(entries) + n, Entry(new.id, now, new.event), new.kind) for n, new in enumerate(said.entries)]
        lines += journal_lines(services, workspace_id, found.ground, whose, said.state, places)
        entries += sealed_entries(services, workspace_id, found.ground.log_id, whose, secret, said.entries, now)
        last = entries[-1].id
        state = sealed_state(services, workspace_id, whose, secret, said.state, last)
        holders += (PendingHolder(whose, revision, len(entries), last, state),)
    before = None if person is None else person.state
    return Item(
        entries=entries,
        holders=holders,
        new_holders=new_holders,
        identifiers=_bindings(services, workspace_id, holder, key, before, admission.state),
        journal=lines,
    )


def journal_lines(
    services: Services,
    workspace_id: UUID,
    ground: Ground,
    holder: UUID,
    state: DataSubjectState,
    entries: Iterable[tuple[int, Entry, str]],
) -> tuple[Line, ...]:
    """The lines of the withdrawal journal for the restrictions among a holder's entries (position, entry, kind)."""
    if services.journal is None:
        return ()
    restrictions = [one for one in entries if restricts(state, one[1].event)]
    if not restrictions:
        return ()
    indexes = {index_of(services, workspace_id, identifier).hex() for identifier in state.identifiers}
    known = tuple(sorted(indexes.union(state.blind_indexes)))
    return tuple(_line(ground, holder, known, *restriction) for restriction in restrictions)


def _line(ground: Ground, holder: UUID, indexes: tuple[str, ...], position: int, entry: Entry, kind: str) -> Line:
    event = entry.event
    return Line(
        origin=ground.origin,
        index=position,
        entry=entry.id,
        kind=kind,
        at=event.occurred_at,
        recorded_at=entry.recorded_at,
        holder=str(holder),
        blind_indexes=indexes,
        purposes=(event.purpose,) if isinstance(event, ConsentRecorded) else (),
        channels=event.channels if isinstance(event, ConsentRecorded) else (),
        names=(event.names or "") if isinstance(event, ConsentRecorded) else "",
    )


def _bindings(
    services: Services,
    workspace_id: UUID,
    holder: UUID,
    key: bytes,
    before: DataSubjectState | None,
    after: DataSubjectState,
) -> tuple[IdentifierChange, ...]:
    """The identifier rows that differ between two states: what the rebuild expects to find is what is written here."""
    old = {
        index_of(services, workspace_id, identifier): identifier
        for identifier in (before.identifiers if before is not None else ())
    }
    new = {index_of(services, workspace_id, identifier): identifier for identifier in after.identifiers}
    changes = [IdentifierChange(index, holder, None, None) for index in old.keys() - new.keys()]
    bound = frozenset(before.blind_indexes) if before is not None else frozenset()  # theirs already, by their HMAC only
    for index in new.keys() - old.keys():
        sealed = seal(
            key, services.entropy(NONCE_BYTES), new[index].value.encode(), identifier_context(workspace_id.bytes, index)
        )
        changes.append(IdentifierChange(index, holder if index.hex() in bound else None, holder, sealed))
    return tuple(changes)


def _recorded(new: NewEntry, obstacle: object, pending: PendingEntry) -> RecordedEntry:
    against = getattr(obstacle, "entry", None)
    return RecordedEntry(
        new.id,
        new.kind,
        leaf_hash(pending.leaf).hex(),
        against is None,
        None if against is None else f"superseded_by:{against}",
    )


async def _answered(
    services: Services, workspace_id: UUID, credential_id: UUID, mac: bytes, fingerprint: bytes
) -> Recorded | KeyMisused | None:
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        stored = await idempotency.find(connection, workspace_id, credential_id, mac)
    if stored is None:
        return None
    if stored.fingerprint != fingerprint:
        return KeyMisused()
    return await _opened(services, workspace_id, credential_id, mac, fingerprint, stored.first_index, stored.answer)


async def _journal_again(
    services: Services, workspace_id: UUID, who: tuple[Identifier, ...], repeated: Recorded
) -> None:
    """Make sure that the journal holds a repeated answer's restrictions: the first time may have ended before it did."""
    ids = {entry.entry for entry in repeated.entries if entry.kind in RESTRICTIONS}
    if services.journal is None or not ids:
        return
    found = await find(services, workspace_id, who)
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        logs = await ledger.logs(connection, workspace_id)
    for person in {one.holder: one for one in found.people if one is not None}.values():
        async with services.database.workspace("volenti_app", workspace_id) as connection:
            payloads = await data_subjects.payloads(connection, workspace_id, person.holder)
        for log in logs:
            entries = [
                (payload.index, open_entry(workspace_id, person.key, payload), decode(payload.leaf).kind)
                for payload in payloads
                if payload.log_id == log.log_id and str(payload.entry_id) in ids
            ]
            ground = msgspec.structs.replace(found.ground, origin=log.origin)  # of the log that the index counts in
            await services.journal.write(
                journal_lines(services, workspace_id, ground, person.holder, person.state, entries)
            )


async def _opened(
    services: Services,
    workspace_id: UUID,
    credential_id: UUID,
    mac: bytes,
    fingerprint: bytes,
    first_index: int,
    sealed: bytes,
) -> Recorded:
    key = await services.workspace_key(workspace_id)
    answer = _decode_answer(
        open_sealed(key, sealed, answer_context(workspace_id.bytes, credential_id.bytes, mac, fingerprint))
    )
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        epoch = await workspaces.epoch(connection)  # first: a recovery may come before the next read
        seen = await seen_since(connection, workspace_id, answer.entries[0].entry)
    return Recorded(
        answer.data_subject, answer.entries, first_index, epoch, answer.holder, replayed=True, beside=answer.beside, seen=seen,
    )  # fmt: skip


async def seen_since(connection: Connection, workspace_id: UUID, entry: str) -> int | None:
    """The size of the log that goes on, if an answer's entry stands in one that a recovery sealed since; else None."""
    place = (await ledger.places(connection, workspace_id, [UUID(entry)])).get(UUID(entry))
    head = await ledger.head(connection, workspace_id)
    return None if place is None or place[0] == head.log_id else head.size


def answer_to_store(entry: RecordedEntry) -> bytes:
    """What is stored, sealed, as the answer to a request that recorded an entry of the workspace's own."""
    return msgspec.msgpack.encode(_Answer(None, (entry,)))


def stored_entries(plain: bytes) -> list[str]:
    """The entry ids of an opened stored answer, in order. Raises LedgerDamaged if it cannot be read."""
    return [entry.entry for entry in _decode_answer(plain).entries]


def _decode_answer(plain: bytes) -> _Answer:
    try:
        return msgspec.msgpack.decode(plain, type=_Answer)
    except msgspec.DecodeError as error:
        raise LedgerDamaged("a stored answer cannot be read") from error


def revision_token(epoch: int, size: int) -> str:
    """The opaque token of "everything up to this size": a check that carries it sees at least that."""
    return "vr1." + base64.urlsafe_b64encode(epoch.to_bytes(2) + size.to_bytes(8)).decode().rstrip("=")


def parse_revision_token(token: str) -> tuple[int, int] | None:
    """Epoch and size of a token; None if it is none."""
    if not token.startswith("vr1.") or len(token) != 18:
        return None
    try:
        raw = base64.urlsafe_b64decode(token[4:] + "==")
    except ValueError:
        return None
    return (int.from_bytes(raw[:2]), int.from_bytes(raw[2:])) if len(raw) == 10 else None
