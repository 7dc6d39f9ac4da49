"""Whoever may change every row of the database cannot change what a proof, an export or an answer relies on unseen.

The attacker of this module is a superuser of a database of its own, with all triggers off and all checks dropped. After
each attack `verify` or `rebuild` must name what was changed; then the rows are put back. The columns come from the
catalogue: a new one is attacked by its type, or stands among the EXCEPTIONS with the reason why it need not be.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from volenti.core.admission import Choice, Command, Facts
from volenti.core.audit.verify import Finding
from volenti.core.data_subject import Identifier
from volenti.core.entry import Leaf, commitment, encode
from volenti.core.ledger import merkle
from volenti.core.ledger.tile import Edge
from volenti.core.policy.starter import starter_policy
from volenti.errors import Invalid
from volenti.flows import sign_checkpoint
from volenti.flows.create_workspace import create
from volenti.flows.manage_credentials import issue, revoke
from volenti.flows.open_services import opened
from volenti.flows.publish_policy import Published, publish
from volenti.flows.rebuild_states import rebuild
from volenti.flows.record_consents import Recorded, Retry, record
from volenti.flows.services import Services
from volenti.flows.verify_ledger import verify
from volenti.settings import Settings
from volenti.store import schema
from volenti.store.embedded import Embedded

EXCEPTIONS = {
    ("ledger_log", "created_at"): "nothing reads it; the workspace's first entry has the signed time",
    ("ledger_head", "updated_at"): "nothing reads it",
    ("ledger_entry", "inserted_at"): "not signed; it only tells the change feed's age, the signed time is in the leaf",
    ("ledger_checkpoint", "workspace_id"): "a checkpoint taken away is known to those who hold it, not to the database",
    ("ledger_checkpoint", "signed_at"): "not signed; no answer gives it, a checkpoint has no time of its own",
    ("idempotency", "workspace_id"): "a stored answer may go at any time: pruning takes it after seven days",
    ("idempotency", "created_at"): "it only tells when the answer is pruned",
    ("credential", "issued_at"): "nothing reads it; the entry of the issue has the signed time",
    ("deployment", "one"): "the only value that its check admits",
    ("schema_migration", "number"): "compared with the files whenever a process opens the database",
    ("schema_migration", "name"): "as number",
    ("schema_migration", "sha256"): "as number",
    ("schema_migration", "applied_at"): "nothing reads it",
    ("schema_migration", "duration_ms"): "nothing reads it",
}  # fmt: skip
EMPTY = {"suppression": "no part of the service writes it yet, so that any row at all is found"}

CHANGES = {
    "uuid": "gen_random_uuid()",
    "bytea": "coalesce(set_byte({0}, length({0}) - 1, get_byte({0}, length({0}) - 1) # 1), '\\x00')",
    "int2": "{0} + 1000",
    "int4": "{0} + 1000",
    "int8": "{0} + 1000",
    "text": "{0} || 'x'",
    "bool": "NOT {0}",
    "timestamptz": "coalesce({0} + interval '1 second', volenti.now())",
    "jsonb": "'{{\"languages\": []}}'",
    "_text": "array_append(coalesce({0}, '{{}}'), 'security')",
    "_bytea": "array_replace({0}, {0}[1], sha256({0}[1]))",
}
"""What the attacker makes of a value, by its type."""
CHANGES_OF = {("ledger_log", "state"): "'frozen'"}

Row = asyncpg.Record
NAMES: dict[str, Callable[[Row], Sequence[str]]] = {
    "workspace": lambda row: [f"workspace {row['name']}", f"workspace {row['workspace_id']}"],
    "ledger_log": lambda row: ["log:", "another log"],
    "ledger_head": lambda row: ["head:", "log:"],
    "ledger_entry": lambda row: [f"entry {row['idx']}:"],
    "ledger_tile": lambda row: [f"tile/{row['level']}/{row['idx']:03}"],
    "ledger_checkpoint": lambda row: [f"checkpoint of size {row['size']}", "ledger_checkpoint:"],
    "ledger_change": lambda row: [f"entry {row['idx']}:"],
    "data_subject": lambda row: [f"data subject {row['holder']}"],
    "data_subject_identifier": lambda row: [f"identifier {row['blind_index'].hex()[:16]}"],
    "entry_payload": lambda row: [f"entry {row['idx']}:"],
    "data_subject_entry": lambda row: [f"entry {row['idx']}:"],
    "data_subject_state": lambda row: [f"data subject {row['holder']}"],
    "idempotency": lambda row: [f"idempotency row {row['key'].hex()[:14]}"],
    "policy_version": lambda row: [f"policy version {row['version']}"],
    "notice_version": lambda row: [f"notice {row['notice']}@{row['version']}"],
    "credential": lambda row: [f"credential {row['credential_id']}"],
    "deployment": lambda row: ["deployment:", "another key file"],
}
"""What a finding must say for a row of a table: one of these."""


@dataclass(frozen=True)
class Scene:
    """A workspace in a database of its own, and what its rows were at an earlier moment."""

    database: str
    workspace: UUID
    older_state: tuple[Any, ...]


@pytest.fixture(scope="module")
def scene(server: Embedded) -> Iterator[Scene]:
    name = f"tampering_{os.getpid()}"
    asyncio.run(_execute(server.url("volenti", "postgres"), f"CREATE DATABASE {name} TEMPLATE template0"))
    try:
        yield asyncio.run(_scene(server, name))
    finally:
        asyncio.run(_execute(server.url("volenti", "postgres"), f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _scene(server: Embedded, name: str) -> Scene:
    """Two people with more entries than a tile holds, a stored answer, credentials, two policies; all of it signed."""
    await schema.bootstrap(server.url("volenti", name))
    await schema.migrate(server.url("volenti_migrate", name), report=lambda line: None)
    async with opened(_settings(server), lambda role: server.url(role, name)) as services:
        workspace = await create(services, "acme")
        first = await issue(services, workspace, component="shop", scopes=["check"], purposes=["newsletter"])
        await issue(services, workspace, component="crm", scopes=["check"], actions=["send"], expires_at=4102444800000)
        await revoke(services, workspace, UUID(first.credential_id))
        for person in ("anna", "bela"):
            await _record(services, workspace, person, choices=1, email=f"{person}@shop.example")
        older = await _state_of(server, name)
        for person in ("anna", "bela", "anna", "bela"):
            await _record(services, workspace, person, choices=66)
            await sign_checkpoint.sign(services, workspace)
        retry = Retry(UUID(first.credential_id), "order-1", "POST /v1/consents", b"{}")
        await _record(services, workspace, "bela", choices=2, retry=retry)
        text = starter_policy("acme").replace("version: 1", "version: 2", 1).replace("write to me about news", "send me")
        assert isinstance(await publish(services, workspace, text), Published)
        await _record(services, workspace, "anna", choices=1)
        await sign_checkpoint.sign(services, workspace)
    await _execute(server.url("volenti", name), _DISARM)
    return Scene(name, workspace, older)


_DISARM = """
DO $$
DECLARE r record;
BEGIN
  FOR r IN SELECT conrelid::regclass AS t, conname FROM pg_constraint
           WHERE contype = 'c' AND connamespace = 'volenti'::regnamespace LOOP
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', r.t, r.conname);
  END LOOP;
  FOR r IN SELECT oid::regclass AS t FROM pg_class WHERE relkind = 'r' AND relnamespace = 'volenti'::regnamespace LOOP
    EXECUTE format('ALTER TABLE %s DISABLE TRIGGER ALL', r.t);
  END LOOP;
