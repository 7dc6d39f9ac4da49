"""The database's schema: plain SQL files, applied once, in order, by one process at a time."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import asyncpg
import msgspec

from volenti.errors import Invalid, Unavailable
from volenti.store.database import POOLER_UNTOLD, is_pooled, translated

_LOCK = (0x566F6C65, 1)  # "Vole", migrations
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
# Not a bare END: it closes a block of a function. BEGIN and END of functions are followed by neither `;` nor these words.
_CONTROL = re.compile(
    r"^\s*((BEGIN|COMMIT|ROLLBACK|ABORT)(\s+(WORK|TRANSACTION|ISOLATION|READ|AND|TO|PREPARED)\b[^;]*)?"
    r"|END\s+(WORK|TRANSACTION)\b[^;]*|(START|PREPARE)\s+TRANSACTION\b[^;]*|(SAVEPOINT|RELEASE)\s[^;]*)\s*;",
    re.IGNORECASE | re.MULTILINE,
)


class Migration(msgspec.Struct, frozen=True):
    """One file: its number, name, text and hash."""

    number: int
    name: str
    sql: str
    sha256: str

    @property
    def transactional(self) -> bool:
        """False if the header says `-- transaction: none`; such a file holds one statement: several sent at once are a transaction."""
        return "-- transaction: none" not in self.sql.split("\nSET", 1)[0]


def _folder() -> Any:
    return files("volenti") / "_data" / "migrations"


def migrations() -> tuple[Migration, ...]:
    """The files that this release ships, in order. Raises Invalid if one was edited, is missing or is unknown to the manifest."""
    found = []
    for item in _folder().iterdir():
        if match := _NAME.fullmatch(item.name):
            data = item.read_bytes()
            found.append(Migration(int(match[1]), item.name, data.decode(), hashlib.sha256(data).hexdigest()))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise Invalid("migrations are not numbered 1, 2, 3, …: a file is missing")
    manifest = dict(reversed(line.split()) for line in (_folder() / "MANIFEST.sha256").read_text().splitlines())
    for migration in found:
        if manifest.pop(migration.name, None) != migration.sha256:
            raise Invalid(
                f"migrations/{migration.name} differs from migrations/MANIFEST.sha256: a released file is never edited"
            )
        if _CONTROL.search(migration.sql):
            raise Invalid(f"migrations/{migration.name} controls transactions; the runner does")
    if manifest:
        raise Invalid(f"migrations/{min(manifest)} is in the manifest but not in the folder")
    return tuple(found)


async def bootstrap(dsn: str) -> None:
    """Create the roles and the schema that the migrations run under, as a role that may create roles. Safe to repeat."""
    with translated("creating the database roles"):
        connection = await _connected(dsn)
        try:
            async with _locked(connection, seconds=60):
                await connection.execute((_folder() / "bootstrap.sql").read_text())
        finally:
            await connection.close()


async def pending(dsn: str) -> tuple[Migration, ...]:
    """The files that the database lacks, for anybody who may read. Raises Invalid if it was migrated by other files."""
    with translated("reading the schema's version"):
        connection = await asyncpg.connect(dsn, timeout=10, statement_cache_size=0)  # also through a pooler
        try:
            return _pending(await _applied(connection))
        finally:
            await connection.close()


async def migrate(dsn: str, *, report: Callable[[str], None], seconds: float = 60) -> tuple[Migration, ...]:
    """Apply what is missing and return it. Several processes may call this at once: one applies, the others wait.

    Each file and its row in `schema_migration` commit together; a crash leaves the files before it applied.
    Raises Unavailable if another process holds the lock longer than `seconds`, Invalid if a file was edited, or if a
    pooler stands between: the lock and the role are the session's.
    """
    with translated("migrating the schema"):
        connection = await _connected(dsn, search_path="volenti")
        try:
            await connection.execute("SET ROLE volenti_owner")
            async with _locked(connection, seconds=seconds):
                await connection.execute(
                    "CREATE TABLE IF NOT EXISTS schema_migration (number int PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL,"
                    " applied_at timestamptz NOT NULL, duration_ms int NOT NULL);"
                    "GRANT SELECT ON schema_migration TO volenti_app, volenti_admin, volenti_signer, volenti_audit, volenti_eraser, volenti_service, volenti_migrate"
                )
                todo = _pending(await _applied(connection))
                for migration in todo:
                    await _apply(connection, migration)
                    report(f"applied {migration.name}")
            return todo
        finally:
            await connection.close()


async def _connected(dsn: str, **settings: str) -> Any:
    connection = await asyncpg.connect(dsn, timeout=10, server_settings=settings)
    if await is_pooled(connection):
        await connection.close()
        raise Invalid(f"the database's address does not lead to PostgreSQL itself: {POOLER_UNTOLD}")
    return connection


async def _apply(connection: Any, migration: Migration) -> None:
    begun = time.monotonic()

    async def record() -> None:
        await connection.execute(
            "INSERT INTO schema_migration VALUES ($1, $2, $3, clock_timestamp(), $4)",
            migration.number, migration.name, migration.sha256, int((time.monotonic() - begun) * 1000),
        )  # fmt: skip

    try:
        if migration.transactional:
            async with connection.transaction():
                await connection.execute(migration.sql)  # the whole file, simple protocol: no SQL is parsed by us
                await record()
        else:
            await connection.execute(migration.sql)
            await record()
    except asyncpg.PostgresError as error:
        what = "and was rolled back" if migration.transactional else "outside a transaction, look at what it left"
        raise Invalid(f"migrations/{migration.name} failed {what}: {error.sqlstate} {error.args[0]}") from error


async def _applied(connection: Any) -> dict[int, tuple[str, str]]:
    if not await connection.fetchval("SELECT to_regclass('volenti.schema_migration') IS NOT NULL"):
        return {}
    rows = await connection.fetch("SELECT number, name, sha256 FROM volenti.schema_migration ORDER BY number")
    return {row["number"]: (row["name"], row["sha256"]) for row in rows}


def _pending(applied: dict[int, tuple[str, str]]) -> tuple[Migration, ...]:
    ours = migrations()
    for migration in ours:
        name, sha256 = applied.get(migration.number, (migration.name, migration.sha256))
        if (name, sha256) != (migration.name, migration.sha256):
            raise Invalid(f"the database was migrated by another {migration.name}; it belongs to a different build")
    return tuple(migration for migration in ours if migration.number not in applied)


class _locked:  # noqa: N801 - reads as a statement: async with _locked(...)
    """Hold the migration lock. Polls: a waiter inside pg_advisory_lock holds a snapshot and deadlocks CREATE INDEX CONCURRENTLY."""

    def __init__(self, connection: Any, *, seconds: float) -> None:
        self._connection, self._seconds = connection, seconds

    async def __aenter__(self) -> None:
        deadline = time.monotonic() + self._seconds
        while not await self._connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", *_LOCK):
            if time.monotonic() > deadline:
                raise Unavailable("another process has been migrating this database for too long; look at pg_locks")
            await asyncio.sleep(0.05)

    async def __aexit__(self, *_: object) -> None:
        await self._connection.fetchval("SELECT pg_advisory_unlock($1, $2)", *_LOCK)


def write_manifest() -> None:
    """Write migrations/MANIFEST.sha256 anew: for the author of a new migration, never for a released one."""
    names = sorted(item.name for item in _folder().iterdir() if _NAME.fullmatch(item.name))
    lines = [f"{hashlib.sha256((_folder() / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (_folder() / "MANIFEST.sha256").write_text("".join(lines))


if __name__ == "__main__":
    write_manifest()
