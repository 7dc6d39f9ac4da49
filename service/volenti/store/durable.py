"""Folders and names that outlive a power cut: fsync of a file keeps its bytes, its name is kept by its folder's."""

from __future__ import annotations

import os
import re
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Return when what was made, renamed or removed in the folder is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, *, mode: int = 0o700) -> None:
    """Make a folder, and those above it, where they are missing; each name is on the disk before the next is made."""
    if not folder.is_dir():
        make_folder(folder.parent, mode=0o777)
        folder.mkdir(mode, exist_ok=True)
        sync_folder(folder.parent)


MEMORY, CONTAINER = ("tmpfs", "ramfs", "devtmpfs"), ("overlay", "aufs")
POD = "/kubernetes.io~empty-dir/"


def goes_with(folder: Path) -> str | None:
    """What takes the folder away with it when it ends: the machine's memory, a container, a pod. None if nothing known does."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # no Linux: nothing can be told
        return None
    return mount_goes_with(mounts, str(folder.resolve()))


def mount_goes_with(mounts: str, path: str) -> str | None:
    """The same for a path without links, by the text of /proc/self/mountinfo (proc(5))."""
    longest, answer = "", None
    for line in mounts.strip().splitlines():
        before, _, after = line.partition(" - ")
        root, point = (
            re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), word) for word in before.split(" ")[3:5]
        )
        inside = f"{path}/".startswith(f"{point.rstrip('/')}/")
        if inside and len(point) >= len(longest):  # a later mount on the same point covers the earlier one
            longest, answer = point, _owner(root, after.partition(" ")[0])
    return answer


def _owner(root: str, kind: str) -> str | None:
    if kind in MEMORY:
        return "the machine's memory"
    if kind in CONTAINER:
        return "its container"
    return "its pod" if POD in f"{root}/" else None
