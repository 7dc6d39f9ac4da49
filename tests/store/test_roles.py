"""Each role of the database may do what its part of the service needs, and nothing else; nobody reads across workspaces."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from deployments import services_on
from volenti.core.admission import Choice, Command
from volenti.core.data_subject import Identifier
from volenti.core.decision import Question
from volenti.core.policy.document import Action, Channel
from volenti.errors import Invalid, Unavailable
from volenti.flows.check_policy import Asked, check
from volenti.flows.clock import instant, wall_clock
from volenti.flows.create_workspace import create
from volenti.flows.manage_credentials import issue
from volenti.flows.record_consents import Retry, record
from volenti.flows.services import Services
from volenti.flows.sign_checkpoint import sign
from volenti.store import credentials, decision_log, ledger
from volenti.store.appender import Appended, Repeated
from volenti.store.database import Database
from volenti.store.embedded import Embedded

ROLES = ("volenti_app", "volenti_admin", "volenti_signer", "volenti_audit", "volenti_eraser")
LEDGER = ("ledger_log", "ledger_head", "ledger_entry", "ledger_tile", "ledger_checkpoint")
SEALED = (
    "data_subject", "data_subject_identifier", "data_subject_state", "data_subject_entry", "entry_payload",
    "suppression", "idempotency",
)  # fmt: skip
PUBLISHED = ("policy_version", "policy_activation", "notice_version", "credential")
DECISIONS = ("decision_log", "decision_gap")
OLDER = (*LEDGER, "ledger_change", *SEALED, *PUBLISHED, "workspace", "deployment", "schema_migration")
EVERY = (*OLDER, *DECISIONS)

MAY: dict[str, dict[str, tuple[str, ...]]] = {
    "volenti_app": {"SELECT": EVERY, "INSERT": DECISIONS},
    "volenti_admin": {
        "SELECT": OLDER,
        "INSERT": ("workspace", "deployment", *PUBLISHED),
        "UPDATE": ("workspace", "deployment", "credential"),  # of one column each, see below
    },
    "volenti_signer": {
        "SELECT": (*LEDGER, "workspace", "deployment", "schema_migration"),
        "INSERT": ("ledger_checkpoint",),
    },
    "volenti_audit": {"SELECT": (*LEDGER, "ledger_change", *PUBLISHED, "workspace", "deployment", "schema_migration")},
    "volenti_eraser": {
        "SELECT": ("idempotency", "ledger_change", "ledger_entry", "decision_gap", "schema_migration"),
        "DELETE": ("idempotency", "ledger_change", "decision_gap"),
    },
}
"""What each role may do, on which tables. What is not here is refused."""
UPDATABLE = {
    ("workspace", "settings"),
    ("deployment", "test_clock"),
    ("deployment", "epoch"),
    ("credential", "revoked_at"),
}

FUNCTIONS = {
    "volenti_app": {"ledger_append", "find_states", "poll_heads", "find_credential", "decision_log_prepare"},
    "volenti_admin": {"ledger_append", "ledger_open"},
    "volenti_signer": {"poll_heads", "ledger_freeze"},
    "volenti_audit": {"poll_heads"},
    "volenti_eraser": {"poll_heads", "decision_log_prepare", "decision_log_drop"},
}
"""What each role may execute beside volenti.now and volenti.current_workspace."""

REFUSED = (asyncpg.InsufficientPrivilegeError, asyncpg.ObjectNotInPrerequisiteStateError)


@asynccontextmanager
async def connected(server: Embedded, role: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(server.url(role), server_settings={"search_path": "volenti"})
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def filled(server: Embedded) -> UUID:
    """A workspace with a row in every table that has a writer."""
    return asyncio.run(_filled(server))


async def _filled(server: Embedded) -> UUID:
    choice = Choice(kind="withdraw", purpose="newsletter", channels=("email",))
    command = Command(actor="data_subject", component="tests", choices=(choice,))
    retry = Retry(UUID(int=1), "key", "POST /v1/consents", b"{}")
    async with services_on(server) as services:
        workspace = await create(services, f"filled-{uuid4().hex[:12]}")
        await issue(services, workspace, component="tests", scopes=["check"])
        await record(services, workspace, command, (Identifier("id", "anna"),), retry)
        await services.appender.append(workspace, 1, ledger.Item(_entries(300)))
        question = Question(action=Action.SEND, purpose="newsletter", channel=Channel.EMAIL)
        await check(services, workspace, [Asked(Identifier("id", "anna"), question)])
        services.decisions._miss(workspace, instant(wall_clock()))
        await services.decisions.flush()
        async with services.database.connection("volenti_app") as connection:
            await decision_log.prepare(connection, [date(2020, 1, 1)])
        await sign(services, workspace)
    return workspace


def _entries(count: int) -> tuple[ledger.PendingEntry, ...]:
    ids = [uuid4() for _ in range(count)]
    return tuple(ledger.PendingEntry(one, instant(wall_clock()), b"leaf of " + one.bytes, None, b"") for one in ids)


# --- rights


async def test_the_table_of_rights_names_every_table(superuser: Any) -> None:
    tables = await superuser.fetch("SELECT table_name FROM information_schema.tables WHERE table_schema = 'volenti'")

    assert {row[0] for row in tables} == set(EVERY)


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_do_what_the_table_says_and_no_more(superuser: Any, role: str) -> None:
    for table in EVERY:
        for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"):
            whole = await superuser.fetchval("SELECT has_table_privilege($1, $2, $3)", role, table, right)
            column = right in ("SELECT", "INSERT", "UPDATE", "REFERENCES") and await superuser.fetchval(
                "SELECT has_any_column_privilege($1, $2, $3)", role, table, right
            )

            assert (whole or column) == (table in MAY[role].get(right, ())), (role, right, table)


async def test_administration_updates_named_columns_only(superuser: Any) -> None:
    rows = await superuser.fetch(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = 'volenti' AND has_column_privilege('volenti_admin', 'volenti.' || table_name, column_name, 'UPDATE')"
    )

    assert {tuple(row) for row in rows} == UPDATABLE


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_execute_what_it_needs_and_no_more(superuser: Any, role: str) -> None:
    rows = await superuser.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'volenti'::regnamespace AND has_function_privilege($1, oid, 'EXECUTE')",
        role,
    )

    assert {row[0] for row in rows} - {"now", "current_workspace"} == FUNCTIONS[role]


async def test_no_function_of_the_schema_is_for_everybody(superuser: Any) -> None:
    await superuser.execute("CREATE ROLE stranger_of_the_tests")
    try:
        allowed = await superuser.fetchval(
            "SELECT count(*) FROM pg_proc WHERE pronamespace = 'volenti'::regnamespace"
            " AND has_function_privilege('stranger_of_the_tests', oid, 'EXECUTE')"
        )
    finally:
        await superuser.execute("DROP ROLE stranger_of_the_tests")

    assert allowed == 0


async def test_every_function_with_its_owners_rights_fixes_its_search_path(superuser: Any) -> None:
    rows = await superuser.fetch(
        "SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'volenti'::regnamespace AND prosecdef"
    )

    assert {row["proname"] for row in rows} > {"ledger_append", "ledger_open", "ledger_freeze", "poll_heads"}
    assert all("search_path=volenti, pg_temp" in row["proconfig"] for row in rows)


async def test_nothing_at_run_time_is_mighty_or_owns_a_table(superuser: Any, filled: UUID) -> None:
    rows = await superuser.fetch("SELECT * FROM pg_roles WHERE rolname LIKE 'volenti\\_%'")
    owners = await superuser.fetch(
        "SELECT relnamespace::regnamespace::text, pg_get_userbyid(relowner), array_agg(relname::text) FROM pg_class"
        " WHERE relnamespace IN ('volenti'::regnamespace, 'volenti_decisions'::regnamespace) AND relkind IN ('r', 'p') GROUP BY 1, 2"
    )
    idle = ("volenti_owner", "volenti_lookup", "volenti_decisions")

    assert {row["rolname"] for row in rows} >= {*ROLES, *idle, "volenti_migrate"}
    mighty = ("rolsuper", "rolbypassrls", "rolcreaterole", "rolcreatedb", "rolreplication")
    assert not [(row["rolname"], right) for row in rows for right in mighty if row[right]]
    assert not [row["rolname"] for row in rows if row["rolname"] in idle and row["rolcanlogin"]]
    assert {(row[0], row[1]) for row in owners} == {
        ("volenti", "volenti_owner"), ("volenti", "volenti_decisions"), ("volenti_decisions", "volenti_decisions"),
    }  # fmt: skip
    assert [row[2] for row in owners if tuple(row[:2]) == ("volenti", "volenti_decisions")] == [["decision_log"]]


FORBIDDEN = (
    "INSERT INTO ledger_entry SELECT * FROM ledger_entry",
    "UPDATE ledger_head SET size = size + 1",
    "UPDATE ledger_log SET state = 'sealed'",
    "DELETE FROM ledger_checkpoint",
    "TRUNCATE ledger_tile",
    "UPDATE data_subject SET wrapped_key = ''",
    "DELETE FROM data_subject_identifier",
    "UPDATE data_subject_state SET revision = 1",
    "INSERT INTO ledger_change VALUES (gen_random_uuid(), 1, 1, NULL)",
    "UPDATE idempotency SET answer = ''",
    "UPDATE policy_version SET source = ''",
    "UPDATE policy_activation SET version = 1",
    "UPDATE credential SET scopes = '{admin}'",
    "DELETE FROM credential",
    "UPDATE workspace SET wrapped_key = ''",
    "UPDATE deployment SET key_fingerprint = key_fingerprint",
    "UPDATE deployment SET key_fingerprint = ''",
    "CREATE TABLE volenti.more (one int)",
    "CREATE FUNCTION volenti.more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TABLE public.more (one int)",
    "DROP TABLE ledger_entry",
    "ALTER TABLE ledger_entry DISABLE TRIGGER ALL",
    "ALTER TABLE ledger_entry DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE ledger_entry DROP CONSTRAINT ledger_entry_check",
    "CREATE OR REPLACE FUNCTION volenti.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT clock_timestamp()'",
    "DROP POLICY workspace ON ledger_entry",
    "SET session_replication_role = replica",
    "SET ROLE volenti_owner",
    "SET ROLE volenti_lookup",
    "SET ROLE volenti_decisions",
    "UPDATE decision_log SET weight = 1",
    "DELETE FROM decision_log",
    "TRUNCATE decision_log",
    "DROP TABLE decision_log",
    "UPDATE decision_gap SET number = 1",
    "TABLE volenti_decisions.d20200101",
    "INSERT INTO volenti_decisions.d20200101 TABLE decision_log",
    "DROP TABLE volenti_decisions.d20200101",
    "CREATE TABLE volenti_decisions.more (one int)",
    "ALTER ROLE CURRENT_USER BYPASSRLS",
    "GRANT volenti_owner TO CURRENT_USER",
)  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_is_refused_whatever_would_change_what_is_recorded(
    server: Embedded, filled: UUID, role: str
) -> None:
    allowed = []
    async with connected(server, role) as connection:
        await connection.execute("SELECT set_config('app.workspace', $1, false)", str(filled))
        for statement in FORBIDDEN:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.execute(statement)
                allowed.append(statement)
            except REFUSED:
                pass
            finally:
                await transaction.rollback()

    assert allowed == []


# --- workspaces


async def _scoped(superuser: Any) -> list[str]:
    rows = await superuser.fetch(
        "SELECT table_name FROM information_schema.columns WHERE table_schema = 'volenti' AND column_name = 'workspace_id'"
    )
    return [row[0] for row in rows]


async def test_every_table_with_a_workspace_is_under_row_level_security_also_for_its_owner(superuser: Any) -> None:
    rows = await superuser.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'volenti'::regnamespace AND relkind IN ('r', 'p')"
        " AND relrowsecurity AND relforcerowsecurity"
    )
    bare = await superuser.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'volenti_decisions'::regnamespace AND relkind = 'r'"
        " AND NOT (relrowsecurity AND relforcerowsecurity)"
    )

    assert {row[0] for row in rows} == set(await _scoped(superuser))
    assert bare == []


@pytest.mark.parametrize("role", ["volenti_app", "volenti_admin"])
async def test_without_a_workspace_no_row_is_visible(server: Embedded, superuser: Any, filled: UUID, role: str) -> None:
    seen = {}
    async with connected(server, role) as connection:
        tables = [table for table in await _scoped(superuser) if table in MAY[role]["SELECT"]]
        for table in tables:
            seen[table] = await connection.fetchval(f"SELECT count(*) FROM {table}")
        await connection.execute("SELECT set_config('app.workspace', '', false)")  # what a pooled connection keeps
        for table in tables:
            seen[table] += await connection.fetchval(f"SELECT count(*) FROM {table}")

    visible = {table for table, count in seen.items() if count}
    assert visible == ({"workspace"} if role == "volenti_admin" else set())


async def test_the_setting_of_a_transaction_ends_with_it(services: Services, filled: UUID) -> None:
    connection = await services.database.connect("volenti_app")
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('app.workspace', $1, true)", str(filled))
            assert await connection.fetchval("SELECT count(*) FROM ledger_entry")

        assert await connection.fetchval("SELECT current_setting('app.workspace', true)") == ""
        assert await connection.fetchval("SELECT count(*) FROM ledger_entry") == 0
        await connection.fetch("SELECT * FROM find_states($1, $2)", filled, [])
        assert await connection.fetchval("SELECT count(*) FROM ledger_entry") == 0
    finally:
        await connection.close()


async def test_a_workspace_sees_its_own_rows_and_no_row_of_another(
    services: Services, superuser: Any, filled: UUID
) -> None:
    other = await create(services, f"other-{filled.hex[-12:]}")
    empty = {"suppression"}
    for workspace in (filled, other):
        async with services.database.workspace("volenti_app", workspace) as connection:
            for table in await _scoped(superuser):
                rows = await connection.fetch(f"SELECT DISTINCT workspace_id FROM {table}")
                assert {row[0] for row in rows} <= {workspace}
                assert rows or table in empty or workspace == other, table


async def test_a_row_cannot_be_written_into_another_workspace(services: Services, workspace: UUID) -> None:
    async with services.database.connection("volenti_admin") as connection, connection.transaction():
        await connection.execute("SELECT set_config('app.workspace', $1, true)", str(workspace))
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            async with connection.transaction():
                await connection.execute(
                    "INSERT INTO notice_version VALUES ($1, 'newsletter', 9, 'minor', '', 1, volenti.now())", uuid4()
                )


async def test_what_is_taken_in_one_workspace_is_free_in_another(services: Services) -> None:
    """A unique violation would tell that an id, an address or a key exists elsewhere."""
    one = _entries(1)[0]
    holder, index, key = uuid4(), os.urandom(32), os.urandom(32)
    item = ledger.Item(
        (ledger.PendingEntry(one.id, one.at, one.leaf, holder, b"sealed"),),
        holders=(ledger.PendingHolder(holder, 0, 1, one.id, b"sealed"),),
        new_holders=(ledger.NewHolder(holder, b"wrapped"),),
        identifiers=(ledger.IdentifierChange(index, None, holder, b"sealed"),),
        idempotency=ledger.IdempotencyRow(UUID(int=1), key, os.urandom(32), b"answer"),
    )
    for side in ("one", "two"):
        workspace = await create(services, f"{side}-{uuid4().hex[:12]}")
        assert isinstance(await services.appender.append(workspace, 1, item), Appended)
        assert isinstance(await services.appender.append(workspace, 1, item), Repeated)


async def test_no_view_reads_with_its_owners_rights(superuser: Any) -> None:
    assert await superuser.fetch("SELECT viewname FROM pg_views WHERE schemaname = 'volenti'") == []
    assert await superuser.fetch("SELECT matviewname FROM pg_matviews WHERE schemaname = 'volenti'") == []


async def test_the_service_refuses_a_login_that_row_level_security_does_not_bind(server: Embedded) -> None:
    mighty = Database(lambda role: server.url("volenti"), pooler=True)  # with `pooler` no connection takes its role
    try:
        with pytest.raises(Unavailable, match="bypasses row-level security"):
            await mighty.check()
    finally:
        await mighty.close()


async def test_a_decision_cannot_be_logged_in_another_workspace(services: Services, filled: UUID) -> None:
    other = await create(services, f"log-{uuid4().hex[:12]}")
    async with services.database.workspace("volenti_app", filled) as connection:
        row = decision_log._row(await connection.fetchrow(f"SELECT {decision_log._READ} FROM decision_log"))
    with pytest.raises(Invalid):
        async with services.database.workspace("volenti_app", other) as connection:
            await decision_log.insert(connection, filled, [row])
    async with services.database.workspace("volenti_app", other) as connection:
        await decision_log.insert(connection, other, [row])


async def test_what_makes_and_drops_the_logs_days_can_do_nothing_else(superuser: Any) -> None:
    owned = await superuser.fetch("SELECT proname FROM pg_proc WHERE pg_get_userbyid(proowner) = 'volenti_decisions'")
    for table in EVERY:
        allowed = await superuser.fetchval("SELECT has_any_column_privilege('volenti_decisions', $1, 'SELECT')", table)
        assert allowed == (table == "decision_log")
        for right in ("INSERT", "UPDATE", "DELETE", "TRUNCATE"):
            allowed = await superuser.fetchval("SELECT has_table_privilege('volenti_decisions', $1, $2)", table, right)
            assert allowed == (table == "decision_log"), (table, right)

    assert {row[0] for row in owned} == {"decision_log_prepare", "decision_log_drop"}
    assert not await superuser.fetchval("SELECT has_schema_privilege('volenti_decisions', 'volenti', 'CREATE')")
    for role in ROLES:
        assert not await superuser.fetchval("SELECT has_schema_privilege($1, 'volenti_decisions', 'USAGE')", role)


async def test_all_heads_and_a_credential_are_found_without_a_workspace(services: Services, filled: UUID) -> None:
    async with services.database.workspace("volenti_admin", filled) as connection:
        ((credential, mac),) = await credentials.of_workspace(connection, filled)

    async with services.database.connection("volenti_app") as connection:
        assert filled in {head.workspace_id for head in await ledger.heads(connection)}
        assert await credentials.find(connection, mac) == credential
        assert await credentials.find(connection, bytes(32)) is None


async def test_what_looks_across_workspaces_sees_heads_and_credentials_and_nothing_else(superuser: Any) -> None:
    owned = await superuser.fetch("SELECT proname FROM pg_proc WHERE pg_get_userbyid(proowner) = 'volenti_lookup'")
    seen = set()
    for table in EVERY:
        if await superuser.fetchval("SELECT has_any_column_privilege('volenti_lookup', $1, 'SELECT')", table):
            seen.add(table)
        for right in ("INSERT", "UPDATE", "DELETE", "TRUNCATE"):
            assert not await superuser.fetchval("SELECT has_table_privilege('volenti_lookup', $1, $2)", table, right)

    assert {row[0] for row in owned} == {"poll_heads", "find_credential"}
    assert seen == {"ledger_head", "ledger_log", "credential"}
    assert not await superuser.fetchval("SELECT has_schema_privilege('volenti_lookup', 'volenti', 'CREATE')")


# --- append-only, also for a superuser


@pytest.mark.parametrize("replication", ["origin", "replica"])
@pytest.mark.parametrize("table", ["ledger_entry", "ledger_tile", "ledger_checkpoint"])
@pytest.mark.parametrize("statement", ["UPDATE {0} SET log_id = 2", "DELETE FROM {0}", "TRUNCATE {0}"])
async def test_the_ledger_is_append_only_also_for_a_superuser(
    superuser: Any, filled: UUID, statement: str, table: str, replication: str
) -> None:
    await superuser.execute(f"SET session_replication_role = {replication}")

    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="only takes new rows"):
        await superuser.execute(statement.format(table))


@pytest.mark.parametrize("replication", ["origin", "replica"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_head SET size = size - 1",
        "UPDATE ledger_head SET root = sha256(root)",
        "UPDATE ledger_head SET log_id = 2",
        "DELETE FROM ledger_head",
        "UPDATE ledger_log SET state = 'sealed'",
        "UPDATE ledger_log SET origin = origin || 'x'",
        "DELETE FROM ledger_log",
    ],
)
async def test_heads_only_grow_and_logs_only_freeze_also_for_a_superuser(
    superuser: Any, filled: UUID, statement: str, replication: str
) -> None:
    await superuser.execute(f"SET session_replication_role = {replication}")

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await superuser.execute(f"{statement} WHERE workspace_id = $1", filled)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE credential SET scopes = '{admin}'",
        "UPDATE credential SET expires_at = volenti.now()",
        "UPDATE policy_version SET source = ''",
        "UPDATE policy_activation SET active_from = volenti.now()",
        "UPDATE notice_version SET change = 'minor'",
        "DELETE FROM credential",
        "DELETE FROM policy_version",
        "DELETE FROM policy_activation",
        "DELETE FROM notice_version",
    ],
)
async def test_what_was_published_is_immutable_also_for_a_superuser(
    superuser: Any, filled: UUID, statement: str
) -> None:
    table = statement.removeprefix("DELETE FROM ").removeprefix("UPDATE ").split()[0]
    before = await superuser.fetch(f"SELECT * FROM {table} WHERE workspace_id = $1", filled)

    with pytest.raises(asyncpg.PostgresError):
        await superuser.execute(f"{statement} WHERE workspace_id = $1", filled)
    assert before == await superuser.fetch(f"SELECT * FROM {table} WHERE workspace_id = $1", filled) != []


async def test_a_credential_is_revoked_once_and_never_revived(
    services: Services, superuser: Any, workspace: UUID
) -> None:
    await issue(services, workspace, component="tests", scopes=["check"])
    revoke = "UPDATE credential SET revoked_at = volenti.now() WHERE workspace_id = $1"
    assert await superuser.execute(revoke, workspace) == "UPDATE 1"

    for statement in (revoke, "UPDATE credential SET revoked_at = NULL WHERE workspace_id = $1"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="nothing changes but its revocation"):
            await superuser.execute(statement, workspace)


async def test_a_wrong_leaf_hash_is_refused_by_the_table_itself(superuser: Any, filled: UUID) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await superuser.execute(
            "INSERT INTO ledger_entry SELECT workspace_id, log_id, idx + 1000, gen_random_uuid(), sha256(leaf_hash), leaf,"
            " inserted_at FROM ledger_entry WHERE workspace_id = $1",
            filled,
        )
