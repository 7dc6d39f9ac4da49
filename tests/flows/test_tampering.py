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
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from deployments import services_on
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
from volenti.flows.publish_policy import Published, activate, publish
from volenti.flows.rebuild_states import rebuild
from volenti.flows.record_consents import Recorded, Retry, record
from volenti.flows.services import Services
from volenti.flows.verify_ledger import verify
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
UNSIGNED = {"decision_log", "decision_gap", "schema_migration"}
"""No entry of the ledger tells what is in these."""
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
    "policy_activation": lambda row: [f"policy activation {row['number']}:"],
    "notice_version": lambda row: [f"notice {row['notice']}@{row['version']}"],
    "credential": lambda row: [f"credential {row['credential_id']}"],
    "deployment": lambda row: ["deployment:", "another key file"],
}
"""What a finding must say for a row of a table: one of these."""


UNANCHORED = {"anchor": "off", "journal": "off"}
"""What is found here is found by the database's own rows and their signatures."""


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
    """Two people with more entries than a tile holds, a stored answer, credentials, two policies, the second one put off; all of it signed."""
    await schema.bootstrap(server.url("volenti", name))
    await schema.migrate(server.url("volenti_migrate", name), report=lambda line: None)
    async with services_on(server, name, **UNANCHORED) as services:
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
        text = (
            starter_policy("acme").replace("version: 1", "version: 2", 1).replace("write to me about news", "send me")
        )
        assert isinstance(await publish(services, workspace, text), Published)
        assert isinstance(await activate(services, workspace, 1), Published)
        assert isinstance(await activate(services, workspace, 2, at=services.clock() + 86_400_000), Published)
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
        (row,) = await connection.fetch("SELECT * FROM volenti.data_subject_state ORDER BY holder LIMIT 1")
        return tuple(row)
    finally:
        await connection.close()


@pytest.fixture
async def services(server: Embedded, scene: Scene) -> AsyncIterator[Services]:
    async with services_on(server, scene.database, **UNANCHORED) as services:
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


async def told(services: Services, workspace: UUID, *, names: Sequence[str] = ()) -> list[str]:
    """What the two passes say; the second one is left out if the first one says one of the names."""
    sealed = any(name.startswith(("data subject", "identifier", "idempotency", "credential")) for name in names)
    said: list[str] = []
    for findings in (_rebuilt, _verified) if sealed else (_verified, _rebuilt):
        said += [f"{finding.where}: {finding.what}" for finding in await findings(services, workspace)]
        if any(name in line for name in names for line in said):
            break
    return said


async def _verified(services: Services, workspace: UUID) -> list[Finding]:
    return [finding for report in await verify(services, workspaces=[workspace]) for finding in report.findings]


async def _rebuilt(services: Services, workspace: UUID) -> list[Finding]:
    try:
        results = await rebuild(services)
    except Invalid as error:
        return [Finding("rebuild", str(error))]
    return [finding for rebuilt in results for finding in rebuilt.findings]


# --- every column


async def test_the_untouched_workspace_is_clean(services: Services, scene: Scene) -> None:
    assert await told(services, scene.workspace) == []


async def test_every_table_and_every_exception_is_one_of_the_schema(superuser: Any) -> None:
    columns = await superuser.fetch(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'volenti'"
    )
    tables = {table for table, _ in columns}

    assert set(NAMES) | set(EMPTY) | UNSIGNED == tables
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


# --- whole rows

LOSABLE = {
    "ledger_checkpoint": "known to those who hold it; the newest shows as a smaller signed size",
    "idempotency": "a stored answer may go at any time: pruning takes it after seven days",
}
"""Tables whose rows may go without a finding."""


