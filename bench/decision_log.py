"""What the decision log costs: a check's share of it, and the ways to write rows under row-level security.

    record   from a decision to a row in the queue: microseconds of one core a logged check, and a check that the sample leaves out
    memory   bytes that a row takes while it waits
    write    rows a second and microseconds of our own CPU a row: INSERT from arrays ∥ COPY into a temporary table and INSERT from it
             ∥ a prepared INSERT a row, pipelined; sides take turns, medians

COPY FROM itself is refused on a table under row-level security. Prints one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.measure import surroundings

from volenti.cli.deployment import prepare
from volenti.core.data_subject import Identifier
from volenti.core.decision import Question
from volenti.core.policy.document import Action, Channel
from volenti.flows import check_policy
from volenti.flows.check_policy import Asked, Checked, check
from volenti.flows.clock import instant, uuid7, wall_clock
from volenti.flows.create_workspace import create
from volenti.flows.log_decisions import CHUNK_ROWS
from volenti.flows.open_services import opened
from volenti.flows.services import Services
from volenti.keys.keyring import create_file
from volenti.settings import Settings
from volenti.store import decision_log, embedded
from volenti.store.decision_log import DecisionRow
from volenti.store.embedded import Embedded

TURNS = 7
SIZES = (100, 1_000, 5_000)
NAMES = ["workspace_id", *(name for name, _ in decision_log._COLUMNS)]
ALL = ", ".join(NAMES)

Write = Callable[[Any, UUID, list[DecisionRow]], Awaitable[None]]


def rows_of(count: int) -> list[DecisionRow]:
    """Rows as the service writes them."""
    rows = []
    for _ in range(count):
        now = wall_clock()
        rows.append(
            DecisionRow(
                decision_id=uuid7(now, os.urandom(10)), evaluated_at=instant(now), component="mailer", holder=uuid4(), action="send",
                purpose="newsletter", channel="email", topic="weekly", message_class=None, decision="permit", reasons=(1,), policy_version=3,
                policy_hash=os.urandom(32), epoch=1, log_id=1, size=123_456, staleness_ms=2, evidence=(uuid4(),), obligations_hash=os.urandom(32),
                mode="live", request_hash=os.urandom(32), took_us=900, weight=1, question='{"jurisdiction":"DE"}',
            )
        )  # fmt: skip
    return rows


async def arrays(connection: Any, workspace_id: UUID, rows: list[DecisionRow]) -> None:
    for begin in range(0, len(rows), CHUNK_ROWS):
        await decision_log.insert(connection, workspace_id, rows[begin : begin + CHUNK_ROWS])


async def copied(connection: Any, workspace_id: UUID, rows: list[DecisionRow]) -> None:
    await connection.execute("CREATE TEMPORARY TABLE staging (LIKE decision_log) ON COMMIT DROP")
    await connection.copy_records_to_table("staging", records=_records(workspace_id, rows), columns=NAMES)
    await connection.execute(f"INSERT INTO decision_log ({ALL}) SELECT {ALL} FROM staging ON CONFLICT DO NOTHING")


async def one_by_one(connection: Any, workspace_id: UUID, rows: list[DecisionRow]) -> None:
    values = ", ".join(f"${n}" for n in range(1, len(NAMES) + 1))
    statement = f"INSERT INTO decision_log ({ALL}) VALUES ({values}) ON CONFLICT DO NOTHING"
    await connection.executemany(statement, _records(workspace_id, rows))


WRITES: dict[str, Write] = {"arrays": arrays, "copy": copied, "rows": one_by_one}


def _records(workspace_id: UUID, rows: list[DecisionRow]) -> list[tuple[Any, ...]]:
    return [(workspace_id, *(getattr(row, member) for member in decision_log._MEMBERS)) for row in rows]


async def written(services: Services, workspace_id: UUID) -> dict[str, Any]:
    """Rows a second and own CPU a row, by way and by how many rows a transaction writes."""
    found: dict[str, Any] = {}
    for size in SIZES:
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in WRITES}
        for turn in range(TURNS + 1):
            for name, write in WRITES.items():
                rows = rows_of(size)
                begun, cpu = time.perf_counter(), time.process_time()
                async with services.database.workspace("volenti_app", workspace_id) as connection:
                    await write(connection, workspace_id, rows)
                if turn:  # the first one warms up
                    samples[name].append((time.perf_counter() - begun, time.process_time() - cpu))
        for name, taken in samples.items():
            found[f"{name}, {size} rows"] = {
                "rows_per_second": round(size / statistics.median(seconds for seconds, _ in taken)),
                "own_cpu_us_per_row": round(statistics.median(cpu for _, cpu in taken) / size * 1e6, 1),
            }
    return found


async def recorded(services: Services, workspace_id: UUID) -> dict[str, float]:
    """Microseconds of CPU from a decision to its row in the queue, median of turns."""
    who = Identifier("id", "nobody")
    send = Question(action=Action.SEND, purpose="order_updates", channel=Channel.EMAIL, jurisdiction="DE")
    use = Question(action=Action.USE, purpose="security")
    queue, found = services.decisions._queue, {}
    for name, question in (("logged", send), ("sampled", use)):
        (checked,) = await check(services, workspace_id, [Asked(who, question)], component="bench")
        assert isinstance(checked, Checked)
        taken = []
        for _ in range(TURNS):
            cpu = time.process_time()
            for _ in range(5_000):
                check_policy._logged(services, workspace_id, "bench", checked, 0.0)
            taken.append((time.process_time() - cpu) / 5_000 * 1e6)
            queue.clear()
        found[name] = round(statistics.median(taken), 2)
    return found


def memory() -> int:
    """Bytes of a row that waits."""
    tracemalloc.start()
    rows = rows_of(10_000)
    bytes_now, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return bytes_now // len(rows)


async def measured(server: Embedded) -> dict[str, Any]:
    async with opened(Settings(data_dir=str(server.data_dir), log_level="error"), server.url) as services:
        workspace_id = await create(services, "bench")
        async with services.database.connection("volenti_app") as connection:
            today = instant(wall_clock()).date()
            await decision_log.prepare(connection, [today, today + timedelta(days=1)])
            postgresql = await connection.fetchval("SHOW server_version")
        return {
            "record_cpu_us": await recorded(services, workspace_id),
            "bytes_per_waiting_row": memory(),
            "write": await written(services, workspace_id),
            "surroundings": surroundings(postgresql),
        }


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="volenti-bench-") as folder,
        embedded.running(Path(folder) / "data", report=lambda line: None) as server,
    ):
        asyncio.run(prepare(server))
        create_file(server.data_dir / "keys.json", os.urandom)
        print(json.dumps(asyncio.run(measured(server))))


if __name__ == "__main__":
    main()
