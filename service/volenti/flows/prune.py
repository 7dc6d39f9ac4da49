"""Remove what time removes: answers older than seven days, the change feed older than a day, old days of the decision log.

The decision log's next days are made on the same occasion, so that no check's row finds its day missing.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog

from volenti.errors import told
from volenti.flows.clock import instant
from volenti.flows.services import Services
from volenti.store import decision_log, idempotency, ledger
from volenti.store.database import translated

EVERY_SECONDS = 600.0
DAYS_AHEAD = 7

log = structlog.get_logger()


async def prune(services: Services) -> tuple[int, int]:
    """Remove what is due in every workspace; returns how many answers and how many change rows."""
    answers = changes = 0
    days = services.settings.decision_log_days
    today = instant(services.clock()).date()
    async with services.database.connection("volenti_eraser") as connection:
        with translated("making the decision log's days"):
            await decision_log.prepare(connection, [today + timedelta(days=ahead) for ahead in range(DAYS_AHEAD + 1)])
        with translated("polling the heads"):
            heads = await ledger.heads(connection)
    for workspace_id in {head.workspace_id for head in heads}:
        async with services.database.workspace("volenti_eraser", workspace_id) as connection:
            answers += await idempotency.prune(connection, workspace_id)
            changes += await ledger.prune_changes(connection, workspace_id)
            await decision_log.prune_gaps(connection, workspace_id, days)
    async with services.database.connection("volenti_eraser") as connection:
        with translated("dropping the decision log's old days"):  # last: it waits for readers, and may have to give up
            await decision_log.drop(connection, days)
    return answers, changes


async def keep_pruned(services: Services) -> None:
    """Run until cancelled; a fault of whatever kind is logged and tried again at the next turn."""
    while True:
        try:
            await prune(services)
        except Exception as error:  # noqa: BLE001 - the task must not end
            log.warning("prune.failed", error=told(error))
        await asyncio.sleep(EVERY_SECONDS)