@pytest.mark.parametrize("table", [table for table in NAMES if table not in LOSABLE])
async def test_a_deleted_row_is_found_and_named(services: Services, superuser: Any, scene: Scene, table: str) -> None:
    unfound = []
    count = len(await _rows(superuser, table))
    for position in sorted({0, count // 2, count - 1}):
        row = (await _rows(superuser, table))[position]
        async with put_back(superuser, table):
            await superuser.execute(f"DELETE FROM {table} WHERE ctid = $1", row["ctid"])
            said = await told(services, scene.workspace, names=NAMES[table](row))
        if not any(name in line for name in NAMES[table](row) for line in said):
            unfound.append((NAMES[table](row), said[:3]))

    assert unfound == []


INSERTIONS = {
    "ledger_entry": (
        (
            "SELECT workspace_id, log_id, idx + 1, gen_random_uuid(), leaf_hash, leaf, inserted_at FROM ledger_entry"
            " ORDER BY idx DESC LIMIT 1"
        ),
        "head: the head counts",
    ),
    "ledger_tile": (
        "SELECT workspace_id, log_id, level, idx + 1, root, hashes FROM ledger_tile LIMIT 1",
        "tile/0/001",
    ),
    "ledger_checkpoint": (
        "SELECT workspace_id, log_id, size + 7, root, note, signed_at FROM ledger_checkpoint ORDER BY size DESC LIMIT 1",
        "its row says that its size is",
    ),
    "ledger_change": (
        "SELECT workspace_id, log_id, idx + 1, holder FROM ledger_change ORDER BY idx DESC LIMIT 1",
        "ledger_change: 1 rows belong to no entry",
    ),
    "entry_payload": (
        "SELECT workspace_id, log_id, idx + 1, body FROM entry_payload ORDER BY idx DESC LIMIT 1",
        "entry_payload: 1 rows belong to no entry",
    ),
    "data_subject_entry": (
        "SELECT workspace_id, holder, log_id, idx + 1 FROM data_subject_entry ORDER BY idx DESC LIMIT 1",
        "data_subject_entry: 1 rows belong to no entry",
    ),
    "data_subject": (
        "SELECT workspace_id, '00000000-0000-4000-8000-000000000001'::uuid, wrapped_key FROM data_subject LIMIT 1",
        "data subject 00000000-0000-4000-8000-000000000001: it has rows but no entries",
    ),
    "data_subject_state": (
        (
            "SELECT workspace_id, '00000000-0000-4000-8000-000000000001'::uuid, revision, last_entry_id, sealed"
            " FROM data_subject_state LIMIT 1"
        ),
        "data subject 00000000-0000-4000-8000-000000000001: it has rows but no entries",
    ),
    "data_subject_identifier": (
        "SELECT workspace_id, sha256('stranger'), holder, sealed FROM data_subject_identifier LIMIT 1",
        "no entry registered it",
    ),
    "suppression": (
        "SELECT workspace_id, sha256('stranger'), holder FROM data_subject LIMIT 1",
        "suppression: 1 rows",
    ),
    "idempotency": (
        (
            "SELECT workspace_id, credential_id, sha256(key), fingerprint, first_index, entry_count, answer, created_at"
            " FROM idempotency"
        ),
        "the answer does not open",
    ),
    "policy_version": (
        "SELECT workspace_id, 3, hash, document, source, published_at, entry_id FROM policy_version WHERE version = 1",
        "policy version 3: no entry published it",
    ),
    "policy_activation": (
        (
            "SELECT workspace_id, number + 1, version, active_from, recorded_at, entry_id FROM policy_activation"
            " ORDER BY number DESC LIMIT 1"
        ),
        "policy activation 5: no entry recorded it",
    ),
    "notice_version": (
        (
            "SELECT workspace_id, notice, 9, change, hash, 1, published_at FROM notice_version WHERE notice = 'newsletter'"
            " LIMIT 1"
        ),
        "notice newsletter@9: no policy published it",
    ),
    "credential": (
        (
            "SELECT workspace_id, '00000000-0000-4000-8000-000000000001'::uuid, component, scopes, purposes, actions,"
            " sha256(mac), issued_at, NULL::timestamptz, NULL::timestamptz FROM credential LIMIT 1"
        ),
        "credential 00000000-0000-4000-8000-000000000001",
    ),
}
"""A row that the attacker adds, made from one that is there, and what must be said of it."""


@pytest.mark.parametrize("table", INSERTIONS)
async def test_an_added_row_is_found_and_named(services: Services, superuser: Any, scene: Scene, table: str) -> None:
    row, name = INSERTIONS[table]
    async with put_back(superuser, table):
        await superuser.execute(f"INSERT INTO {table} {row}")

        assert [line for line in await told(services, scene.workspace, names=[name]) if name in line]


async def test_an_older_state_row_put_back_is_found(services: Services, superuser: Any, scene: Scene) -> None:
    _, holder, revision, last_entry_id, sealed = scene.older_state
    async with put_back(superuser, "data_subject_state"):
        await superuser.execute(
            "UPDATE data_subject_state SET revision = $2, last_entry_id = $3, sealed = $4 WHERE holder = $1",
            holder, revision, last_entry_id, sealed,
        )  # fmt: skip
        said = await told(services, scene.workspace)

    assert said[0].startswith(f"data subject {holder}: the state row is not as of the last entry")
    assert all(line.startswith(f"data subject {holder}: ") for line in said)


async def test_an_older_state_under_the_newest_columns_does_not_open(
    services: Services, superuser: Any, scene: Scene
) -> None:
    _, holder, _, _, sealed = scene.older_state
    async with put_back(superuser, "data_subject_state"):
        await superuser.execute("UPDATE data_subject_state SET sealed = $2 WHERE holder = $1", holder, sealed)

        assert await told(services, scene.workspace) == [f"data subject {holder}: the state row does not open"]


@pytest.mark.parametrize("table", ["data_subject", "data_subject_state", "data_subject_identifier"])
async def test_what_is_sealed_for_one_person_does_not_open_for_another(
    services: Services, superuser: Any, scene: Scene, table: str
) -> None:
    columns = {"data_subject": "wrapped_key", "data_subject_state": "(revision, last_entry_id, sealed)"}
    column = columns.get(table, "sealed")
    sources = column.strip("()").replace(", ", ", s.")
    async with put_back(superuser, table):
        await superuser.execute(
            f"UPDATE {table} t SET {column} = (SELECT s.{sources} FROM {table} s WHERE s.holder <> t.holder LIMIT 1)"
        )
        said = await told(services, scene.workspace)

    for holder in await superuser.fetch("SELECT DISTINCT holder FROM data_subject"):
        assert [line for line in said if str(holder[0]) in line]


async def test_people_whose_identifiers_were_exchanged_are_found(
    services: Services, superuser: Any, scene: Scene
) -> None:
    async with put_back(superuser, "data_subject_identifier"):
        await superuser.execute(
            "UPDATE data_subject_identifier i SET holder = (SELECT holder FROM data_subject s WHERE s.holder <> i.holder)"
        )
        said = await told(services, scene.workspace)

    assert len([line for line in said if line.endswith("it is bound to somebody else")]) == 4


async def test_a_credential_whose_revocation_is_taken_back_is_named(
    services: Services, superuser: Any, scene: Scene
) -> None:
    async with put_back(superuser, "credential"):
        revived = await superuser.fetchval(
            "UPDATE credential SET revoked_at = NULL WHERE revoked_at IS NOT NULL RETURNING credential_id"
        )

        assert await told(services, scene.workspace) == [f"credential {revived}: its revocation is not as recorded"]


async def test_another_policy_under_its_own_hash_is_not_the_published_one(
    services: Services, superuser: Any, scene: Scene
) -> None:
    async with put_back(superuser, "policy_version"):
        await superuser.execute(
            "UPDATE policy_version v SET (document, source) = (SELECT w.document, w.source FROM policy_version w"
            " WHERE w.version <> v.version); UPDATE policy_version SET hash = sha256(document)"
        )
        said = await told(services, scene.workspace, names=["policy version 2"])

    assert [line for line in said if line.startswith("policy version 1: the document is not the one that entry")]


async def test_a_version_put_in_force_under_another_ones_entry_is_named(
    services: Services, superuser: Any, scene: Scene
) -> None:
    """Versions exchanged between two activations: each row names an entry that is there, of its own time."""
    async with put_back(superuser, "policy_activation"):
        await superuser.execute("UPDATE policy_activation SET version = 3 - version WHERE number IN (2, 3)")
        said = await told(services, scene.workspace)

    for number in (2, 3):
        assert [line for line in said if line.startswith(f"policy activation {number}: it is not of the document")]


# --- attacks that keep the tree in order: only a signature tells


async def _rehash(superuser: Any, scene: Scene) -> None:
    """Make leaf hashes, tiles and head those of the entries as they are now: all that needs no key."""
    edge, tiles = Edge(), []
    for row in await superuser.fetch("SELECT leaf FROM ledger_entry ORDER BY idx"):
        tiles += edge.append(merkle.leaf_hash(row["leaf"]))
    await superuser.execute("UPDATE ledger_entry SET leaf_hash = sha256('\\x00'::bytea || leaf); TRUNCATE ledger_tile")
    for full in tiles:
        await superuser.execute(
            "INSERT INTO ledger_tile VALUES ($1, 1, $2, $3, $4, $5)",
            scene.workspace, full.level, full.index, full.root, full.hashes,
        )  # fmt: skip
    await superuser.execute(
        "UPDATE ledger_head SET size = $1, root = $2, frontier = $3", edge.size, edge.root(), edge.frontier
    )


TREE = ("ledger_entry", "ledger_tile", "ledger_head")
BESIDE = ("entry_payload", "data_subject_entry", "ledger_change")


async def _newest_checkpoint(superuser: Any) -> str:
    return f"checkpoint of size {await superuser.fetchval('SELECT max(size) FROM ledger_checkpoint')}"


async def test_a_forged_entry_with_recomputed_hashes_contradicts_the_checkpoints(
    services: Services, superuser: Any, scene: Scene
) -> None:
    async with put_back(superuser, *TREE):
        row = await superuser.fetchrow("SELECT idx, leaf FROM ledger_entry WHERE idx = 100")
        forged = row["leaf"].replace(b"consent.denied", b"consent.granted")
        await superuser.execute("UPDATE ledger_entry SET leaf = $1 WHERE idx = 100", forged)
        await _rehash(superuser, scene)
        said = await told(services, scene.workspace)

    assert forged != row["leaf"]
    assert f"{await _newest_checkpoint(superuser)}: its root is not that of the entries" in said
    assert len([line for line in said if line.endswith("its root is not that of the entries")]) == 4


async def test_two_entries_exchanged_with_all_that_is_beside_them_contradict_the_checkpoints(
    services: Services, superuser: Any, scene: Scene
) -> None:
    tables = ("ledger_entry", *BESIDE)
    async with put_back(superuser, *TREE, *BESIDE):
        for table in tables:
            for was, becomes in ((100, -1), (101, 100), (-1, 101)):
                await superuser.execute(f"UPDATE {table} SET idx = $2 WHERE idx = $1", was, becomes)
        await _rehash(superuser, scene)
        said = await told(services, scene.workspace)

    assert f"{await _newest_checkpoint(superuser)}: its root is not that of the entries" in said


async def test_a_tail_cut_off_without_a_trace_contradicts_the_newest_checkpoint(
    services: Services, superuser: Any, scene: Scene
) -> None:
    async with put_back(superuser, *TREE, *BESIDE):
        last = await superuser.fetchval("SELECT max(idx) FROM ledger_entry")
        for table in ("ledger_entry", *BESIDE):
            await superuser.execute(f"DELETE FROM {table} WHERE idx = $1", last)
        await _rehash(superuser, scene)
        said = await told(services, scene.workspace)

    assert f"{await _newest_checkpoint(superuser)}: it signs more entries than the {last} that are there" in said


async def test_a_lost_newest_checkpoint_shows_in_the_signed_size(
    services: Services, superuser: Any, scene: Scene
) -> None:
    async with put_back(superuser, "ledger_checkpoint"):
        newest, before = await superuser.fetch("SELECT size FROM ledger_checkpoint ORDER BY size DESC LIMIT 2")
        await superuser.execute("DELETE FROM ledger_checkpoint WHERE size = $1", newest[0])
        (report,) = await verify(services, workspaces=[scene.workspace])

    assert before[0] == report.signed_size
    assert newest[0] == report.size


async def test_an_entry_of_a_person_cannot_be_forged_at_the_tail_without_the_persons_key(
    services: Services, superuser: Any, scene: Scene
) -> None:
    async with put_back(superuser, *TREE, *BESIDE, "data_subject_state"):
        copied = await superuser.fetchrow(
            "SELECT e.idx, x.holder, e.leaf, p.body FROM ledger_entry e JOIN entry_payload p USING (idx)"
            " JOIN data_subject_entry x USING (idx) ORDER BY e.idx DESC LIMIT 1"
        )
        entry_id, index = uuid4(), copied["idx"] + 1
        kept = copied["leaf"].index(b'"id":"') + 6
        leaf = copied["leaf"][:kept] + str(entry_id).encode() + copied["leaf"][kept + 36 :]
        await _insert_entry(superuser, scene, index, entry_id, leaf, copied["body"], copied["holder"])
        await superuser.execute(
            "UPDATE data_subject_state SET revision = $2, last_entry_id = $3 WHERE holder = $1",
            copied["holder"], index + 1, entry_id,
        )  # fmt: skip
        await _rehash(superuser, scene)

        assert [line for line in await told(services, scene.workspace) if line.startswith(f"entry {index}: ")]


async def test_a_credential_issued_a_second_time_with_more_scopes_is_named(
    services: Services, superuser: Any, scene: Scene
) -> None:
    async with put_back(superuser, *TREE, *BESIDE, "credential"):
        credential, body = await superuser.fetchrow(
            "SELECT c.credential_id, p.body FROM credential c JOIN entry_payload p"
            " ON position(convert_to(c.credential_id::text, 'UTF8') IN p.body) > 0 WHERE c.revoked_at IS NULL"
        )
        index = await superuser.fetchval("SELECT max(idx) + 1 FROM ledger_entry")
        payload = body[32:].replace(b'"check"', b'"admin"')
        entry_id, salt = uuid4(), body[:32]
        leaf = encode(
            Leaf(str(entry_id), services.clock(), "credential.issued", (), None, None, commitment(salt, payload))
        )
        await _insert_entry(superuser, scene, index, entry_id, leaf, salt + payload, None)
        await superuser.execute("UPDATE credential SET scopes = '{admin}' WHERE credential_id = $1", credential)
        await _rehash(superuser, scene)
        said = await told(services, scene.workspace)

    assert any(line.startswith(f"entry {index}: the service did not record it") for line in said)
    assert f"credential {credential}: the row is not what was issued" in said


@pytest.mark.parametrize("payload", [b"[]", b"nothing", b'{"credential":1}', b"{}"])
@pytest.mark.parametrize("kind", ["credential.issued", "credential.revoked", "workspace.created"])
async def test_a_forged_entry_of_the_workspace_is_named_whatever_its_payload_holds(
    services: Services, superuser: Any, scene: Scene, kind: str, payload: bytes
) -> None:
    async with put_back(superuser, *TREE, *BESIDE):
        index = await superuser.fetchval("SELECT max(idx) + 1 FROM ledger_entry")
        entry_id, salt = uuid4(), hashlib.sha256(payload).digest()
        leaf = encode(Leaf(str(entry_id), services.clock(), kind, (), None, None, commitment(salt, payload)))
        await _insert_entry(superuser, scene, index, entry_id, leaf, salt + payload, None)
        await _rehash(superuser, scene)

        assert [line for line in await told(services, scene.workspace) if line.startswith(f"entry {index}: ")]


async def _insert_entry(
    superuser: Any, scene: Scene, index: int, entry_id: UUID, leaf: bytes, body: bytes, holder: UUID | None
) -> None:
    workspace = scene.workspace
    await superuser.execute(
        "INSERT INTO ledger_entry VALUES ($1, 1, $2, $3, $4, $5, volenti.now())",
        workspace, index, entry_id, merkle.leaf_hash(leaf), leaf,
    )  # fmt: skip
    await superuser.execute("INSERT INTO entry_payload VALUES ($1, 1, $2, $3)", workspace, index, body)
    await superuser.execute("INSERT INTO ledger_change VALUES ($1, 1, $2, $3)", workspace, index, holder)
    if holder is not None:
        await superuser.execute("INSERT INTO data_subject_entry VALUES ($1, $2, 1, $3)", workspace, holder, index)


async def test_after_every_attack_the_rows_are_as_they_were(services: Services, scene: Scene) -> None:
    assert await told(services, scene.workspace) == []
