"""The anchor: compare and swap, durable, and old or new but never half; the same for each store that can keep it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

import pytest

from object_store import Fault, ObjectStore, object_store
from volenti.errors import Invalid, Unavailable
from volenti.store.anchor import ANSWER_SECONDS, AnchorStore, FileAnchor, open_anchor

ORIGIN = "localhost/shop"

Opener = Callable[[], AnchorStore]
"""Opens one more anchor over the same store, as another replica does."""


@pytest.fixture(scope="module")
def store_of_module() -> Iterator[ObjectStore]:
    with object_store() as store:
        yield store


@pytest.fixture
def bucket(store_of_module: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """The S3-compatible store, empty and sound."""
    client = store_of_module.client()
    for key in store_of_module.objects():
        client.delete_object(Bucket=store_of_module.bucket, Key=key)
    client.close()
    store_of_module.fault, store_of_module.ignores_conditions = None, False
    yield store_of_module
    store_of_module.released.set()
    store_of_module.released.clear()


@pytest.fixture(params=["file", "s3"])
def another(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    place, endpoint = str(tmp_path), None
    if request.param == "s3":
        bucket = request.getfixturevalue("bucket")
        place, endpoint = f"s3://{bucket.bucket}/some/where", bucket.url
    with ExitStack() as opened:

        def opener() -> AnchorStore:
            anchor = open_anchor(place, endpoint=endpoint)
            opened.callback(anchor.close)
            return anchor

        yield opener


@pytest.fixture
async def s3(bucket: ObjectStore) -> AsyncIterator[AnchorStore]:
    anchor = open_anchor(f"s3://{bucket.bucket}/some/where/", endpoint=bucket.url)
    yield anchor
    anchor.close()


async def test_a_swap_needs_what_is_kept(another: Opener) -> None:
    anchor = another()

    assert await anchor.read(ORIGIN) is None
    assert not await anchor.swap(ORIGIN, "old", "new")
    assert await anchor.swap(ORIGIN, None, "one")
    assert not await anchor.swap(ORIGIN, None, "two")
    assert await anchor.swap(ORIGIN, "one", "two")
    assert not await anchor.swap(ORIGIN, "one", "three")
    assert await anchor.read(ORIGIN) == "two"
    assert await anchor.read("localhost/other") is None
    await anchor.check()
    assert await anchor.read(ORIGIN) == "two"


async def test_a_note_comes_back_as_it_was_kept(another: Opener) -> None:
    note = "localhost/shop\n2\nZm9v\n\n— localhost/shop Zm9v\n"
    assert await another().swap(ORIGIN, None, note)
    assert await another().read(ORIGIN) == note
    assert await another().swap(ORIGIN, note, "next")


@pytest.mark.parametrize("old", [None, "old"])
async def test_of_many_swaps_from_the_same_note_one_succeeds(another: Opener, old: str | None) -> None:
    anchors = [another() for _ in range(16)]
    if old is not None:
        assert await anchors[0].swap(ORIGIN, None, old)

    won = await asyncio.gather(*(anchor.swap(ORIGIN, old, str(n)) for n, anchor in enumerate(anchors)))

    assert won.count(True) == 1
    assert await anchors[0].read(ORIGIN) == str(won.index(True))


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
async def test_a_fault_at_any_step_leaves_the_old_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    anchor = FileAnchor(tmp_path)
    await anchor.swap(ORIGIN, None, "old")

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        if step == "replace":
            patched.setattr(Path, "replace", broken)
        elif step == "fsync":
            patched.setattr(os, "fsync", broken)
        else:
            patched.setattr(os, "fdopen", broken)
        with pytest.raises(Unavailable):
            await anchor.swap(ORIGIN, "old", "new")

    assert await anchor.read(ORIGIN) == "old"
    assert await anchor.swap(ORIGIN, "old", "new")


async def test_a_lock_that_is_never_let_go_says_so_and_nothing_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another replica was stopped in the middle of its write."""
    anchor = FileAnchor(tmp_path)
    await anchor.swap(ORIGIN, None, "old")
    monkeypatch.setattr("volenti.store.anchor.LOCK_SECONDS", 0.05)
    with (tmp_path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for call in (anchor.swap(ORIGIN, "old", "new"), anchor.check()):
            with pytest.raises(Unavailable, match="lock"):
                await call
        assert await anchor.read(ORIGIN) == "old"

    assert await anchor.swap(ORIGIN, "old", "new")


async def test_a_folder_that_does_not_answer_says_so_and_takes_no_thread_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr("volenti.store.anchor.ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: released.wait(10) and "")
    anchor = FileAnchor(tmp_path)
    try:
        answers = await asyncio.gather(
            *(anchor.read(ORIGIN) for _ in range(40)), anchor.swap(ORIGIN, "", "new"), return_exceptions=True
        )
        assert {type(answer) for answer in answers} == {Unavailable}
        assert await asyncio.wait_for(asyncio.to_thread(lambda: not released.is_set()), 5)
    finally:
        released.set()
        anchor.close()


async def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    anchor = FileAnchor(tmp_path / "file")

    with pytest.raises(Unavailable):
        await anchor.swap(ORIGIN, None, "new")
    with pytest.raises(Unavailable):
        await anchor.check()


@pytest.mark.usefixtures("bucket")
async def test_a_store_that_cannot_be_reached_says_so() -> None:
    anchor = open_anchor("s3://bucket", endpoint="http://127.0.0.1:1")

    for call in (anchor.read(ORIGIN), anchor.swap(ORIGIN, None, "new"), anchor.check()):
        with pytest.raises(Unavailable, match="EndpointConnectionError"):
            await call
    anchor.close()


async def test_a_bucket_that_is_not_there_is_no_anchor_that_is_empty(bucket: ObjectStore) -> None:
    anchor = open_anchor("s3://somebody-elses", endpoint=bucket.url)

    for call in (anchor.read(ORIGIN), anchor.swap(ORIGIN, None, "new"), anchor.check()):
        with pytest.raises(Unavailable, match="NoSuchBucket"):
            await call
    anchor.close()


@pytest.mark.parametrize("fault", get_args(Fault))
async def test_a_swap_that_fails_or_only_seems_to_leaves_old_or_new_and_reading_tells_which(
    bucket: ObjectStore, s3: AnchorStore, fault: Fault
) -> None:
    assert await s3.swap(ORIGIN, None, "old")
    bucket.fault, before = fault, bucket.writes

    if fault == "409 before":
        assert not await s3.swap(ORIGIN, "old", "new")
    else:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="cannot be written"):
            await s3.swap(ORIGIN, "old", "new")
        assert time.monotonic() - began < 2 * ANSWER_SECONDS

    assert bucket.writes == before + 1, "a conditional write is never repeated unasked"
    kept = await s3.read(ORIGIN)
    assert kept == ("new" if fault.endswith("after") else "old")
    assert await s3.swap(ORIGIN, kept, "newer")


async def test_a_swap_that_was_given_up_and_lands_late_overwrites_nothing(bucket: ObjectStore, s3: AnchorStore) -> None:
    assert await s3.swap(ORIGIN, None, "old")
    bucket.fault = "late"
    with pytest.raises(Unavailable):
        await s3.swap(ORIGIN, "old", "new")
    assert await s3.read(ORIGIN) == "old"
    assert await s3.swap(ORIGIN, "old", "newer")

    bucket.released.set()
    assert bucket.landed.wait(5)

    assert await s3.read(ORIGIN) == "newer"


async def test_a_store_that_ignores_the_conditions_is_found_out(bucket: ObjectStore, s3: AnchorStore) -> None:
    await s3.check()
    await s3.check()
    bucket.ignores_conditions = True
    with pytest.raises(Invalid, match="ignores If-Match"):
        await s3.check()


async def test_an_object_has_the_name_of_the_file_so_that_an_anchor_can_be_copied_from_store_to_store(
    bucket: ObjectStore, s3: AnchorStore, tmp_path: Path
) -> None:
    assert await s3.swap(ORIGIN, None, "note")
    assert await FileAnchor(tmp_path).swap(ORIGIN, None, "note")
    assert {key.removeprefix("some/where/") for key in bucket.objects()} == {*os.listdir(tmp_path)} - {"lock"}


@pytest.mark.parametrize("place", ["gs://bucket/x", "s3://", "s3:///prefix", "https://example.org", "file:///tmp"])
def test_a_place_that_is_neither_folder_nor_bucket_is_refused(place: str) -> None:
    with pytest.raises(Invalid, match="folder or s3://"):
        open_anchor(place)


def test_without_its_library_an_anchor_in_s3_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(Invalid, match=r"pip install 'volenti\[s3\]'"):
        open_anchor("s3://bucket")
