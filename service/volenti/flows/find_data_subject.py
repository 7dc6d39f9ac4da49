"""Who is meant: a person's state, opened, from the ids and identifiers that a caller gave."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec

from volenti.core.data_subject import DataSubjectState, Identifier, decode_state
from volenti.core.identifier import match_key
from volenti.errors import LedgerDamaged, NotFound
from volenti.flows.services import Services
from volenti.keys.blind import blind_index
from volenti.keys.sealer import holder_key_context, open_sealed, state_context
from volenti.store.data_subjects import Ground, StoredState


class Person(msgspec.Struct, frozen=True):
    """A known data subject, opened."""

    holder: UUID
    key: bytes
    revision: int
    last_entry: UUID
    state: DataSubjectState


class Found(msgspec.Struct, frozen=True):
    """What one read gave: the ground that the answer stands on, and who each identifier belongs to (None: nobody)."""

    ground: Ground
    people: tuple[Person | None, ...]
    indexes: tuple[bytes, ...]

    @property
    def person(self) -> Person | None:
        """The person that the first known identifier names."""
        return next((person for person in self.people if person is not None), None)


def index_of(services: Services, workspace_id: UUID, identifier: Identifier) -> bytes:
    """The blind index of an identifier. Raises Invalid if the value is none of its type."""
    return blind_index(
        services.keyring.pepper, workspace_id.bytes, identifier.type, match_key(identifier.type, identifier.value)
    )


async def find(services: Services, workspace_id: UUID, identifiers: Sequence[Identifier]) -> Found:
    """Look identifiers up in one round trip. Raises Invalid for one that is malformed, Unavailable without a database."""
    indexes = tuple(index_of(services, workspace_id, identifier) for identifier in identifiers)
    ground, read = await services.reader.read(workspace_id, indexes)
    stored = {index: read[index] for index in indexes if index in read}
    workspace_key = await services.workspace_key(workspace_id) if stored else b""
    opened: dict[UUID, Person] = {row.holder: open_person(workspace_id, workspace_key, row) for row in stored.values()}
    return Found(ground, tuple(opened[stored[index].holder] if index in stored else None for index in indexes), indexes)


async def named(services: Services, workspace_id: UUID, caller_id: str) -> tuple[Found, Person]:
    """The person with this id. Raises NotFound if there is none."""
    found = await find(services, workspace_id, [Identifier("id", caller_id)])
    if found.person is None:
        raise NotFound("there is no such data subject")
    return found, found.person


def open_person(workspace_id: UUID, workspace_key: bytes, row: StoredState) -> Person:
    """Unwrap a holder's key and open the state. Raises LedgerDamaged if the row does not open where it stands."""
    key = open_sealed(workspace_key, row.wrapped_key, holder_key_context(workspace_id.bytes, row.holder.bytes))
    plain = open_sealed(key, row.sealed, state_context(workspace_id.bytes, row.holder.bytes, row.last_entry.bytes))
    try:
        return Person(row.holder, key, row.revision, row.last_entry, decode_state(plain))
    except msgspec.DecodeError as error:
        raise LedgerDamaged("a state row holds no state of this version; run: volenti audit rebuild") from error
