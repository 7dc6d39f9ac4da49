"""Remove what time removes: answers older than seven days, and the change feed older than a day."""

from __future__ import annotations

import asyncio

import structlog

from volenti.errors import VolentiError
from volenti.flows.services import Services
from volenti.store import idempotency, ledger
from volenti.store.database import translated

EVERY_SECONDS = 600.0

log = structlog.get_logger()


async def prune(services: Services) -> tuple[int, int]:
    """Remove what is due in every workspace; returns how many answers and how many change rows."""
    answers = changes = 0
    async with services.database.connection("volenti_eraser") as connection:
        with translated("polling the heads"):
            heads = await ledger.heads(connection)
    for workspace_id in {head.workspace_id for head in heads}:
        async with services.database.workspace("volenti_eraser", workspace_id) as connection:
            answers += await idempotency.prune(connection, workspace_id)
            changes += await ledger.prune_changes(connection, workspace_id)
    return answers, changes


async def keep_pruned(services: Services) -> None:
    """Run until cancelled; a fault is logged and tried again at the next turn."""
    while True:
        try:
            await prune(services)
        except VolentiError as error:
            log.warning("prune.failed", error=str(error))
        await asyncio.sleep(EVERY_SECONDS)
