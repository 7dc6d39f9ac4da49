"""`volenti` as an operator starts it, which on SIGUSR1 also tells what only its inside knows: tasks, pools, what waits.

Run as a module in place of the package. It writes one JSON object to the file that FAULT_TOLD names, and changes
nothing that the service does. Worker processes of several are not observed: they import this file under another name.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from fault.mutants import planted
from volenti.api.app import Application
from volenti.cli.main import run
from volenti.flows.services import Services


def inside(services: Services) -> dict[str, Any]:
    """Counts that must come back to what they were: tasks, and of each pool how many connections it has and how many lie idle."""
    return {
        "tasks": len(asyncio.all_tasks()),
        "pools": {
            role: [pool.get_size(), pool.get_idle_size()]  # a loan shows in the difference
            for role, pool in sorted(services.database._pools.items())
        },
        "queued": services.appender.queued,
        "lent": 2 - services.appender._idle.qsize(),
    }


def _observe(tell: Callable[[Services], None]) -> None:
    started = Application.started

    @asynccontextmanager
    async def observed(self: Application) -> AsyncIterator[None]:
        async with started(self):
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell, self._running().services)
            yield

    Application.started = observed  # type: ignore[method-assign]


def _tell(services: Services) -> None:
    told = Path(os.environ["FAULT_TOLD"])
    fresh = told.with_suffix(".new")
    fresh.write_text(json.dumps(inside(services)))
    fresh.replace(told)


if __name__ == "__main__":
    _observe(_tell)
    with planted(name) if (name := os.environ.get("VOLENTI_TEST_BREAK")) else nullcontext():
        sys.exit(run(sys.argv[1:]))
