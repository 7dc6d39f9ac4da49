"""EIO and SIGKILL at each system call of the anchor's and the journal's writer: whole, old or new, and nothing acknowledged lost.

strace tells which calls one write makes, and then breaks them one by one.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fault.one_write import LINES, NEW, OLD, ORIGIN
from volenti.store.anchor import FileAnchor, file_name
from volenti.store.journal import read

STRACE = shutil.which("strace")
CHILD = Path(__file__).with_name("one_write.py")
CASE_SECONDS = 30.0
FAULTS = {"EIO": "error=EIO", "SIGKILL": "signal=KILL"}
"""Instead of the call; what a kill after it leaves is what a kill before the next one finds."""

pytestmark = [
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.skipif(STRACE is None, reason="strace is not installed; the faults of single system calls need it"),
]


@dataclass(frozen=True)
class Run:
    """What a write said and did."""

    code: int
    said: list[str]
    calls: list[tuple[str, str]]
    """The name of each call and the file it was for."""
    trace: str


def traced(what: str, folder: Path, *, inject: str | None = None) -> Run:
    """Run one write under strace, which sees only the calls for what is in the folder, and breaks the one that `inject` names."""
    names = [
        "",
        "lock",
        file_name(ORIGIN),
        file_name(ORIGIN).replace(".checkpoint", ".new"),
        "one.journal",
        "one+.journal",
    ]
    log = folder.parent / "trace"
    command = [
        str(STRACE), "-f", "-qq", "-y", "-o", str(log), "-e", "trace=%file,%desc",
        *(f"--trace-path={path}" for path in (folder.parent, *(folder / name for name in names))),
        *([f"--inject={inject}"] if inject else []),
        sys.executable, str(CHILD), what, str(folder),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=CASE_SECONDS, check=False)
    trace = log.read_text()
    assert "Traceback" not in done.stderr, done.stderr
    made = re.findall(r"^(\d+) +(\w+)\((.*)$", trace, re.MULTILINE)
    assert len({thread for thread, _, _ in made}) <= 1, trace
    return Run(
        done.returncode, done.stdout.splitlines(), [(name, _file(rest, folder)) for _, name, rest in made], trace
    )


def _file(arguments: str, folder: Path) -> str:
    """The file that a call is for: the last one it names, relative to the folder."""
    found = re.findall(rf"{re.escape(str(folder))}(?:/([\w.+]+))?[\">]", arguments)
    return Path(found[-1]).suffix or found[-1] or "folder" if found else "parent"


def broken_at_each_call(
    what: str, prepare: Callable[[Path], None], tmp_path: Path, fault: str
) -> list[tuple[str, Run, Path]]:
    """A run for each call of a whole one, with that call broken; each in a folder of its own."""
    prepare(whole := tmp_path / "whole" / "kept")
    calls = traced(what, whole).calls
    assert {"openat", "write", "fsync", "close"} <= {name for name, _ in calls}
    runs, seen = [], Counter[str]()
    for name, file in calls:
        seen[name] += 1
        prepare(folder := tmp_path / f"{name}{seen[name]}" / "kept")
        run = traced(what, folder, inject=f"{name}:{FAULTS[fault]}:when={seen[name]}")
        assert ("(INJECTED)" in run.trace) if fault == "EIO" else (run.code == -9), (name, seen[name], run)
        runs.append((f"{fault} at {name} {seen[name]} ({file})", run, folder))
    return runs


def nothing_yet(folder: Path) -> None:
    folder.parent.mkdir()


def an_old_note(folder: Path) -> None:
    nothing_yet(folder)
    assert asyncio.run(FileAnchor(folder).swap(ORIGIN, None, OLD))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("prepare", "old"), [(nothing_yet, None), (an_old_note, OLD)])
def test_the_anchor_is_old_or_new_whichever_call_is_broken(
    tmp_path: Path, prepare: Callable[[Path], None], old: str | None, fault: str
) -> None:
    runs = broken_at_each_call("anchor", prepare, tmp_path, fault)
    assert len(runs) >= 15
    for at, run, folder in runs:
        anchor = FileAnchor(folder)
        kept = asyncio.run(anchor.read(ORIGIN))
        assert kept in (old, NEW), at
        if "True" in run.said:
            assert kept == NEW, at
        assert asyncio.run(anchor.swap(ORIGIN, kept, "next")), f"the next swap fails after {at}"


@pytest.mark.parametrize("fault", FAULTS)
def test_the_journal_reads_and_holds_what_was_acknowledged_whichever_call_is_broken(tmp_path: Path, fault: str) -> None:
    runs = broken_at_each_call("journal", nothing_yet, tmp_path, fault)
    assert len(runs) >= 10
    for at, run, folder in runs:
        held = list(read(folder))
        assert {line.entry for line in LINES if line.entry in run.said} <= {line.entry for line in held}, at
        assert set(held) <= set(LINES), at
        if fault == "EIO":
            assert [word for word in run.said if "refused" not in word] == [line.entry for line in LINES], at
            assert "refused 1" not in run.said, f"one broken call costs one write: {at}"


def test_a_note_is_on_the_disk_before_it_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    nothing_yet(folder := tmp_path / "here" / "kept")
    assert [call for call in traced("anchor", folder).calls if call[0] in ("mkdir", "write", "fsync", "rename")] == [
        ("mkdir", "folder"), ("fsync", "parent"),
        ("write", ".new"), ("fsync", ".new"), ("rename", ".checkpoint"), ("fsync", "folder"),
    ]  # fmt: skip


def test_each_line_is_on_the_disk_before_the_next_and_the_file_before_the_first(tmp_path: Path) -> None:
    nothing_yet(folder := tmp_path / "here" / "kept")
    assert [call for call in traced("journal", folder).calls if call[0] in ("mkdir", "write", "fsync")] == [
        ("mkdir", "folder"), ("fsync", "parent"), ("fsync", "folder"), *[("write", ".journal"), ("fsync", ".journal")] * 3,
    ]  # fmt: skip
