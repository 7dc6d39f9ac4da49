"""The embedded PostgreSQL survives what happens to it on real machines: crashes, strangers, closed and full folders."""

import asyncio
import fcntl
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import volenti
from volenti.errors import Invalid, Unavailable
from volenti.store import embedded
from volenti.store.embedded import ROLES, Embedded, find_binaries, running

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")

# A process that uses the data directory until a line comes in.
USER_PROCESS = """
import sys
from pathlib import Path
from volenti.store.embedded import running
with running(Path(sys.argv[1]), report=lambda line: print(line, flush=True)) as server:
    print("alive" if server.alive() else "dead", flush=True)
    sys.stdin.readline()
print("left", flush=True)
"""


def ask(server: Embedded, query: str, *arguments: object, role: str = "volenti") -> Any:
    async def answer() -> Any:
        connection = await asyncpg.connect(server.url(role))
        try:
            return await connection.fetchval(query, *arguments)
        finally:
            await connection.close()

    return asyncio.run(answer())


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "postgresql" / "postmaster.pid").read_text().splitlines()[0])


def kill(data_dir: Path) -> None:
    os.kill(postmaster(data_dir), signal.SIGKILL)


def free(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def put_pid(data_dir: Path, pid: int) -> None:
    for lock_file in (data_dir / "postgresql" / "postmaster.pid", data_dir / ".s.PGSQL.5432.lock"):
        lines = lock_file.read_text().splitlines()
        lock_file.write_text("\n".join([str(pid), *lines[1:]]) + "\n")


@contextmanager
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def user_process(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", USER_PROCESS, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.communicate()


def said_until(process: subprocess.Popen[str], last: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if lines[-1] == last:
            return lines
    raise AssertionError(f"{last!r} never came: {lines}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with running(tmp_path_factory.mktemp("shared") / "data") as server:
        for role in ROLES[1:]:
            ask(server, f"CREATE ROLE {role} LOGIN")
        yield server


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, as tmp_path is not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_new_directory_becomes_an_answering_database_and_leaving_stops_it(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        assert server.alive()
        assert ask(server, "SELECT current_database() || ' ' || current_user") == "volenti volenti"
        assert ask(server, "SHOW data_checksums") == "on"

    assert not server.alive()
    assert free(tmp_path / "data" / "server.lock")


def test_a_warm_start_keeps_what_was_written(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        ask(server, "CREATE TABLE kept AS SELECT 42 AS value")

    with running(tmp_path) as server:
        assert ask(server, "SELECT value FROM kept") == 42


@pytest.mark.parametrize("role", ROLES)
def test_every_role_connects_through_the_socket_without_a_password(server: Embedded, role: str) -> None:
    assert role == ask(server, "SELECT current_user", role=role)


def test_a_login_outside_the_map_is_refused(server: Embedded) -> None:
    ask(server, "CREATE ROLE somebody LOGIN")

    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        asyncio.run(asyncpg.connect(server.url("volenti").replace("volenti@", "somebody@")))
    with pytest.raises(Invalid, match="somebody is not a role"):
        server.url("somebody")


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
def test_durability_is_never_turned_off(server: Embedded, setting: str) -> None:
    written = (server.data_dir / "postgresql" / "postgresql.volenti.conf").read_text()

    assert f"{setting} = on" in written
    assert ask(server, f"SHOW {setting}") == "on"


def test_the_settings_are_the_managed_ones(server: Embedded) -> None:
    shown = {name: ask(server, f"SHOW {name}") for name in ("listen_addresses", "timezone", "unix_socket_permissions")}

    assert shown == {"listen_addresses": "", "timezone": "UTC", "unix_socket_permissions": "0700"}
    assert ask(server, "SHOW log_parameter_max_length_on_error") == "0"


def test_no_statement_and_no_value_reaches_the_log(server: Embedded) -> None:
    ask(server, "CREATE TABLE person (email text PRIMARY KEY)")
    ask(server, "INSERT INTO person VALUES ($1)", "ada@example.org")

    with pytest.raises(asyncpg.UniqueViolationError, match="duplicate key"):
        ask(server, "INSERT INTO person VALUES ($1)", "ada@example.org")
    with pytest.raises(asyncpg.InvalidTextRepresentationError):
        ask(server, "SELECT 'ada@example.org'::int")

    log = (server.data_dir / "postgresql.log").read_text()
    assert "ready to accept connections" in log
    assert "ada@example.org" not in log
    assert "INSERT" not in log


def test_everything_that_is_made_is_closed_to_other_users(server: Embedded) -> None:
    made = [server.data_dir, *server.data_dir.iterdir()]

    assert [path.name for path in made if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_the_folders_above_keep_their_permissions(tmp_path: Path) -> None:
    data_dir = tmp_path / "closed" / "data"
    data_dir.parent.mkdir(mode=0o700)
    before = {folder: folder.stat().st_mode for folder in data_dir.parents}

    with running(data_dir):
        pass

    assert before == {folder: folder.stat().st_mode for folder in data_dir.parents}


def test_a_killed_server_is_revived_with_its_committed_rows(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        ask(server, "CREATE TABLE kept AS SELECT 42 AS value")
        kill(tmp_path)
        server.revive()

        assert server.alive()
        assert ask(server, "SELECT value FROM kept") == 42


def test_a_start_right_after_a_kill_keeps_the_committed_rows(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        ask(server, "CREATE TABLE kept AS SELECT 42 AS value")
        kill(tmp_path)

        with running(tmp_path) as again:
            assert ask(again, "SELECT value FROM kept") == 42


def test_several_threads_revive_a_server_once(tmp_path: Path) -> None:
    reports: list[str] = []
    with running(tmp_path, report=reports.append) as server:
        kill(tmp_path)
        threads = [threading.Thread(target=server.revive) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert server.alive()
    assert sum(line.startswith("starting") for line in reports) == 2


def test_nothing_is_revived_after_leaving(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        pass

    with pytest.raises(Unavailable, match="no longer in use"):
        server.revive()
    assert not server.alive()


@pytest.mark.parametrize("state", ["alive", "zombie"])
def test_a_pid_that_now_belongs_to_a_stranger_does_not_prevent_the_start(tmp_path: Path, state: str) -> None:
    with running(tmp_path) as server, stranger() as process:
        ask(server, "CREATE TABLE kept AS SELECT 42 AS value")
        kill(tmp_path)
        put_pid(tmp_path, process.pid)
        if state == "zombie":
            process.send_signal(signal.SIGKILL)  # nobody has asked for its end yet: the pid stays taken

        with running(tmp_path) as again:
            assert ask(again, "SELECT value FROM kept") == 42
        if state == "alive":
            assert process.poll() is None


def test_a_stranger_with_the_pid_of_the_dead_server_is_not_interrupted(tmp_path: Path) -> None:
    with stranger() as process:
        with running(tmp_path):
            kill(tmp_path)
            put_pid(tmp_path, process.pid)
            while not free(tmp_path / "server.lock"):
                time.sleep(0.01)

        assert process.poll() is None


def test_an_empty_lock_file_does_not_prevent_the_start(tmp_path: Path) -> None:
    with running(tmp_path):
        pass
    (tmp_path / "postgresql" / "postmaster.pid").touch(mode=0o600)

    with running(tmp_path) as server:
        assert server.alive()


def test_data_of_another_major_version_are_refused_with_both_versions(tmp_path: Path) -> None:
    (tmp_path / "postgresql").mkdir()
    (tmp_path / "postgresql" / "PG_VERSION").write_text("14\n")
    ours = find_binaries(None).version[1]

    with pytest.raises(Invalid, match=rf"PostgreSQL 14, .* {ours}: .*pg_upgrade"), running(tmp_path):
        pass


def test_a_folder_without_pg_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "postgresql").mkdir()
    (tmp_path / "postgresql" / "base").write_text("precious")

    with pytest.raises(Invalid, match="no PG_VERSION"), running(tmp_path):
        pass
    assert (tmp_path / "postgresql" / "base").read_text() == "precious"


def test_a_cluster_that_was_left_half_made_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "postgresql.new" / "base").mkdir(parents=True)

    with running(tmp_path) as server:
        assert server.alive()
    assert not (tmp_path / "postgresql.new").exists()


def test_a_shared_temporary_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)

    with pytest.raises(Invalid, match="that all users share"), running(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["d" * 120, "a b, c's 100% ü"])
def test_a_path_that_no_socket_can_have_gets_a_private_folder_while_it_runs(tmp_path: Path, name: str) -> None:
    with running(tmp_path / name) as server:
        folder = (tmp_path / name / "socket").readlink()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert server.alive()
        kill(tmp_path / name)
        server.revive()
        assert folder == (tmp_path / name / "socket").readlink()
        assert server.alive()

    assert not folder.exists()


@pytest.mark.slow
def test_two_processes_share_one_server_and_the_last_one_stops_it(tmp_path: Path) -> None:
    with user_process(tmp_path) as one, user_process(tmp_path) as other:
        said = said_until(one, "alive") + said_until(other, "alive")
        one.communicate("\n")
        still_there = not free(tmp_path / "server.lock")
        farewell, _ = other.communicate("\n")

        assert sum(line.startswith("starting") for line in said) == 1
        assert still_there
        assert "left" in farewell
    assert free(tmp_path / "server.lock")
    assert not (tmp_path / "postgresql" / "postmaster.pid").exists()


def test_a_killed_process_leaves_the_server_to_the_next_one(tmp_path: Path) -> None:
    with user_process(tmp_path) as process:
        said_until(process, "alive")
        process.kill()
        process.wait()
    reports: list[str] = []
    before = postmaster(tmp_path)

    with running(tmp_path, report=reports.append):
        assert before == postmaster(tmp_path)
    assert [line.split()[0] for line in reports] == ["stopping"]


def test_a_server_that_is_there_but_silent_is_waited_for_with_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_PROGRESS_SECONDS", 0.2)
    reports: list[str] = []

    with (tmp_path / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (
            pytest.raises(Unavailable, match="runs, but does not answer"),
            running(tmp_path, start_timeout_seconds=1, report=reports.append),
        ):
            pass

    assert len(reports) > 3


def test_binaries_that_do_not_work_are_named() -> None:
    with pytest.raises(Unavailable, match="VOLENTI_PG_BIN names /nowhere"):
        find_binaries("/nowhere")


@pytest.mark.skipif(not DEBIAN_15.is_dir(), reason="PostgreSQL 15 of Debian is not installed")
@pytest.mark.slow
def test_the_system_s_postgresql_15_works(tmp_path: Path) -> None:
    with running(tmp_path, pg_bin=str(DEBIAN_15)) as server:
        assert (server.binaries.source, server.binaries.version[0]) == ("VOLENTI_PG_BIN", 15)
        for role in ROLES[1:]:
            ask(server, f"CREATE ROLE {role} LOGIN")
        assert list(ROLES) == [ask(server, "SELECT current_user", role=role) for role in ROLES]
        kill(tmp_path)
        server.revive()
        assert server.alive()


def as_user(login: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python of this version as another user; skip where that user can read none."""
    user = pwd.getpwnam(login)
    libraries = [str(Path(module.__path__[0]).parent) for module in (volenti, asyncpg)]
    system = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin")
    for python in filter(None, (sys.executable, system)):
        for code in ("import asyncpg, msgspec, volenti", arguments[0]):
            try:
                answer = subprocess.run(
                    [python, "-B", "-c", code, *arguments[1:]],
                    user=user.pw_uid,
                    group=user.pw_gid,
                    extra_groups=[],
                    cwd="/",
                    env={"PATH": os.defpath, "PYTHONPATH": ":".join(libraries)},
                    input="\n",
                    capture_output=True,
                    text=True,
                    check=False,
                )
            except PermissionError:
                break
            if code != "import asyncpg, msgspec, volenti":
                return answer
            if answer.returncode:
                break
    pytest.skip(f"{login} can read no Python {sys.version_info.major}.{sys.version_info.minor} with our dependencies")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_than_root_runs_it_under_its_own_name(open_folder: Path) -> None:
    shutil.chown(open_folder, "daemon", "daemon")

    answer = as_user("daemon", USER_PROCESS, str(open_folder / "data"))

    assert "alive" in answer.stdout, answer.stderr
    assert "left" in answer.stdout
    assert (open_folder / "data" / "postgresql").owner() == "daemon"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can own a folder of another user")
def test_root_runs_the_data_of_another_user_as_that_user(open_folder: Path) -> None:
    shutil.chown(open_folder, "daemon", "daemon")
    try:
        with running(open_folder) as server:
            assert server.alive()
            kill(open_folder)
            server.revive()
            assert server.alive()
    except Unavailable as exc:
        if "is closed" in str(exc):
            pytest.skip(str(exc))
        raise

    owners = {path.owner() for path in open_folder.rglob("*")}
    assert {"daemon"} == owners


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a data directory away")
def test_root_without_user_namespaces_hands_the_data_to_a_named_user(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(open_folder))  # where there is no unshare
    reports: list[str] = []
    try:
        with running(open_folder / "data", report=reports.append) as server:
            assert server.alive()
        with running(open_folder / "data") as server:
            assert server.alive()
    except Unavailable as exc:
        if "is closed" in str(exc):
            pytest.skip(str(exc))
        raise

    assert any("user namespaces are refused here" in line for line in reports)
    assert (open_folder / "data" / "postgresql").stat().st_uid != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody to whom folders are closed")
def test_a_folder_that_is_closed_to_the_named_user_is_named(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (open_folder / "closed").mkdir(mode=0o700)
    monkeypatch.setenv("PATH", str(open_folder))  # where there is no unshare

    with pytest.raises(Unavailable, match=r"to whom \S+ is closed"), running(open_folder / "closed" / "data"):
        pass


def test_a_read_only_data_directory_is_refused_in_one_sentence(open_folder: Path) -> None:
    data_dir = open_folder / "data"
    data_dir.mkdir(mode=0o555)
    if os.geteuid() != 0:
        with pytest.raises(Unavailable, match="cannot be used: Permission denied"), running(data_dir):
            pass
        return

    answer = as_user("daemon", USER_PROCESS, str(data_dir))  # root ignores modes

    assert f"Unavailable: the data directory {data_dir} cannot be used: Permission denied" in answer.stderr
