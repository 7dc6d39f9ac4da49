"""What a test may do that needs root: disks of a few megabytes and networks of its own. Elsewhere it skips and says why."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

GROWTH = 64 * 2**20

_numbers = itertools.count(os.getpid() % 16_000)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)


def _privileged(what: str, *command: str) -> None:
    """Run a command, or skip the test: where root is refused, or has no such tool, a run that requires tools fails."""
    if os.geteuid() != 0:
        pytest.skip(f"{what} needs root")
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]}, for {what}, is not installed")
    try:
        _run(*command)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{what} is refused to root: {error.stderr.strip()}")


class Disk:
    """A file system of a given size, mounted on `path`."""

    def __init__(self, path: Path, *, grows: bool) -> None:
        self.path, self.grows = path, grows

    @property
    def free(self) -> int:
        at = os.statvfs(self.path)
        return at.f_bavail * at.f_frsize

    def fill(self) -> None:
        """Fill it with a file, as another program would."""
        with (self.path / "filler").open("ab") as filler:
            while wanted := self.free:
                while wanted:
                    try:
                        os.posix_fallocate(filler.fileno(), filler.seek(0, os.SEEK_END), wanted)
                        break
                    except OSError as error:  # others write at the same moment
                        if error.errno != errno.ENOSPC:
                            raise
                        wanted //= 2

    def make_room(self, *, grow: bool) -> None:
        """Make it larger while it is in use, as an operator does with a volume, or take the filler away."""
        if grow and self.grows:
            at = os.statvfs(self.path)
            _run("mount", "-o", f"remount,size={at.f_blocks * at.f_frsize + GROWTH}", str(self.path))
        else:
            self.empty()

    def empty(self) -> None:
        """Take the filler away."""
        (self.path / "filler").unlink(missing_ok=True)


@contextmanager
def small_disk(path: Path, *, megabytes: int, lasting: bool = False) -> Iterator[Disk]:
    """A disk on a folder, which is made if it is not there. Skips where a mount is not allowed.

    `lasting`: ext4 in a file instead of memory, which does not grow; production bears nothing that memory holds.
    """
    path.mkdir(parents=True, exist_ok=True)
    if lasting:
        image = path.with_name(f"{path.name}.ext4")
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        _privileged("a file system", "mkfs.ext4", "-q", "-m", "0", str(image))
        _privileged("a mount", "mount", "-o", "loop", str(image), str(path))
    else:
        _privileged("a mount", "mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "volenti-test", str(path))
    try:
        yield Disk(path, grows=not lasting)
    finally:
        _run("umount", "--lazy", str(path))


class Network:
    """A network of a replica's own, joined to ours by two links: one to talk to it, one to its database, which can be cut.

    A cut is silent, as a pulled cable or a firewall is: no packet says that nothing comes through.
    """

    def __init__(self, number: int) -> None:
        self.name = f"volenti-{number}"
        self._links = (f"vt{number}c", f"vt{number}d")
        block, place = number // 32 % 256, number % 32 * 8
        self.database, self.replica = f"198.18.{block}.{place + 5}", f"198.18.{block}.{place + 2}"
        """Where the database is seen from within, and the replica from here. The range is reserved for tests (RFC 2544)."""
        self._ends = (
            (f"198.18.{block}.{place + 1}", self.replica),
            (self.database, f"198.18.{block}.{place + 6}"),
        )
        self.prefix = ("nsenter", f"--net=/run/netns/{self.name}")
        """What a command is run by to be in it."""

    def make(self) -> None:
        _run("ip", "-n", self.name, "link", "set", "lo", "up")
        for link, (near, far) in zip(self._links, self._ends, strict=True):
            _run("ip", "link", "add", link, "type", "veth", "peer", "name", link, "netns", self.name)
            _run("ip", "address", "add", f"{near}/30", "dev", link)
            _run("ip", "-n", self.name, "address", "add", f"{far}/30", "dev", link)
            _run("ip", "-n", self.name, "link", "set", link, "up")
            _run("ip", "link", "set", link, "up")

    def cut(self) -> None:
        _run("ip", "link", "set", self._links[1], "down")

    def heal(self) -> None:
        _run("ip", "link", "set", self._links[1], "up")

    def connections(self, pid: int, *, port: int) -> int:
        """How many established connections to a port a process's network has."""
        rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


@contextmanager
def own_network() -> Iterator[Network]:
    """A network for one replica. Skips where namespaces are not allowed; nothing of it is left afterwards."""
    network = Network(next(_numbers))
    _privileged("a network namespace", "ip", "netns", "add", network.name)
    with ExitStack() as stack:
        stack.callback(_run, "ip", "netns", "delete", network.name)  # with its ends the links go
        network.make()
        yield network
