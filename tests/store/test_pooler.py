"""Behind PgBouncer in transaction mode: what the service sets ends with its transaction, and what must hold holds there too."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from deployments import settings_on
from pooler import SERVICE_ROLES, Pooler, pooled
from volenti.cli.deployment import logged_in_as
from volenti.core.admission import Choice, Command
from volenti.core.data_subject import Identifier
from volenti.errors import Invalid, Unavailable
from volenti.flows.create_workspace import create
from volenti.flows.open_services import opened
from volenti.flows.prune import prune
from volenti.flows.rebuild_states import rebuild
from volenti.flows.record_consents import Recorded, record
from volenti.flows.services import Services
from volenti.flows.sign_checkpoint import sign
from volenti.flows.verify_ledger import verify
from volenti.store import data_subjects, ledger, schema
from volenti.store.database import Database
from volenti.store.embedded import Embedded

WITHDRAW = Command(actor="data_subject", component="tests", choices=(Choice(kind="withdraw", purpose="newsletter"),))


@pytest.fixture(scope="module")
def pooler(server: Embedded) -> Iterator[Pooler]:
    """One session of the server for each role: whatever stays in it, the next client gets."""
    with pooled(server, sessions=1) as running:
        yield running


@pytest.fixture
async def services(server: Embedded, pooler: Pooler) -> Any:
    async with opened(settings_on(server, database_pooler="transaction"), pooler.url) as services:
        yield services


@pytest.fixture
async def workspace(services: Services) -> UUID:
    return await create(services, f"pooled-{os.getpid()}-{uuid4().hex[:12]}")


async def withdraw(services: Services, workspace: UUID) -> None:
    assert isinstance(await record(services, workspace, WITHDRAW, (Identifier("id", "anna"),)), Recorded)


# --- nothing stays in a session


async def test_what_one_client_is_allowed_to_see_the_next_client_of_its_session_is_not(
    services: Services, pooler: Pooler, workspace: UUID
) -> None:
    await withdraw(services, workspace)
    next_client = Database(pooler.url, pooler=True)
    try:
        async with services.database.connection("volenti_app") as connection:
            ground, _ = await data_subjects.find(connection, workspace, [])
            session = await connection.fetchval("SELECT pg_backend_pid()")
        async with next_client.connection("volenti_app") as connection:
            assert await connection.fetchval("SELECT pg_backend_pid()") == session
            assert ground.size > 0
            for table in ("ledger_entry", "data_subject", "policy_version", "workspace"):
                assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0, table
    finally:
        await next_client.close()


async def test_a_whole_journey_leaves_nothing_in_the_sessions_that_others_get(
    services: Services, pooler: Pooler, workspace: UUID
) -> None:
    await withdraw(services, workspace)
    await sign(services, workspace)
    assert [report.findings for report in await verify(services, workspaces=[workspace])] == [()]
    assert [rebuilt.findings for rebuilt in await rebuild(services, workspaces_only={workspace})] == [()]
    await prune(services)
    next_client = Database(pooler.url, pooler=True)
    try:
        for role in SERVICE_ROLES:
            async with next_client.connection(role) as connection:  # type: ignore[arg-type]
                left = {
                    "statements": await connection.fetch("SELECT statement FROM pg_prepared_statements"),
                    "settings": await connection.fetch("SELECT name, setting FROM pg_settings WHERE setting IS DISTINCT FROM reset_val AND source = 'session' AND name <> 'application_name'"),
                    "locks": await connection.fetch("SELECT objid FROM pg_locks WHERE locktype = 'advisory'"),
                    "cursors": await connection.fetch("SELECT name FROM pg_cursors WHERE name LIKE 'cursor%'"),
                    "workspace": [row for row in await connection.fetch("SELECT current_setting('app.workspace', true)") if row[0]],
                }  # fmt: skip
                assert left == {name: [] for name in left}, role
                assert await connection.fetchval("SELECT session_user") == role
    finally:
        await next_client.close()


async def test_a_walk_through_a_log_leaves_nothing_wherever_it_ends(
    services: Services, pooler: Pooler, workspace: UUID
) -> None:
    """The driver's own cursor would leave a prepared statement, whose name another process of ours uses too."""
    next_client = Database(pooler.url, pooler=True)
    walks = (ledger.all_entries, data_subjects.neighbours)
    try:
        for walk, stop in itertools.product(walks, (1, 2)):
            async with services.database.workspace("volenti_app", workspace, snapshot=True) as connection:
                seen = 0
                async for _ in walk(connection, workspace, 1):
                    seen += 1
                    if seen == stop:
                        break
            async with next_client.connection("volenti_app") as connection:
                assert await connection.fetch("SELECT name FROM pg_prepared_statements") == []
    finally:
        await next_client.close()


# --- what must hold holds


