"""Folders and names that outlive a power cut: fsync of a file keeps its bytes, its name is kept by its folder's."""

from __future__ import annotations

import os
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
