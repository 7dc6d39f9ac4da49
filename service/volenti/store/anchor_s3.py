"""The anchor in an S3-compatible store: one object a log, swapped by If-Match with the ETag that was read."""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from volenti.errors import Invalid, Unavailable, VolentiError
from volenti.store.anchor import ANSWER_SECONDS, THREADS, file_name

T = TypeVar("T")

CONNECT_SECONDS, READ_SECONDS = 2.0, 3.0

LOST = ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey")
"""What a conditional write is told that came too late: 412; 409; 404 where the object went away meanwhile."""


class S3Anchor:
    """Keeps the notes as objects under a prefix. Credentials and region come from where boto3 looks for them.

    `endpoint` names another store than AWS. Raises Invalid where boto3 is not installed.
    """

    def __init__(self, bucket: str, prefix: str, endpoint: str | None = None) -> None:
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self._client = _client(endpoint)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="anchor")

    async def read(self, origin: str) -> str | None:
        return await self._ask("read", lambda: self._get(file_name(origin))[0])

    async def swap(self, origin: str, old: str | None, new: str) -> bool:
        return await self._ask("written", lambda: self._swap(file_name(origin), old, new))

    async def check(self) -> None:
        await self._ask("checked", self._check)

    def close(self) -> None:
        self._threads.shutdown(wait=False)
        self._client.close()

    async def _ask(self, doing: str, call: Callable[[], T]) -> T:
        """Run a call in a thread. One that is given up may still take effect: who asked starts over by reading."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except VolentiError:
            raise
        except Exception as error:  # whatever the client of a store raises
            raise Unavailable(f"the anchor cannot be {doing} ({_code(error) or type(error).__name__})") from error

    def _swap(self, name: str, old: str | None, new: str) -> bool:
        kept, etag = self._get(name)
        if kept != old:
            return False
        return self._put(name, new, {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag})

    def _get(self, name: str) -> tuple[str | None, str | None]:
        """The note and its ETag; None twice where there is no such object. A missing bucket is not an empty one, and raises."""
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
        except self._client.exceptions.ClientError as error:
            if _code(error) == "NoSuchKey":
                return None, None
            raise
        with answer["Body"] as body:
            return body.read().decode("utf-8", errors="surrogateescape"), answer["ETag"]

    def _put(self, name: str, note: str, condition: dict[str, str]) -> bool:
        """Write under a condition; False if it did not hold."""
        body = note.encode()
        digest = b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()  # Object Lock demands one
        try:
            self._client.put_object(
                Bucket=self._bucket, Key=self._prefix + name, Body=body, ContentMD5=digest, **condition
            )
        except self._client.exceptions.ClientError as error:
            if _code(error) in LOST:
                return False
            raise
        return True

    def _check(self) -> None:
        """Write a probe under conditions that do not hold: some stores do not know the two headers and write all the same."""
        self._put("probe", "made by the first check", {"IfNoneMatch": "*"})
        if self._put("probe", "again", {"IfNoneMatch": "*"}) or self._put("probe", "again", {"IfMatch": '"stale"'}):
            raise Invalid("its store ignores If-Match and If-None-Match, so that it can keep no anchor")


def _code(error: Exception) -> str:
    """What the store said, in its one word; empty if it said nothing."""
    answer = getattr(error, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))


def _client(endpoint: str | None) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise Invalid("an anchor in s3:// needs boto3, which is not installed: pip install 'volenti[s3]'") from None
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        # A conditional write that the client repeats by itself loses against its own first try.
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=THREADS,
        # Older S3-compatible stores refuse the newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        return boto3.client("s3", endpoint_url=endpoint, config=config)
    except Exception as error:  # an endpoint that is no URL, a broken configuration file
        raise Invalid(f"the anchor's store cannot be used ({type(error).__name__}): look at its settings") from error
