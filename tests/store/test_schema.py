"""The schema is made once, by one process, from files that nobody edited; and every statement of the store fits it."""

from __future__ import annotations

import ast
import asyncio
import inspect
import itertools
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import asyncpg
import msgspec
import pytest

from volenti.errors import Invalid, Unavailable, VolentiError
from volenti.store import (
    credentials,
    data_subjects,
    database,
    decision_log,
    idempotency,
    ledger,
    policies,
    schema,
    workspaces,
)
from volenti.store.embedded import Embedded

ROOT = Path(__file__).resolve().parents[2]
_numbers = itertools.count()


class New:
    """A new database of the test server, with roles and an empty schema."""

    def __init__(self, server: Embedded, name: str) -> None:
        self.name = name
        self.superuser = server.url("volenti", name)
        self.migrator = server.url("volenti_migrate", name)

    async def migrate(self) -> list[str]:
        return [one.name for one in await schema.migrate(self.migrator, report=lambda line: None)]

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        connection = await asyncpg.connect(self.superuser, server_settings={"search_path": "volenti"})
        try:
            rows: list[Any] = await connection.fetch(statement, *arguments)
        finally:
            await connection.close()
        return rows

    async def applied(self) -> list[int]:
        return [row[0] for row in await self.fetch("SELECT number FROM schema_migration ORDER BY number")]


@pytest.fixture
async def new(server: Embedded) -> AsyncIterator[New]:
    name = f"schema_{os.getpid()}_{next(_numbers)}"
    connection = await asyncpg.connect(server.url("volenti", "postgres"))
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        made = New(server, name)
        await schema.bootstrap(made.superuser)
        yield made
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the migrations that the runner takes for the release's."""
    copy = tmp_path / "migrations"
    shutil.copytree(ROOT / "migrations", copy)
    monkeypatch.setattr(schema, "_folder", lambda: copy)
    return copy


def add(folder: Path, name: str, sql: str) -> None:
    """Write a file as its author does: with the manifest."""
    (folder / name).write_text(sql)
    schema.write_manifest()


ALL = list(range(1, len(schema.migrations()) + 1))


# --- one process applies, once


async def test_of_three_processes_that_migrate_at_once_one_applies_and_all_succeed(new: New) -> None:
    applied = await asyncio.gather(*(new.migrate() for _ in range(3)))

    assert sorted(map(len, applied)) == [0, 0, len(ALL)]
    assert await new.applied() == ALL


async def test_a_migrated_database_has_nothing_pending(new: New) -> None:
    assert len(await schema.pending(new.superuser)) == len(ALL)
    await new.migrate()

    assert await schema.pending(new.superuser) == ()
    assert await new.migrate() == []


async def test_bootstrap_may_be_repeated_over_a_migrated_database(new: New) -> None:
    await new.migrate()

    await schema.bootstrap(new.superuser)
    assert await new.applied() == ALL


async def test_a_process_that_waits_too_long_for_another_says_so(new: New) -> None:
    holder = await asyncpg.connect(new.superuser)
    try:
        await holder.fetchval("SELECT pg_advisory_lock($1, $2)", *schema._LOCK)
        with pytest.raises(Unavailable, match="another process has been migrating"):
            await schema.migrate(new.migrator, report=lambda line: None, seconds=0.1)
    finally:
        await holder.close()

    assert len(await new.migrate()) == len(ALL)


# --- only files that nobody edited


def test_an_edited_file_is_refused_by_its_name(folder: Path) -> None:
    file = folder / "0003_policies_and_credentials.sql"
    file.write_text(file.read_text() + "-- a word\n")

    with pytest.raises(Invalid, match=r"0003_policies_and_credentials\.sql differs from migrations/MANIFEST\.sha256"):
        schema.migrations()


def test_a_missing_file_is_refused(folder: Path) -> None:
    (folder / "0003_policies_and_credentials.sql").unlink()

    with pytest.raises(Invalid, match="a file is missing"):
        schema.migrations()


def test_a_missing_last_file_is_refused_by_its_name(folder: Path) -> None:
    *_, last = sorted(file.name for file in folder.glob("0*.sql"))
    (folder / last).unlink()

    with pytest.raises(Invalid, match=f"{last} is in the manifest but not in the folder"):
        schema.migrations()


def test_a_file_that_the_manifest_does_not_know_is_refused_by_its_name(folder: Path) -> None:
    (folder / f"{len(ALL) + 1:04}_more.sql").write_text("SELECT 1;\n")

    with pytest.raises(Invalid, match=r"_more\.sql differs from"):
        schema.migrations()


