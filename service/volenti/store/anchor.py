"""The anchor: the newest checkpoint of each log, in a place that the database's administrator does not hold.

A database that was rolled back or forked is found because its head is behind or beside the anchor. The store compares
and swaps; whether the new checkpoint may follow the old one is the caller's to prove, as a witness's would be.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from volenti.errors import Invalid, Unavailable
from volenti.store.durable import make_folder, sync_folder

T = TypeVar("T")

ANSWER_SECONDS = 5.0
"""How long one call may take altogether: a store that does not answer is one that failed."""
THREADS = 4
"""A store's own: one that hangs must not hold those that write the journal or compile a policy."""
LOCK_SECONDS = 4.0
"""How long a writer waits for another one, which may have been stopped while it held the lock."""
_LOCK_PAUSE = 0.01


class AnchorStore(Protocol):
    """Keeps one signed note an origin, outside the database."""

    async def read(self, origin: str) -> str | None:
        """The note that is kept, verbatim; None if none is. MUST raise Unavailable when it cannot be told."""
        ...

    async def swap(self, origin: str, old: str | None, new: str) -> bool:
        """Replace `old` (None: nothing) by `new`, if `old` is what is kept; False if it is not.

        MUST be atomic and durable before it returns True: after a crash the old note or the new one is there, never
        half of one. MUST raise Unavailable when the outcome is not known.
        """
        ...

    async def check(self) -> None:
        """MUST raise Unavailable if the store cannot be reached or written, Invalid if it could not keep its promise."""
        ...

    def close(self) -> None: ...


def open_anchor(place: str, *, endpoint: str | None = None) -> AnchorStore:
    """The store that a setting names: a folder, or `s3://bucket/prefix`. Raises Invalid for what is neither."""
    scheme, separator, rest = place.partition("://")
    if not separator:
        return FileAnchor(Path(place))
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise Invalid("the setting anchor does not fit: it is a folder or s3://bucket/prefix")
    from volenti.store.anchor_s3 import S3Anchor  # its library is heavy, and only installed where it is asked for

    return S3Anchor(bucket, prefix.strip("/"), endpoint)


def file_name(origin: str) -> str:
    """The name under which a log's note is kept: whatever stands in an origin, it names no other place."""
    return f"{hashlib.sha256(origin.encode()).hexdigest()}.checkpoint"


class FileAnchor:
    """Keeps the notes as files of a folder, which belongs on another volume than the database's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="anchor")

    async def read(self, origin: str) -> str | None:
        return await self._ask("read", lambda: self._read(origin))

    async def swap(self, origin: str, old: str | None, new: str) -> bool:
        return await self._ask("written", lambda: self._swap(origin, old, new))

    async def check(self) -> None:
        await self._ask("written", self._check)

    def close(self) -> None:
        self._threads.shutdown(wait=False)

    async def _ask(self, doing: str, call: Callable[[], T]) -> T:
        """Run a call in a thread. One that is given up may still take effect: who asked starts over by reading."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except TimeoutError as error:
            raise Unavailable(f"the anchor cannot be {doing}: its folder does not answer") from error
        except OSError as error:
            raise Unavailable(f"the anchor cannot be {doing}: {error.strerror}") from error

    def _check(self) -> None:
        make_folder(self._folder)
        with self._alone():
            pass

    def _read(self, origin: str) -> str | None:
        try:
            return (self._folder / file_name(origin)).read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            return None

    def _swap(self, origin: str, old: str | None, new: str) -> bool:
        make_folder(self._folder)
        with self._alone():
            if self._read(origin) != old:
                return False
            path = self._folder / file_name(origin)
            fresh = path.with_suffix(".new")
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(new.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
            sync_folder(self._folder)
            return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One writer at a time, also among processes; the lock ends with its process. Raises Unavailable after LOCK_SECONDS."""
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor)
            yield
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> None:
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise Unavailable("the anchor cannot be written: another process holds its lock") from None
            time.sleep(_LOCK_PAUSE)
        else:
            return
