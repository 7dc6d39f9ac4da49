"""As whom the embedded PostgreSQL runs: it refuses root, and a user without a name."""

import os
import pwd
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import msgspec

from volenti.errors import Unavailable

# Exits with 3 and names the first folder or program that it cannot enter or run.
_FIRST_CLOSED = 'for path do test -x "$path" || { printf %s "$path"; exit 3; }; done'


class Account(msgspec.Struct, frozen=True):
    """As whom PostgreSQL's programs run, and under which name the server then sees this process."""

    login: str
    prefix: tuple[str, ...] = ()
    uid: int | None = None  # None: ours, also behind a prefix that only makes it look like another
    gid: int | None = None

    def give(self, what: int | Path) -> None:
        if self.uid is not None and self.gid is not None:
            os.chown(what, self.uid, self.gid)

    def write(self, path: Path, text: str) -> None:
        """Replace the file as a whole. Never through a link: the account may own the folder where root writes."""
        fresh = path.with_name(f"{path.name}.new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            self.give(descriptor)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        fresh.replace(path)

    def popen(
        self, command: Sequence[str | Path], *, output: int | IO[bytes], pass_fds: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        # Nothing of our environment: it may hold secrets, and PGPORT, PGDATA or PGOPTIONS would change the server.
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        return subprocess.Popen(  # noqa: S603
            [*self.prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=kept | {"LC_ALL": "C"},
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
            umask=0o077,
            pass_fds=pass_fds,
        )


def account_for(data_dir: Path, binaries: Path, report: Callable[[str], None]) -> Account:
    """Choose as whom PostgreSQL runs: it refuses root, and a user without a name.

    A user with a name: as that user. Data that belong to another user: root runs it as the owner. Else in a user
    namespace, where it sees another uid and keeps our access. Where that is forbidden, as in most containers, root
    gives the data directory to a named user; from then on this user is the owner.
    """
    me, owner = os.geteuid(), data_dir.stat().st_uid
    if me != 0 and (login := _login(me)):
        return Account(login=login)
    stand_in = _stand_in()
    if owner == me or me != 0:
        mapped = Account(
            login=stand_in.pw_name,
            prefix=("unshare", "--user", f"--map-user={stand_in.pw_uid}", f"--map-group={stand_in.pw_gid}"),
        )
        if _can_run(mapped, data_dir, binaries):
            return mapped
    if me != 0:
        raise Unavailable(
            f"PostgreSQL does not run as uid {me}, which has no name, and user namespaces are refused here: "
            "give the uid a name in /etc/passwd, or use a PostgreSQL that runs elsewhere"
        )
    if (data_dir / "postgresql").exists() and owner == me:
        raise Unavailable(
            f"PostgreSQL does not run as root, and user namespaces are refused here: "
            f"chown -R {stand_in.pw_name} {data_dir} once, and it runs as that user"
        )
    login = _login(owner) if owner else stand_in.pw_name
    if login is None:
        raise Unavailable(f"{data_dir} belongs to uid {owner}, which has no name: chown it to a user that has one")
    person = pwd.getpwnam(login)
    dropped = Account(login=login, uid=person.pw_uid, gid=person.pw_gid)
    if not _can_run(dropped, data_dir, binaries):
        raise Unavailable(
            f"PostgreSQL does not run as root, and this process may not become {login}: run the service as another user"
        )
    if owner == me:
        report(f"PostgreSQL does not run as root, and user namespaces are refused here: {data_dir} goes to {login}")
        dropped.give(data_dir)
    return dropped


def _login(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _stand_in() -> pwd.struct_passwd:
    """Return the named user that PostgreSQL runs as, or seems to, when we are root or have no name.

    Not nobody while there is another: in a user namespace every uid of outside looks like nobody (65534) to peer.
    """
    known = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in ("volenti", "postgres", "daemon", "nobody"):
        if name in known:
            return known[name]
    raise Unavailable("PostgreSQL does not run as root: make a user for it, useradd --system volenti")


def _can_run(account: Account, data_dir: Path, binaries: Path) -> bool:
    """Tell whether the account can be taken. Raises Unavailable if it can, but a folder is closed to it."""
    program = binaries / "postgres"
    paths = [*reversed(program.parents), program, *reversed(data_dir.parents)]
    try:
        process = account.popen(["/bin/sh", "-c", _FIRST_CLOSED, "sh", *paths], output=subprocess.PIPE)
    except OSError:  # no unshare here
        return False
    said, _ = process.communicate()
    if process.returncode == 3:
        raise Unavailable(
            f"PostgreSQL would run as {account.login}, to whom {said.decode(errors='replace')} is closed: "
            "open it to that user, or move the data directory or the programs (VOLENTI_PG_BIN) elsewhere"
        )
    return process.returncode == 0