@pytest.mark.parametrize(
    "control",
    [
        "BEGIN;", "begin work;", "BEGIN ISOLATION LEVEL SERIALIZABLE;", "START TRANSACTION;", "START TRANSACTION READ ONLY;",
        "COMMIT;", "  commit ;", "COMMIT WORK;", "COMMIT AND CHAIN;", "ROLLBACK;", "ROLLBACK TO a;", "ABORT;", "END TRANSACTION;",
        "SAVEPOINT a;", "RELEASE SAVEPOINT a;", "PREPARE TRANSACTION 'a';", "COMMIT PREPARED 'a';",
    ],
)  # fmt: skip
def test_a_file_that_controls_transactions_is_refused_by_its_name(folder: Path, control: str) -> None:
    add(folder, f"{len(ALL) + 1:04}_more.sql", f"-- more\nSELECT 1;\n{control}\n")

    with pytest.raises(Invalid, match=r"_more\.sql controls transactions"):
        schema.migrations()


def test_a_function_with_blocks_is_no_transaction_control(folder: Path) -> None:
    body = "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$\nBEGIN\n  BEGIN\n    RETURN 1;\n  END;\nEND $$;\n"
    add(folder, f"{len(ALL) + 1:04}_more.sql", body)

    assert len(schema.migrations()) == len(ALL) + 1


async def test_a_database_that_other_files_made_is_refused(new: New, folder: Path) -> None:
    await new.migrate()
    file = folder / "0002_data_subjects.sql"
    add(folder, file.name, file.read_text() + "-- another build\n")

    with pytest.raises(Invalid, match=r"migrated by another 0002_data_subjects\.sql"):
        await schema.pending(new.superuser)
    with pytest.raises(Invalid, match=r"migrated by another 0002_data_subjects\.sql"):
        await new.migrate()


# --- a file is applied as a whole


async def test_a_file_that_fails_leaves_nothing_of_itself_and_all_before_it(new: New, folder: Path) -> None:
    good = (folder / "0004_append.sql").read_text()
    add(folder, "0004_append.sql", f"{good}\nCREATE TABLE half_done (one int);\nSELECT 1 / 0;\n")
    with pytest.raises(Invalid, match=r"0004_append\.sql failed and was rolled back: 22012"):
        await new.migrate()

    assert await new.applied() == [1, 2, 3]
    assert await new.fetch("SELECT to_regclass('half_done')") == [(None,)]
    add(folder, "0004_append.sql", good)
    await new.migrate()
    assert await new.applied() == ALL


async def test_a_migration_that_is_killed_leaves_the_files_before_it(new: New, folder: Path) -> None:
    good = (folder / "0004_append.sql").read_text()
    add(folder, "0004_append.sql", f"{good}\nSELECT pg_sleep(30);\n")
    migrating = asyncio.create_task(new.migrate())
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND wait_event = 'PgSleep'"
    async with asyncio.timeout(10):
        for _ in itertools.count():
            if await new.fetch(kill, new.name):
                break
            await asyncio.sleep(0.02)
    with pytest.raises(Unavailable, match="migrating the schema: the database cannot be reached"):
        await migrating

    assert await new.applied() == [1, 2, 3]
    add(folder, "0004_append.sql", good)
    assert (await new.migrate())[0] == "0004_append.sql"
    assert await new.applied() == ALL


async def test_a_file_may_ask_to_run_outside_a_transaction(new: New, folder: Path) -> None:
    name = f"{len(ALL) + 1:04}_index.sql"
    add(folder, name, "-- An index, without stopping writers\n-- transaction: none\n"
                      "CREATE INDEX CONCURRENTLY found ON workspace (wrapped_key);\n")  # fmt: skip

    assert (await new.migrate())[-1] == name
    assert await new.fetch("SELECT indisvalid FROM pg_index WHERE indexrelid = 'found'::regclass") == [(True,)]
    assert await new.applied() == [*ALL, len(ALL) + 1]


async def test_what_failed_outside_a_transaction_is_not_said_to_be_rolled_back(new: New, folder: Path) -> None:
    name = f"{len(ALL) + 1:04}_index.sql"
    add(folder, name, "-- transaction: none\nCREATE INDEX CONCURRENTLY found ON workspace (no_such_column);\n")

    with pytest.raises(Invalid, match=r"_index\.sql failed outside a transaction, look at what it left: 42703"):
        await new.migrate()
    assert await new.applied() == ALL


# --- what a file makes of the rows that are there


async def test_versions_of_before_activations_are_in_force_since_they_were_published(
    new: New, folder: Path, tmp_path: Path
) -> None:
    """Of every workspace; and row-level security holds for their owner as before."""
    names = [one.name for one in schema.migrations()]
    later = names[next(n for n, name in enumerate(names) if name.endswith("_policy_activation.sql")) :]
    for name in later:
        (folder / name).rename(tmp_path / name)
    schema.write_manifest()
    await new.migrate()
    await new.fetch(
        "INSERT INTO policy_version SELECT w, v, sha256('{}'), '{}', '', '2026-01-01Z'::timestamptz + v * interval '1 day',"
        " gen_random_uuid() FROM unnest($1::uuid[]) w, generate_series(1, 3) v",
        [UUID(int=1), UUID(int=2)],
    )
    for name in later:
        (tmp_path / name).rename(folder / name)
    schema.write_manifest()
    await new.migrate()

    moved = await new.fetch("SELECT workspace_id, version, published_at, published_at, entry_id FROM policy_version ORDER BY 1, 2")  # fmt: skip
    assert moved == await new.fetch("SELECT workspace_id, version, active_from, recorded_at, entry_id FROM policy_activation ORDER BY 1, number")  # fmt: skip
    assert len(moved) == 6
    assert await new.fetch("SELECT relforcerowsecurity FROM pg_class WHERE relname = 'policy_version'") == [(True,)]


