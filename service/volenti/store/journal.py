"""The withdrawal journal: an fsynced file outside PostgreSQL, so that no old backup revives what a person took back.

One line for each restrictive entry and each revoked credential, written after COMMIT and before the acknowledgement. A
line holds random ids and keyed HMACs, no identifier. Each process appends to a file of its own; recovery reads all.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from volenti.errors import LedgerDamaged, Unavailable
from volenti.store.durable import make_folder, sync_folder

SUFFIX = ".journal"
REMEMBERED = 100_000

log = structlog.get_logger()


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One restriction, as recovery needs it. Times are milliseconds; indexes are hex; `entry` makes a replay idempotent."""

    origin: str
    index: int  # in the log; -1 for a revocation, which is written before its entry
    entry: str
    kind: str
    at: int
    recorded_at: int
    holder: str = ""
    blind_indexes: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    names: str = ""  # the entry that this one voids
    credential: str = ""


_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(Line).decode


def render(line: Line) -> bytes:
    """The bytes of a line: JSON, a tab, the CRC-32 of the JSON in hex, a newline."""
    text = _encode(line)
    return b"%s\t%08x\n" % (text, zlib.crc32(text))


class Journal:
    """Appends to one file of a folder. A line is either whole in the file or not there: what a full disk cut off is cut away."""

    def __init__(self, folder: Path, name: str, *, required: bool) -> None:
        self._folder, self._path, self._required = folder, folder / f"{name}{SUFFIX}", required
        self.failed = 0
        self._descriptor: int | None = None
        self._size = 0
        # One thread: a caller that gives up leaves its write to finish, and the next one must not come in between.
        self._thread = ThreadPoolExecutor(1, "journal")
        self._written: set[str] = set()
        self._newest: dict[str, Line] = {}

    def newest(self, origin: str) -> Line | None:
        """The line of the largest index in a log, of all that this process wrote or learned of."""
        return self._newest.get(origin)

    def learn(self, lines: Iterable[Line]) -> None:
        """Know of lines that are on the disk, as other processes wrote them."""
        for line in lines:
            known = self._newest.get(line.origin)
            if line.index >= 0 and (known is None or known.index < line.index):
                self._newest[line.origin] = line

    async def write(self, lines: Sequence[Line]) -> None:
        """Return when the lines are on the disk, one fsync for all.

        A line whose entry this process has written before is left out. Where the journal is required, raises
        Unavailable if they are not on the disk: then the restriction must not be acknowledged. Elsewhere the failure
        is counted and logged.
        """
        fresh = [line for line in lines if line.entry not in self._written]
        if not fresh:
            return
        data = b"".join(map(render, fresh))
        try:
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, self._append, data))
        except OSError as error:
            self.failed += 1
            if self._required:
                raise Unavailable(
                    f"the withdrawal journal cannot be written: {error.strerror}; look at its disk"
                ) from error
            log.error("journal.failed", error=type(error).__name__, count=self.failed)
            return
        self._remember(fresh)

    def _remember(self, lines: Sequence[Line]) -> None:
        if len(self._written) > REMEMBERED:
            self._written.clear()  # what is written twice is replayed once
        self._written.update(line.entry for line in lines)
        self.learn(lines)

    def _append(self, data: bytes) -> None:
        descriptor = self._opened()
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except OSError:
            self._cut_back(descriptor)
            raise
        self._size += len(data)

    def _opened(self) -> int:
        if self._descriptor is None:
            make_folder(self._folder)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_APPEND, 0o600)
            self._descriptor, self._size = descriptor, 0
            try:
                sync_folder(self._folder)
            except OSError:
                self._take_another_file(descriptor)  # the name of this one may be gone after a power cut
                raise
        return self._descriptor

    def _cut_back(self, descriptor: int) -> None:
        """Take half a line away again, so that the next one does not grow onto it. What fsync could not promise is written anew."""
        try:
            os.ftruncate(descriptor, self._size)
        except OSError:
            self._take_another_file(descriptor)  # this one ends in half a line, which a reader ignores

    def _take_another_file(self, descriptor: int) -> None:
        self._descriptor = None
        self._path = self._path.with_name(f"{self._path.name.removesuffix(SUFFIX)}+{SUFFIX}")
        os.close(descriptor)

    def close(self) -> None:
        """Return when the writes under way have ended, also those whose caller has gone."""
        self._thread.submit(self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):  # every line is on the disk already
                os.close(self._descriptor)
            self._descriptor = None


def read(folder: Path) -> Iterator[Line]:
    """Every line of every file of the folder, file by file.

    An incomplete last line was never acknowledged and is left out. Raises LedgerDamaged, with the file and the line,
    for anything else that does not read: an edited or damaged journal must not pass for a short one.
    """
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        data = path.read_bytes()
        whole, _, _ = data.rpartition(b"\n")
        for number, raw in enumerate(whole.split(b"\n") if whole else (), 1):
            text, _, crc = raw.rpartition(b"\t")
            try:
                if int(crc, 16) != zlib.crc32(text):
                    raise LedgerDamaged(f"line {number} of {path.name} was altered")
                yield _decode(text)
            except (ValueError, msgspec.DecodeError):
                raise LedgerDamaged(f"line {number} of {path.name} cannot be read") from None
