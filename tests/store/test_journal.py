"""The withdrawal journal: whole lines, durable before they are acknowledged, and never silently shorter."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from volenti.errors import LedgerDamaged, Unavailable
from volenti.store.journal import Journal, Line, read, render

LINES = [
    Line(
        "localhost/shop",
        n,
        f"01a20c97-c410-7129-81ea-27f3a36bc2{n:02}",
        "consent.withdrawn",
        1000 + n,
        2000 + n,
        holder="a" * 8,
        purposes=("newsletter",),
    )
    for n in range(4)
]


def journal(folder: Path, *, required: bool = True, name: str = "one") -> Journal:
    return Journal(folder, name, required=required)


async def test_what_was_written_is_read_back_over_all_files(tmp_path: Path) -> None:
    first, second = journal(tmp_path, name="1"), journal(tmp_path, name="2")
    await first.write(LINES[:2])
    await second.write(LINES[2:])
    first.close()
    second.close()

    assert list(read(tmp_path)) == LINES


async def test_a_line_is_written_once_a_process(tmp_path: Path) -> None:
    one = journal(tmp_path)
    await one.write(LINES)
    await one.write(LINES)
    one.close()

    assert list(read(tmp_path)) == LINES


async def test_a_line_is_synced_before_the_call_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def seen(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    one = journal(tmp_path)
    await one.write(LINES[:1])
    one.close()

    assert len(render(LINES[0])) in synced


async def test_a_write_begins_only_when_the_one_before_has_ended_though_its_caller_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    under_way = most = 0
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        begun.set()
        go_on.wait(5)
        under_way -= 1
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    one = journal(tmp_path)
    first = asyncio.create_task(one.write(LINES[:1]))
    await asyncio.to_thread(begun.wait, 5)
    first.cancel()
    second = asyncio.create_task(one.write(LINES[1:2]))
    await asyncio.sleep(0.1)
    go_on.set()
    await second
    one.close()

    assert first.cancelled()
    assert most == 1
    assert list(read(tmp_path)) == LINES[:2]


@pytest.mark.parametrize("cut", range(1, len(render(LINES[3])), 17))
async def test_a_torn_last_line_is_left_out(tmp_path: Path, cut: int) -> None:
    one = journal(tmp_path)
    await one.write(LINES)
    one.close()
    file = tmp_path / "one.journal"
    file.write_bytes(file.read_bytes()[:-cut])

    assert list(read(tmp_path)) == LINES[:3]


@pytest.mark.parametrize("position", [3, 40, 90])
async def test_an_edited_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path, position: int) -> None:
    one = journal(tmp_path)
    await one.write(LINES)
    one.close()
    file = tmp_path / "one.journal"
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)

    with pytest.raises(LedgerDamaged, match="line 1"):
        list(read(tmp_path))


async def test_a_full_disk_leaves_no_half_line_and_the_next_write_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = journal(tmp_path)
    await one.write(LINES[:1])
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        write(descriptor, bytes(data[:10]))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(Unavailable, match="No space left"):
            await one.write(LINES[1:2])
    await one.write(LINES[1:])
    one.close()

    assert list(read(tmp_path)) == LINES


async def test_a_failed_sync_is_not_acknowledged_where_the_journal_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    one, other = journal(tmp_path / "a"), journal(tmp_path / "b", required=False)
    monkeypatch.setattr(os, "fsync", broken)

    with pytest.raises(Unavailable):
        await one.write(LINES)
    await other.write(LINES)
    assert other.failed == 1
    one.close()
    other.close()


async def test_a_file_whose_name_could_not_be_made_durable_is_not_written_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = journal(tmp_path)

    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", broken)
        with pytest.raises(Unavailable):
            await one.write(LINES[:1])
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    await one.write(LINES)
    one.close()

    assert synced == [os.stat(path).st_ino for path in (tmp_path, tmp_path / "one+.journal")]
    assert list(read(tmp_path)) == LINES


def test_an_empty_or_missing_folder_is_an_empty_journal(tmp_path: Path) -> None:
    assert list(read(tmp_path / "nothing")) == []