# --- the store's statements

ROOMS = (credentials, data_subjects, database, decision_log, idempotency, ledger, policies, workspaces)


class Listening:
    """A connection that executes nothing, answers with nothing, and keeps the statements."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def fetch(self, statement: str, *_: object) -> list[Any]:
        self.heard.append(statement)
        return []

    async def fetchrow(self, statement: str, *_: object) -> None:
        self.heard.append(statement)

    async def fetchval(self, statement: str, *_: object) -> int:
        self.heard.append(statement)
        return 0

    async def execute(self, statement: str, *_: object) -> str:
        self.heard.append(statement)
        return "DELETE 0"

    async def executemany(self, statement: str, _: object) -> None:
        self.heard.append(statement)

    def get_server_pid(self) -> int:
        return 0


def made(annotation: Any, variant: int) -> Any:
    """A value of a type; the variants take the branches that values decide."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return made(get_args(annotation)[variant % len(get_args(annotation))], variant)
    if origin is Literal:
        return get_args(annotation)[0]
    if origin is not None:
        return ()
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation(**{name: made(hint, variant) for name, hint in get_type_hints(annotation).items()})
    values: dict[Any, Any] = {
        UUID: UUID(int=1), int: (0, 1, 256)[variant], bytes: b"", str: "x", bool: False, float: 0.0,
        datetime: datetime(2026, 1, 1, tzinfo=UTC), type(None): None,
    }  # fmt: skip
    return values[annotation]


def statements_of(room: ModuleType) -> dict[str, set[str]]:
    """Every statement that the functions of a module send, by function."""
    found: dict[str, set[str]] = {}
    for name, function in inspect.getmembers(room, inspect.isfunction):
        parameters = list(inspect.signature(function).parameters)
        if function.__module__ != room.__name__ or parameters[:1] != ["connection"] or "statement" in parameters:
            continue  # one that is given a statement has none of its own
        for variant in range(3):
            connection = Listening()
            hints = get_type_hints(function)
            given = {parameter: made(hints[parameter], variant) for parameter in parameters[1:]}
            asyncio.run(_called(function, connection, given))
            found.setdefault(name, set()).update(connection.heard)
    return found


async def _called(function: Callable[..., Any], connection: Listening, given: dict[str, Any]) -> None:
    try:
        if inspect.isasyncgenfunction(function):
            async for _ in function(connection, **given):
                pass
        else:
            await function(connection, **given)
    except (TypeError, ValueError, VolentiError):
        assert connection.heard  # it could not go on without an answer


@pytest.fixture(scope="module")
def statements() -> dict[tuple[str, str], set[str]]:
    return {(room.__name__, name): found for room in ROOMS for name, found in statements_of(room).items()}


def test_every_function_that_takes_a_connection_is_known_by_its_statements(
    statements: dict[tuple[str, str], set[str]],
) -> None:
    senders = {
        (room.__name__, function.name)
        for room in ROOMS
        for function in ast.parse(inspect.getsource(room)).body
        if isinstance(function, ast.AsyncFunctionDef)
        and (names := [argument.arg for argument in function.args.args])[:1] == ["connection"]
        and "statement" not in names
    }

    assert {name for name, found in statements.items() if found} == senders
    assert len(senders) > 30


async def test_every_statement_of_the_store_prepares_against_the_schema(
    superuser: Any, statements: dict[tuple[str, str], set[str]]
) -> None:
    wrong = []
    for name, found in statements.items():
        for statement in found:
            try:
                await superuser.prepare(statement)
            except asyncpg.PostgresError as error:
                wrong.append((name, statement, str(error)))

    assert wrong == []


# --- one clock

CLOCK = re.compile(
    r"(?<!volenti\.)\bnow\(\)|\bcurrent_(?:timestamp|date|time)\b|\blocaltime(?:stamp)?\b"
    r"|\b(?:clock|statement|transaction)_timestamp\b|\btimeofday\b",
    re.IGNORECASE,
)


def test_sql_reads_the_time_through_one_function_only() -> None:
    texts = {file.name: re.sub("--.*", "", file.read_text()) for file in (ROOT / "migrations").glob("*.sql")}
    store = ROOT / "service" / "volenti" / "store"
    texts |= {file.name: file.read_text() for file in store.glob("*.py")}

    assert {name: CLOCK.findall(text) for name, text in texts.items() if CLOCK.search(text)} == {
        "0001_ledger.sql": ["clock_timestamp"],  # volenti.now() itself
        "schema.py": ["clock_timestamp"],  # when a file was applied
        "database.py": ["clock_timestamp"],  # compares the wall clocks of service and database
    }
