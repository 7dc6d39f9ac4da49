"""Planted bugs: each is a patch that a test puts on the package from outside, to prove that the suite catches it.

The shipped package has no switch for any of them. A patch is applied within `planted(name)`, in the test's own process,
and by the launcher of `fault/observed.py` in the services that a test starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import msgspec
import pytest

from volenti.api import endpoint
from volenti.core import consent
from volenti.core.ledger import checkpoint, merkle, tile
from volenti.core.ledger.checkpoint import TreeHead
from volenti.core.ledger.merkle import TreeSize
from volenti.core.policy.compile import CompiledPolicy
from volenti.flows import keep_anchor, manage_credentials, record_consents, sign_checkpoint
from volenti.flows.administer import Change
from volenti.flows.keep_anchor import Agrees, Anchored
from volenti.flows.services import Services
from volenti.store import appender as appending
from volenti.store import database, journal, ledger, schema
from volenti.store.appender import Appended, Appender, Outcome
from volenti.store.data_subjects import Ground
from volenti.store.ledger import Item


def ack_before_commit(patch: pytest.MonkeyPatch) -> None:
    """The caller is answered when the item is queued, not when it is committed."""

    async def append(self: Appender, workspace_id: UUID, log_id: int, item: Item) -> Outcome:
        lane = self._lanes.setdefault((workspace_id, log_id), appending._Lane(workspace_id, log_id))
        return Appended(lane.entries, 0)

    patch.setattr(Appender, "append", append)


def journal_no_fsync(patch: pytest.MonkeyPatch) -> None:
    """The journal is written and not synced."""

    class NoSync:
        def __getattr__(self, name: str) -> Any:
            import os

            return (lambda descriptor: None) if name == "fsync" else getattr(os, name)

    patch.setattr(journal, "os", NoSync())


def revision_unchecked(patch: pytest.MonkeyPatch) -> None:
    """Every item claims to have read the newest revision, so that a stale fold overwrites a newer state."""
    sent = ledger.append

    async def append(connection: Any, workspace_id: UUID, log_id: int, items: Sequence[Item]) -> Any:
        async def newest(item: Item) -> Item:
            holders = []
            for holder in item.holders:
                async with connection.transaction():
                    await connection.execute("SELECT set_config('app.workspace', $1, true)", str(workspace_id))
                    statement = "SELECT revision FROM data_subject_state WHERE workspace_id = $1 AND holder = $2"
                    revision = await connection.fetchval(statement, workspace_id, holder.holder)
                holders.append(msgspec.structs.replace(holder, expected_revision=revision or 0))
            return msgspec.structs.replace(item, holders=tuple(holders))

        return await sent(connection, workspace_id, log_id, [await newest(item) for item in items])

    patch.setattr(ledger, "append", append)


def guard_off(patch: pytest.MonkeyPatch) -> None:
    """Any later grant lifts a refusal, whoever made it and however it is proved."""
    patch.setattr(consent, "may_lift", lambda event, refusal: event.occurred_at > refusal.occurred_at)


def permissive_wins_ties(patch: pytest.MonkeyPatch) -> None:
    """A grant dated as the withdrawal stands."""
    patch.setattr(consent, "_effect_order", lambda event: (event.occurred_at, not event.restrictive))


def missing_tile_shortens(patch: pytest.MonkeyPatch) -> None:
    """A tile that is missing is left out of a proof instead of stopping it."""

    def finish(plan: merkle.Plan, nodes: Any) -> list[bytes]:
        known = [[nodes[node] for node in one if node in nodes] for one in plan.ranges]
        return [merkle._fold(one) for one in known if one]

    patch.setattr(merkle, "finish", finish)
    patch.setattr(tile, "nodes_from", lambda tiles, nodes: {})


def sign_in_transaction(patch: pytest.MonkeyPatch) -> None:
    """The head of an administrative change is signed before the change is committed."""
    recorded = Change.record

    async def record(self: Change, *arguments: Any, **options: Any) -> None:
        await recorded(self, *arguments, **options)
        head = await ledger.head(self.connection, self.workspace_id)
        text = checkpoint.render(TreeHead(head.origin, TreeSize(head.size), head.root))
        await self.services.signer.sign(text.encode())

    patch.setattr(Change, "record", record)


def sign_in_the_past(patch: pytest.MonkeyPatch) -> None:
    """A clock that stands before the newest checkpoint is no reason not to sign."""
    patch.setattr(sign_checkpoint, "milliseconds", lambda at: 0)


def anchor_ignored(patch: pytest.MonkeyPatch) -> None:
    """Whatever the database holds agrees with what is anchored."""

    async def examine(services: Any, connection: Any, seen: Anchored, head: Any, lines: Any = ()) -> Agrees:
        return Agrees(seen.note)

    for module in (keep_anchor, sign_checkpoint):
        patch.setattr(module, "examine", examine)


def repeat_not_journaled(patch: pytest.MonkeyPatch) -> None:
    """A retry is answered although a crash came between the commit and the journal, and the journal never gets the line."""

    async def journal_again(*_: Any) -> None:
        pass

    patch.setattr(record_consents, "_journal_again", journal_again)


def journal_interleaved(patch: pytest.MonkeyPatch) -> None:
    """A write into the journal does not wait for the one before."""
    patch.setattr(journal, "ThreadPoolExecutor", lambda _, name: ThreadPoolExecutor(8, name))


def credential_never_reread(patch: pytest.MonkeyPatch) -> None:
    """Memory tells who calls, whatever the age of what it knows."""
    patch.setattr(
        manage_credentials, "CACHED_SECONDS", 30.0
    )  # not for ever: what was never read is as old as the machine


def cache_key_missing_field(patch: pytest.MonkeyPatch) -> None:
    """The compiled policy is kept by workspace, and not by version."""
    read = Services.policy
    first: dict[UUID, CompiledPolicy] = {}

    async def of_any_version(self: Services, workspace_id: UUID, ground: Ground) -> CompiledPolicy | None:
        if workspace_id not in first and (policy := await read(self, workspace_id, ground)) is not None:
            first[workspace_id] = policy
        return first.get(workspace_id)

    patch.setattr(Services, "policy", of_any_version)


def rollback_waits(patch: pytest.MonkeyPatch) -> None:
    """A transaction is rolled back over a connection that no longer answers."""
    patch.setattr(database, "_outcome_unknown", lambda error: False)


def caller_waits(patch: pytest.MonkeyPatch) -> None:
    """Finding out who calls takes as long as the database does."""
    patch.setattr(endpoint, "CALLER_SECONDS", None)


def dead_peer_unnoticed(patch: pytest.MonkeyPatch) -> None:
    """Sockets stay as asyncpg leaves them: a peer that is silently gone is never missed."""
    patch.setattr(database, "_DEAD_PEER", {})


def _migrated(patch: pytest.MonkeyPatch, name: str, change: Callable[[str], str]) -> None:
    """Change the SQL of one migration as it is applied."""
    shipped = schema.migrations

    def migrations() -> tuple[schema.Migration, ...]:
        changed = []
        for migration in shipped():
            if name in migration.name:
                sql = change(migration.sql)
                assert sql != migration.sql, f"the bug no longer fits {migration.name}"
                migration = msgspec.structs.replace(migration, sql=sql)
            changed.append(migration)
        return tuple(changed)

    patch.setattr(schema, "migrations", migrations)


def nextval_index(patch: pytest.MonkeyPatch) -> None:
    """The index comes from a sequence, which a rollback does not give back."""

    def change(sql: str) -> str:
        begin = "CREATE SEQUENCE bad MINVALUE 0;\n"
        return begin + sql.replace(
            "h.size + row_number() OVER (ORDER BY o) - 1 AS ix", "nextval('volenti.bad') AS ix", 1
        )

    _migrated(patch, "ids_of_all_logs", change)


def rls_off(patch: pytest.MonkeyPatch) -> None:
    """Row-level security is not switched on."""
    _migrated(patch, "rights", lambda sql: sql.replace("%I ENABLE ROW LEVEL", "%I DISABLE ROW LEVEL"))


def session_set_config(patch: pytest.MonkeyPatch) -> None:
    """The workspace is set for the session, so that a pooled connection keeps it."""
    _migrated(patch, "policy_activation", lambda sql: sql.replace("p_ws::text, true)", "p_ws::text, false)"))


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    mutant.__name__: mutant
    for mutant in (
        ack_before_commit, journal_no_fsync, revision_unchecked, guard_off, permissive_wins_ties,
        missing_tile_shortens,
        nextval_index, rls_off, session_set_config, sign_in_transaction, sign_in_the_past, anchor_ignored,
        repeat_not_journaled, journal_interleaved, credential_never_reread, cache_key_missing_field, rollback_waits,
        caller_waits, dead_peer_unnoticed,
    )
}  # fmt: skip


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Put a bug on the package for as long as the block lasts."""
    with pytest.MonkeyPatch.context() as patch:
        MUTANTS[name](patch)
        yield
