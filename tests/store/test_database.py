"""What a database that was closed still does: nothing."""

from __future__ import annotations

import pytest

from volenti.errors import Unavailable
from volenti.store.database import Database
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