END $$
"""


def _settings(server: Embedded) -> Settings:
    return Settings(data_dir=str(server.data_dir), log_level="error")


async def _record(
    services: Services,
    workspace: UUID,
    person: str,
    *,
    choices: int,
    email: str | None = None,
    retry: Retry | None = None,
) -> None:
    choice = Choice(kind="deny", purpose="newsletter", channels=("email",))
    command = Command(actor="data_subject", component="tests", choices=(choice,) * choices, facts=Facts())
    who = (Identifier("id", person), *([Identifier("email", email)] if email else []))
    assert isinstance(await record(services, workspace, command, who, retry), Recorded)


async def _state_of(server: Embedded, database: str) -> tuple[Any, ...]:
    connection = await asyncpg.connect(server.url("volenti", database))
    try:
        return tuple(await connection.fetchrow("SELECT * FROM volenti.data_subject_state ORDER BY holder LIMIT 1"))
    finally:
        await connection.close()


@pytest.fixture
async def services(server: Embedded, scene: Scene) -> AsyncIterator[Services]:
    async with opened(_settings(server), lambda role: server.url(role, scene.database)) as services:
        yield services


@pytest.fixture
async def superuser(server: Embedded, scene: Scene) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(
        server.url("volenti", scene.database), server_settings={"search_path": "volenti"}
    )
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def put_back(superuser: Any, *tables: str) -> AsyncIterator[None]:
    """Let the block change the rows of some tables, then put every row back."""
    for table in tables:
        await superuser.execute(f"CREATE TEMPORARY TABLE kept_{table} AS TABLE {table}")
    try:
        yield
    finally:
        for table in tables:
            await superuser.execute(
                f"TRUNCATE {table}; INSERT INTO {table} TABLE kept_{table}; DROP TABLE kept_{table}"
            )


async def told(services: Services, workspace: UUID, *, names: Sequence[str] = ("",)) -> list[str]:
    """What the two passes say; the second is left out if the first one names what it should."""
    findings: list[Finding] = []
    for report in await verify(services, workspaces=[workspace]):
        findings += report.findings
    said = [f"{finding.where}: {finding.what}" for finding in findings]
    if any(name in line for name in names for line in said):
        return said
    with suppress(StopAsyncIteration):
        try:
            for rebuilt in await rebuild(services, workspaces_only={workspace}):
                said += [f"{finding.where}: {finding.what}" for finding in rebuilt.findings]
        except Invalid as error:
            said.append(str(error))
    return said


# --- every column


async def test_the_untouched_workspace_is_clean(services: Services, scene: Scene) -> None:
    assert await told(services, scene.workspace) == []


async def test_every_table_and_every_exception_is_one_of_the_schema(superuser: Any) -> None:
    columns = await superuser.fetch(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'volenti'"
    )
    tables = {table for table, _ in columns}

    assert set(NAMES) | set(EMPTY) | {"schema_migration"} == tables
    assert set(EXCEPTIONS) <= {tuple(column) for column in columns}
    for table in EMPTY:
        assert await superuser.fetchval(f"SELECT count(*) FROM {table}") == 0


@pytest.mark.parametrize("table", NAMES)
async def test_a_change_of_any_column_is_found_and_the_row_is_named(
    services: Services, superuser: Any, scene: Scene, table: str
) -> None:
    unfound = []
    columns = await superuser.fetch(
        "SELECT column_name, udt_name, is_nullable = 'YES' FROM information_schema.columns"
        " WHERE table_schema = 'volenti' AND table_name = $1",
        table,
    )
    for column, type_name, nullable in columns:
        if (table, column) in EXCEPTIONS:
            continue
        changes = [CHANGES_OF.get((table, column), CHANGES[type_name]).format(column)]
        for value in [*changes, "NULL"] if nullable else changes:
            count = len(await _rows(superuser, table))
            for position in sorted({0, count // 2, count - 1}):
                row = (await _rows(superuser, table))[position]
                if value == "NULL" and row[column] is None:
                    continue
                async with put_back(superuser, table):
                    await superuser.execute(f"UPDATE {table} SET {column} = {value} WHERE ctid = $1", row["ctid"])
                    said = await told(services, scene.workspace, names=NAMES[table](row))
                if not any(name in line for name in NAMES[table](row) for line in said):
                    unfound.append((column, value, NAMES[table](row), said[:3]))

    assert unfound == []


async def _rows(superuser: Any, table: str) -> list[Row]:
    rows: list[Row] = await superuser.fetch(f"SELECT ctid, * FROM {table} ORDER BY 2, 3, 4")
    return rows
