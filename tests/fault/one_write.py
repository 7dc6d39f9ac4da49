"""One write of the anchor or of the journal in a process of its own, for strace to break: `one_write.py anchor|journal FOLDER`.

Prints what was acknowledged, line by line. All of it runs in one thread, since strace counts the calls of each.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from volenti.errors import Unavailable
from volenti.store import anchor as anchor_store
from volenti.store.anchor import FileAnchor
from volenti.store.journal import Journal, Line

ORIGIN, OLD, NEW = "localhost/shop", "old " * 500, "new " * 700
LINES = [
    Line("localhost/shop", n, f"01a20c97-c410-7129-81ea-27f3a36bc2{n:02}", "consent.withdrawn", n, n, holder="a" * 8)
    for n in range(3)
]


async def move_anchor(folder: Path) -> None:
    anchor_store.THREADS = 1
    anchor = FileAnchor(folder)
    try:
        print(await anchor.swap(ORIGIN, await anchor.read(ORIGIN), NEW), flush=True)
    except Unavailable:
        print("unknown", flush=True)


async def write_journal(folder: Path) -> None:
    """Three lines, one after the other; one that was not acknowledged is written again, once, as a caller's retry would."""
    journal = Journal(folder, "one", required=True)
    for line in LINES:
        for attempt in range(2):
            try:
                await journal.write([line])
            except Unavailable:
                print("refused", attempt, flush=True)
            else:
                print(line.entry, flush=True)
                break
    await asyncio.to_thread(journal.close)


async def main(what: str, folder: Path) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    await (move_anchor if what == "anchor" else write_journal)(folder)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
