"""What a database that was closed still does: nothing. What one that fails over means: that it is unavailable."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import pytest

from volenti.errors import Unavailable
from volenti.store import ledger
from volenti.store.database import Database, translated
from volenti.store.embedded import Embedded


async def test_after_it_is_closed_a_database_opens_no_connection_again(server: Embedded) -> None:
    """Who comes late, such as a log that still has rows, is told so and leaves nothing open."""
    database = Database(server.url)
    async with database.connection("volenti_app") as connection:
        assert await connection.fetchval("SELECT 1") == 1
    await database.close()
    with pytest.raises(Unavailable, match="stopping"):
        async with database.connection("volenti_app"):
            pass


async def test_a_database_that_takes_no_writes_is_unavailable_and_its_connection_is_given_up(server: Embedded) -> None:
    """It is a standby, or was the primary until a failover: the next connection may find the one that is."""
    database, nobody, before = Database(server.url), UUID(int=0), []

    async def write() -> None:
        async with database.workspace("volenti_signer", nobody) as connection:
            before.append(await connection.fetchval("SELECT pg_backend_pid()"))
            await connection.execute("SET TRANSACTION READ ONLY")
            await ledger.freeze(connection, nobody, 1)

    try:
        with pytest.raises(Unavailable, match="takes no writes"):
            await write()
        async with database.connection("volenti_signer") as connection:
            assert await connection.fetchval("SELECT pg_backend_pid()") not in before
    finally:
        await database.close()


@pytest.mark.parametrize("sqlstate", ["25006", "25P03", "25P04", "40000", "40003", "57P01", "57P04", "57P05", "58030"])
def test_what_passes_is_unavailable(sqlstate: str) -> None:
    with pytest.raises(Unavailable), translated("reading"):
        raise asyncpg.PostgresError.new({"C": sqlstate, "M": "anna@example.org"})
