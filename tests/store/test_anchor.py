"""The anchor: compare and swap, durable, and old or new but never half."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from volenti.errors import Unavailable
from volenti.store.anchor import FileAnchor

ORIGIN = "localhost/shop"


async def test_a_swap_needs_what_is_kept(tmp_path: Path) -> None:
    anchor = FileAnchor(tmp_path)

    assert await anchor.read(ORIGIN) is None
    assert not await anchor.swap(ORIGIN, "old", "new")
    assert await anchor.swap(ORIGIN, None, "one")
    assert not await anchor.swap(ORIGIN, None, "two")
    assert await anchor.swap(ORIGIN, "one", "two")
    assert await anchor.read(ORIGIN) == "two"
    assert await anchor.read("localhost/other") is None


async def test_of_many_swaps_from_the_same_note_one_succeeds(tmp_path: Path) -> None:
    anchors = [FileAnchor(tmp_path) for _ in range(16)]

    won = await asyncio.gather(*(anchor.swap(ORIGIN, None, str(n)) for n, anchor in enumerate(anchors)))

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


async def test_an_anchor_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    anchor = FileAnchor(tmp_path / "file")

    with pytest.raises(Unavailable):
        await anchor.swap(ORIGIN, None, "new")