@pytest.mark.parametrize("role", SERVICE_ROLES)
async def test_a_role_has_its_path_and_its_timeouts_without_naming_them(services: Services, role: Any) -> None:
    names = (
        "search_path", "synchronous_commit", "lock_timeout", "idle_in_transaction_session_timeout", "statement_timeout",
    )  # fmt: skip
    async with services.database.connection(role) as connection:
        found = [await connection.fetchval("SELECT current_setting($1)", name) for name in names]

    assert found == [
        "volenti",
        "on",
        "2s",
        "1min" if role == "volenti_audit" else "15s",
        "0" if role == "volenti_audit" else "5s",
    ]


async def test_a_long_statement_of_one_transaction_may_take_long_and_the_next_ones_may_not(
    services: Services, workspace: UUID
) -> None:
    async with services.database.workspace("volenti_app", workspace, snapshot=True) as connection:
        assert await connection.fetchval("SELECT current_setting('statement_timeout')") == "0"
    async with services.database.workspace("volenti_app", workspace) as connection:
        assert await connection.fetchval("SELECT current_setting('statement_timeout')") == "5s"


async def test_a_transaction_that_gets_no_session_in_time_is_unavailable_and_the_next_one_works(
    server: Embedded, workspace: UUID
) -> None:
    with pooled(server, sessions=1, more={"query_wait_timeout": "1"}) as pooler:
        first, second = Database(pooler.url, pooler=True), Database(pooler.url, pooler=True)
        try:
            async with first.workspace("volenti_app", workspace):
                with pytest.raises(Unavailable):
                    async with second.workspace("volenti_app", workspace):
                        raise AssertionError
            async with second.workspace("volenti_app", workspace) as connection:
                assert await connection.fetchval("SELECT count(*) FROM ledger_entry") > 0
        finally:
            await first.close()
            await second.close()


# --- what was not told of the pooler is refused before it does harm

IGNORING = {"ignore_startup_parameters": "role, search_path"}
"""A PgBouncer that swallows what the service asks of its session. Nothing but the announced process gives it away."""


@pytest.mark.parametrize("more", [{}, IGNORING], ids=["which refuses", "which swallows"])
async def test_services_refuse_a_pooler_that_the_settings_do_not_name(server: Embedded, more: dict[str, str]) -> None:
    with pooled(server, more=more) as pooler, pytest.raises(Invalid, match="needs VOLENTI_DATABASE_POOLER=transaction"):
        async with opened(settings_on(server, database_pooler="none"), pooler.url):
            raise AssertionError


@pytest.mark.parametrize("more", [{}, IGNORING], ids=["which refuses", "which swallows"])
async def test_migrations_never_go_through_a_pooler(server: Embedded, superuser: Any, more: dict[str, str]) -> None:
    with pooled(server, more=more) as pooler:
        with pytest.raises(Invalid, match="migrations need an address that goes past it"):
            await schema.bootstrap(pooler.url("volenti"))
        with pytest.raises(Invalid, match="migrations need an address that goes past it"):
            await schema.migrate(pooler.url("volenti_migrate"), report=lambda line: None)
        assert await superuser.fetch("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = $1", schema._LOCK[0]) == []  # fmt: skip


async def test_a_login_that_the_pooler_does_not_know_is_unavailable_and_says_where_to_look(
    server: Embedded, pooler: Pooler
) -> None:
    with pytest.raises(Unavailable, match="a pooler in front of it refuses"):
        async with opened(settings_on(server, database_pooler="none"), lambda role: pooler.url("volenti_service")):
            raise AssertionError


async def test_a_pooler_that_logs_in_as_somebody_else_is_refused(server: Embedded, pooler: Pooler) -> None:
    with pytest.raises(Unavailable, match="is not volenti_app"):
        async with opened(settings_on(server, database_pooler="transaction"), lambda role: pooler.url("volenti_admin")):
            raise AssertionError


# --- the address of a role


@pytest.mark.parametrize(
    ("url", "becomes"),
    [
        ("postgresql://volenti_service:s%40cret@db:6432/volenti?sslmode=verify-full", "postgresql://volenti_app:s%40cret@db:6432/volenti?sslmode=verify-full"),
        ("postgresql://volenti_service@db/volenti", "postgresql://volenti_app@db/volenti"),
        ("postgresql://db/volenti", "postgresql://volenti_app@db/volenti"),
        ("postgresql://volenti_service:x@one,two:6433/volenti", "postgresql://volenti_app:x@one,two:6433/volenti"),
        ("postgresql://volenti_service@/volenti?host=/run/pgbouncer&port=6432", "postgresql://volenti_app@/volenti?host=/run/pgbouncer&port=6432"),
        ("postgres://volenti_service@[::1]:6432/volenti", "postgres://volenti_app@[::1]:6432/volenti"),
    ],
)  # fmt: skip
def test_an_address_is_that_of_a_role_with_the_same_password_and_place(url: str, becomes: str) -> None:
    assert logged_in_as(url, "volenti_app") == becomes
