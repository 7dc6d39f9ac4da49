"""Where a folder lies, and what takes it away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from volenti.store.durable import goes_with, make_folder, mount_goes_with

MOUNTS = r"""
612 511 0:95 / / rw,relatime master:270 - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A:/var/lib/docker/overlay2/l/B
613 612 0:98 / /proc rw,nosuid - proc proc rw
614 612 0:99 / /dev/shm rw,nosuid - tmpfs shm rw,size=65536k
620 612 259:1 /var/lib/kubelet/pods/0b2f/volumes/kubernetes.io~empty-dir/scratch /scratch rw,relatime - xfs /dev/nvme0n1p1 rw
621 612 259:1 /var/lib/kubelet/pods/0b2f/etc-hosts /etc/hosts rw,relatime - xfs /dev/nvme0n1p1 rw
630 612 259:7 / /journal rw,relatime - ext4 /dev/nvme3n1 rw
631 612 0:120 / /an\040anchor rw,relatime - nfs4 10.0.0.7:/volenti rw,vers=4.2
632 612 0:121 / /covered rw,relatime - tmpfs tmpfs rw
633 612 259:9 / /covered rw,relatime - ext4 /dev/nvme4n1 rw
"""


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("/var/lib/volenti/anchor", "its container"),
        ("/journals", "its container"),
        ("/dev/shm/anchor", "the machine's memory"),
        ("/scratch", "its pod"),
        ("/scratch/anchor", "its pod"),
        ("/journal", None),
        ("/journal/volenti", None),
        ("/an anchor/x", None),
        ("/covered/x", None),
    ],
)
def test_a_folder_belongs_to_the_newest_mount_that_is_nearest(path: str, owner: str | None) -> None:
    assert mount_goes_with(MOUNTS, path) == owner


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="there is no /dev/shm here")
def test_memory_is_told_on_this_machine_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/shm")
    assert goes_with(tmp_path / "link" / "anchor") == "the machine's memory"


def test_folders_above_are_made_too_and_only_the_last_is_kept_private(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode
