"""The anchor moves on only to what extends it, whoever else moves it and whatever its store answers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args
from uuid import UUID

import pytest

from object_store import Fault, ObjectStore, object_store
from volenti.core.ledger import checkpoint, merkle, note
from volenti.core.ledger.checkpoint import TreeHead
from volenti.core.ledger.merkle import TreeSize
from volenti.errors import LedgerDamaged, Unavailable
from volenti.flows.create_workspace import create
from volenti.flows.keep_anchor import anchored_head, move_on
from volenti.flows.manage_credentials import issue
from volenti.flows.open_services import opened
from volenti.flows.services import Services
from volenti.flows.sign_checkpoint import sign
from volenti.settings import Settings
from volenti.store import ledger
from volenti.store.anchor import AnchorStore
from volenti.store.embedded import Embedded
from volenti.store.ledger import StoredCheckpoint


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@dataclass
class Log:
    """A workspace's log, and its anchor as somebody else may see and move it."""

    services: Services
    workspace: UUID
    origin: str
    anchor: AnchorStore

    async def grow(self) -> StoredCheckpoint:
        """One more entry, signed and anchored."""
        await issue(self.services, self.workspace, component="tests", scopes=["check"])
        signed = await sign(self.services, self.workspace)
        assert signed is not None
        return signed

    async def put(self, kept: str) -> None:
        """Move the anchor behind the back of who signs."""
        assert await self.anchor.swap(self.origin, await self.kept(), kept)

    async def kept(self) -> str | None:
        return await self.anchor.read(self.origin)

    async def move_on(self, anchored: str | None, signed: StoredCheckpoint) -> None:
        async with self.services.database.workspace("volenti_signer", self.workspace) as connection:
            _, head = await anchored_head(self.services, connection, self.workspace)
            await move_on(self.services, connection, head, anchored, signed)

    async def signed(self, size: int, root: bytes) -> str:
        """A checkpoint with the log's own key, of whatever is asked."""
        text = checkpoint.render(TreeHead(self.origin, TreeSize(size), root))
        key = note.parse_vkey(self.services.signer.vkey(self.origin))
        signature = await self.services.signer.sign(text.encode())
        return note.assemble(text, [note.signature_line(self.origin, key.key_id, signature)])


@pytest.fixture(params=["file", "s3"])
async def log(request: pytest.FixtureRequest, server: Embedded, tmp_path: Path) -> AsyncIterator[Log]:
    place, endpoint = str(tmp_path / "anchor"), None
    if request.param == "s3":
        store = request.getfixturevalue("store")
        place, endpoint = f"s3://{store.bucket}/anchor", store.url
    settings = Settings(data_dir=str(server.data_dir), log_level="error", anchor=place, s3_endpoint=endpoint)
    async with opened(settings, server.url) as services:
        name = f"anchor{os.getpid()}-{os.urandom(4).hex()}"
        workspace = await create(services, name)
        assert services.anchor is not None
        yield Log(services, workspace, f"localhost/{name}", services.anchor)


async def test_a_longer_checkpoint_that_another_process_anchored_stays(log: Log) -> None:
    old, ours, theirs = [await log.grow() for _ in range(3)]
    await log.move_on(old.note, ours)
    assert await log.kept() == theirs.note


async def test_a_shorter_checkpoint_that_another_process_anchored_is_moved_on(log: Log) -> None:
    old, seen, ours = [await log.grow() for _ in range(3)]
    await log.put(old.note)
    await log.move_on(seen.note, ours)
    assert await log.kept() == ours.note


async def test_a_fork_that_was_anchored_meanwhile_freezes_and_stays_as_evidence(log: Log) -> None:
    seen, ours = await log.grow(), await log.grow()
    fork = await log.signed(ours.size, merkle.leaf_hash(b"another history"))
    await log.put(fork)
    with pytest.raises(LedgerDamaged, match="what the log is not"):
        await log.move_on(seen.note, ours)
    assert await log.kept() == fork


async def test_an_anchor_that_was_edited_meanwhile_freezes(log: Log) -> None:
    seen, ours = await log.grow(), await log.grow()
    await log.put(ours.note.replace(f"\n{ours.size}\n", f"\n{ours.size + 1}\n", 1))
    with pytest.raises(LedgerDamaged, match="what the log is not"):
        await log.move_on(seen.note, ours)


async def test_a_log_whose_anchor_is_forked_signs_no_more(log: Log) -> None:
    ours = await log.grow()
    await log.put(await log.signed(ours.size, merkle.leaf_hash(b"another history")))
    with pytest.raises(LedgerDamaged, match="forked"):
        await log.grow()
    async with log.services.database.workspace("volenti_signer", log.workspace) as connection:
        assert (await ledger.head(connection, log.workspace)).state == "frozen"


@pytest.mark.parametrize("log", ["s3"], indirect=True)
@pytest.mark.parametrize("fault", get_args(Fault))
async def test_whatever_became_of_a_swap_the_next_pass_starts_over_by_reading(
    log: Log, store: ObjectStore, fault: Fault
) -> None:
    before = await log.grow()
    store.fault = fault
    if fault == "409 before":
        signed = await log.grow()  # a race that nobody won is put up again at once
        assert await log.kept() == signed.note
        return
    with pytest.raises(Unavailable):
        await log.grow()
    assert (await log.kept() == before.note) == fault.endswith("before")

    again = await sign(log.services, log.workspace)

    assert again is not None
    assert again.size == before.size + 1
    assert await log.kept() == again.note
    assert (await log.grow()).size == again.size + 1
    store.released.set()
    store.released.clear()
