"""Real services on a data directory of their own, load on them, and what must hold after whatever was done to them.

Ends only processes that it started, by their pid, and the PostgreSQL that these started, by the pid in its own folder.
Everything is bounded: starts, stops, requests, the number of writes, and how long a write may stay unacknowledged.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from fault.histories import UNKNOWN, Read, Write, faults
from volenti.flows.open_services import opened
from volenti.flows.rebuild_states import rebuild
from volenti.flows.services import Services
from volenti.flows.verify_ledger import verify
from volenti.settings import Settings
from volenti.store import embedded
from volenti.store.database import LOST
from volenti.store.embedded import Embedded, find_binaries

START_SECONDS = 60.0
STOP_SECONDS = 30.0
REQUEST_SECONDS = 20.0
SETTLE_SECONDS = 45.0
"""How long a write is retried before it counts as never acknowledged."""
SHOWN_SECONDS = 1.2
"""How long an offer is in sight before it is taken: the service wants a second."""
OFFERS = 150
PEOPLE = (*("ada", "bob", "eve") * 4, *(f"cus_{number}" for number in range(12)))
"""Three people whom all write at once, and others."""
WRITES = 20_000
REPLAYS = 60
RSS_GROWTH = 1.1
RSS_ALLOWANCE_KIB = 8 * 1024
"""How far a service may grow over what it held when it was ready: a tenth, and what its caches and buffers take once."""
SETTLED_SECONDS = 10.0
ANSWER_SECONDS = {"/v1/check": 4.0, "/v1/consents": 16.5}
"""Within what every attempt is answered (I-28): the service's own deadlines, and what a machine takes that others keep busy."""
SURFACE = "https://shop.example/signup"

fault = [
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/stat").exists(), reason="finds processes through /proc, which only Linux has"
    ),
]


LONG = "VOLENTI_FAULT_ROUNDS" in os.environ
"""Whether there is time for what is like something else that is tried."""


def rounds(short: int) -> int:
    """How many rounds to run: `short`, or what VOLENTI_FAULT_ROUNDS says."""
    return int(os.environ.get("VOLENTI_FAULT_ROUNDS", short))


def seeded() -> random.Random:
    """The dice of a test. The seed is printed, so that pytest shows it when the test fails."""
    seed = int(os.environ.get("VOLENTI_FAULT_SEED") or random.SystemRandom().randrange(2**32))
    print(f"VOLENTI_FAULT_SEED={seed}")
    return random.Random(seed)


class Replica:
    """One `volenti serve`, which may be ended and started again. Its output goes to files.

    `settings` are environment variables of its own, and `prefix` the command that it is run by.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        data: Path,
        workers: int = 1,
        settings: Mapping[str, str] = {},
        prefix: Sequence[str] = (),
    ) -> None:
        self._folder, self._name, self._data, self._workers = folder, name, data, workers
        self.settings, self.prefix = dict(settings), prefix
        self._starts = 0
        self.at_start: dict[str, Any] = {}
        """What it told of its inside, and its memory, when it was ready."""
        self._orphans: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        """What the newest start wrote to standard error."""
        return self._folder / f"{self._name}-{self._starts}.err"

    def spawn(self, *options: str) -> Path:
        """Start the process and return the file of its output, without waiting for anything."""
        assert not self.running
        self._starts += 1
        output = self.log.with_suffix(".out")
        command = [*self.prefix, sys.executable, "-m", "fault.observed", "serve"]
        command += ["--data-dir", str(self._data), "--port", "0", "--workers", str(self._workers)]
        with output.open("wb") as out, self.log.open("wb") as err:
            self._process = subprocess.Popen(
                [*command, *options],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment() | {"FAULT_TOLD": str(self.log.with_suffix(".told"))} | self.settings,
            )
        return output

    def start(self, *options: str) -> str:
        """Start, wait until ready, and return what it printed. Fails if it ends or does not become ready in time."""
        output = self.spawn(*options)
        deadline = time.monotonic() + START_SECONDS
        while self.running and time.monotonic() < deadline:
            printed = output.read_text() + self.log.read_text()
            named = re.search(r"^Volenti on (\S+)\n", printed, re.MULTILINE)
            if named is not None and _ready(named[1]):
                self.url = named[1]
                if self._workers == 1:
                    self.at_start = self.inside() | {"rss": self.rss()}
                return output.read_text()
            time.sleep(0.02)
        raise AssertionError(f"{self._name} did not become ready: {self.log.read_text()[-4000:]}")

    def inside(self) -> dict[str, Any]:
        """What the process tells of its inside just now. Only of a single process."""
        told = self.log.with_suffix(".told")
        told.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        deadline = time.monotonic() + 5
        while not told.exists():
            assert time.monotonic() < deadline, f"{self._name} tells nothing: its event loop stands"
            time.sleep(0.01)
        inside: dict[str, Any] = json.loads(told.read_text())
        return inside

    def rss(self) -> int:
        """Its resident memory in KiB."""
        return int(re.findall(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)[0])

    def assert_settled(self) -> None:
        """Nothing of the load and of the faults is left in it: no task, no loan of a connection, nothing queued, little memory."""
        if self._workers > 1:
            return
        deadline = time.monotonic() + SETTLED_SECONDS
        while (unsettled := self._unsettled(self.inside())) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not unsettled, f"{self._name}: {unsettled}"

    def _unsettled(self, inside: Mapping[str, Any]) -> list[str]:
        allowed = round(self.at_start["rss"] * RSS_GROWTH) + RSS_ALLOWANCE_KIB
        found = [f"{role} lent {size - idle}" for role, (size, idle) in inside["pools"].items() if size != idle]
        if inside["tasks"] > self.at_start["tasks"]:
            found.append(f"{inside['tasks']} tasks, and {self.at_start['tasks']} at the start")
        found += [f"{name}: {inside[name]}" for name in ("queued", "lent") if inside[name]]
        return found + ([f"{self.rss()} KiB, more than {allowed}"] if self.rss() > allowed else [])

    def kill(self) -> None:
        """SIGKILL, and collect the process."""
        assert self._process is not None
        self._orphans += self.workers()
        self._process.kill()
        self._process.wait(STOP_SECONDS)

    def end_orphans(self) -> None:
        """End the workers that a killed parent left, if they did not end by themselves."""
        for pid in self._orphans:
            if "spawn_main" in _command(pid):
                os.kill(pid, signal.SIGKILL)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code. Fails if the process does not end in time."""
        assert self._process is not None
        self._process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Return the exit code of a process that is about to end. Fails if it does not in time."""
        assert self._process is not None
        return self._process.wait(STOP_SECONDS)

    def workers(self) -> list[int]:
        """The pids of the worker processes."""
        return sorted(pid for pid in _processes() if _parent(pid) == self.pid and "spawn_main" in _command(pid))

    async def replaced(self, before: Sequence[int], *, seconds: float) -> list[int]:
        """Wait until there are as many workers as before, and not all the same; return them."""
        deadline = time.monotonic() + seconds
        while (after := self.workers()) == list(before) or len(after) != len(before):
            assert self.running, self.log.read_text()
            assert time.monotonic() < deadline, f"workers {before} became {after}"
            await asyncio.sleep(0.05)
        return after

    async def begun(self) -> None:
        """Wait until the process has begun with the start: until then the signals of a stop end any program."""
        users = self._data / "users.lock"
        deadline = time.monotonic() + START_SECONDS
        while not _open_by(self.pid, users):
            assert self.running, self.log.read_text()
            assert time.monotonic() < deadline, "the start did not come to the database"
            await asyncio.sleep(0.01)


def environment() -> dict[str, str]:
    """Ours without the settings of the service, but for the choice of PostgreSQL and the bug that is planted."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VOLENTI_")}
    return (
        kept
        | {name: os.environ[name] for name in ("VOLENTI_PG_BIN", "VOLENTI_TEST_BREAK") if name in os.environ}
        | {"VOLENTI_LOG_LEVEL": "warning", "PYTHONPATH": str(Path(__file__).parents[1])}
    )


def _processes() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):  # it ended meanwhile
        return 0


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _alive(pid: int) -> bool:
    """Not ended, and no zombie that somebody has yet to collect."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def _open_by(pid: int, path: Path) -> bool:
    try:
        return any(os.path.samefile(link, path) for link in Path(f"/proc/{pid}/fd").iterdir() if link.exists())
    except OSError:
        return False


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


class Deployment:
    """A data directory with a workspace, the replicas that serve it, and a credential."""

    def __init__(
        self,
        folder: Path,
        *,
        replicas: int,
        workers: int = 1,
        data: Path | None = None,
        settings: Mapping[str, str] = {},
    ) -> None:
        self.data = folder / "data" if data is None else data
        self.replicas = [
            Replica(folder, f"replica{number}", data=self.data, workers=workers, settings=settings)
            for number in range(replicas)
        ]
        self.secret = ""

    @property
    def replica(self) -> Replica:
        return self.replicas[0]

    def begin(self) -> None:
        printed = self.replica.start("--demo")
        self.secret = re.findall(r"^  credential +(\S+)$", printed, re.MULTILINE)[0]
        for other in self.replicas[1:]:
            other.start()

    async def whole(self) -> Deployment:
        """Start the replicas that do not run, and return the deployment: one test's faults are not the next one's."""
        for replica in self.replicas:
            if not replica.running:
                await asyncio.to_thread(replica.start)
        return self

    def end(self) -> None:
        """Stop what still runs; the PostgreSQL of replicas that were killed is joined, and so stopped by the last to leave."""
        for replica in self.replicas:
            if replica.running:
                try:
                    replica.stop()
                except subprocess.TimeoutExpired:
                    replica.kill()
            replica.end_orphans()
        if self.database_runs():
            with ThreadPoolExecutor() as threads:  # it needs a thread without an event loop
                threads.submit(self._join_and_leave).result()

    def _join_and_leave(self) -> None:
        with embedded.running(self.data, pg_bin=os.environ.get("VOLENTI_PG_BIN"), report=lambda line: None):
            pass

    def database_runs(self) -> bool:
        """Tell whether anything of the PostgreSQL is left; the kernel knows."""
        lock = self.data / "server.lock"
        if not lock.exists():
            return False
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def kill_database(self, number: int = signal.SIGKILL) -> int:
        """Send a signal to the postmaster, and return its pid. Its pid file alone does not tell: a start puts another's in."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                pid = int((self.data / "postgresql" / "postmaster.pid").read_text().split("\n", 1)[0])
            except (OSError, ValueError):  # it is being written
                continue
            if _alive(pid) and f"{self.data}/postgresql" in _command(pid) and "\0serve\0" not in _command(pid):
                os.kill(pid, number)
                return pid
            time.sleep(0.01)
        raise AssertionError("no postmaster came up")

    async def backends(self) -> list[int]:
        """The pids of the database's processes that serve the service."""
        connection = await asyncpg.connect(self.database_url())
        try:
            rows = await connection.fetch("SELECT pid FROM pg_stat_activity WHERE usename LIKE 'volenti_%'")
        finally:
            await connection.close()
        return [row[0] for row in rows]

    async def use_up_the_log(self) -> None:
        """Have PostgreSQL begin new files of its write-ahead log until it finds no room for one more."""
        connection = await asyncpg.connect(self.database_url())
        with suppress(*LOST):
            for _ in range(100):  # some lie there ready to be used again
                await connection.execute(
                    "SELECT pg_logical_emit_message(false, 'test', 'a file is begun only after a record')"
                )
                await connection.execute("SELECT pg_switch_wal()")
            await connection.close()
            raise AssertionError("the log has room for a hundred files more")

    def kill_both(self) -> None:
        """SIGKILL the postmaster and the service."""
        self.kill_database()
        self.replica.kill()

    async def gone(self, pids: Sequence[int], *, seconds: float) -> None:
        """Wait until none of the processes is left."""
        deadline = time.monotonic() + seconds
        while left := [pid for pid in pids if _alive(pid)]:
            assert time.monotonic() < deadline, f"processes {left} are left"
            await asyncio.sleep(0.05)

    def database_url(self) -> str:
        """The superuser's address: it sees rows as they are."""
        return self._embedded().url("volenti")

    def _embedded(self) -> Embedded:
        """The addresses of the database; it is the replicas that start and stop it."""
        binaries = find_binaries(os.environ.get("VOLENTI_PG_BIN"))
        return Embedded(self.data.resolve(), binaries, start_timeout_seconds=1, report=lambda line: None)

    async def ledger(self) -> list[str | None]:
        """The entry id at each index of the log that the load writes to, read past the service."""
        connection = await asyncpg.connect(self.database_url())
        try:
            rows = await connection.fetch(
                "SELECT idx, entry_id FROM volenti.ledger_entry JOIN volenti.ledger_log USING (workspace_id, log_id)"
                " WHERE origin = 'localhost/demo' ORDER BY idx"
            )
        finally:
            await connection.close()
        at = {row[0]: str(row[1]) for row in rows}
        assert len(at) == len(rows), "two entries have one index"
        return [at.get(index) for index in range(max(at, default=-1) + 1)]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `volenti` command on the data directory."""
        return subprocess.run(
            [sys.executable, "-m", "volenti", *arguments, "--data-dir", str(self.data)],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )

    @asynccontextmanager
    async def services(self) -> AsyncIterator[Services]:
        """The same database and keys in the test's own process, as one more writer that signs nothing by itself."""
        async with opened(Settings(data_dir=str(self.data), log_level="error"), self._embedded().url) as services:
            yield services

    async def audit(self) -> None:
        """Every entry, tile, head and checkpoint verifies, and every state equals the fold of its entries."""
        async with self.services() as services:
            verified, rebuilt = await verify(services), await rebuild(services)
        assert [finding for report in verified for finding in report.findings] == []
        assert [finding for result in rebuilt for finding in result.findings] == []

    async def settled(self) -> None:
        """Every fault leaves the service as it was: no open transaction in the database, nothing left within the replicas."""
        connection = await asyncpg.connect(self.database_url())
        try:
            deadline = time.monotonic() + SETTLED_SECONDS
            while await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'volenti_%' AND state LIKE 'idle in transaction%'"
            ):
                assert time.monotonic() < deadline, "a transaction is left open"
                await asyncio.sleep(0.02)
        finally:
            await connection.close()
        for replica in self.replicas:
            if replica.running:
                await asyncio.to_thread(replica.assert_settled)

    def grown(self) -> str:
        """How the memory of the replicas has grown since they were ready."""
        grown = [
            f"{replica.rss() / replica.at_start['rss'] - 1:+.0%}"
            for replica in self.replicas
            if replica.running and replica.at_start
        ]
        return f"memory {', '.join(grown)}"

    async def audit_by_command(self) -> None:
        """`volenti audit verify` and `volenti audit rebuild`, as an operator runs them, find nothing."""
        for done in await asyncio.gather(
            asyncio.to_thread(self.command, "audit", "verify"), asyncio.to_thread(self.command, "audit", "rebuild")
        ):
            assert done.returncode == 0, done.stdout

    def story(self) -> str:
        """The ends of the logs, for a failure."""
        files = [*(replica.log for replica in self.replicas), self.data / "postgresql.log"]
        return "\n".join(f"--- {file.name}\n{file.read_text()[-3000:]}" for file in files if file.exists())


@contextmanager
def deployed(
    *,
    replicas: int = 1,
    workers: int = 1,
    data: Path | None = None,
    settings: Mapping[str, str] = {},
    arrange: Callable[[Deployment], None] = lambda deployment: None,
) -> Iterator[Deployment]:
    """Running replicas on a new data directory with a workspace; nothing of them is left afterwards.

    `data` names the directory, `settings` are the replicas' environment, and `arrange` changes them before they start.
    """
    with tempfile.TemporaryDirectory(prefix="volenti-fault-") as name:
        deployment = Deployment(Path(name), replicas=replicas, workers=workers, data=data, settings=settings)
        arrange(deployment)
        try:
            deployment.begin()
            yield deployment
        except BaseException:
            print(deployment.story())
            raise
        finally:
            deployment.end()


@dataclass(frozen=True)
class Offer:
    """What was shown to a person; it settles one form, and must have been in sight for a moment."""

    token: str
    shown_at: float


@dataclass(frozen=True)
class Choice:
    """A choice of a person about the newsletter; with an offer a grant, which lifts an earlier withdrawal, else a withdrawal."""

    key: str
    person: str
    offer: str | None

    @property
    def kind(self) -> str:
        return "withdraw" if self.offer is None else "grant"


@dataclass(frozen=True)
class Answered:
    """One attempt and its answer, whatever that was."""

    replica: Replica
    path: str
    begun: float
    took: float
    status: int


class Client:
    """One credential's requests, to any replica."""

    def __init__(
        self, deployment: Deployment, *, connections: int = 32, secret: str | None = None, keep: bool = True
    ) -> None:
        self._headers = {"authorization": f"Bearer {secret or deployment.secret}", "content-type": "application/json"}
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=None if keep else 0
        )  # who stood still closes what was idle meanwhile, with the request in it
        self._http = httpx.AsyncClient(timeout=REQUEST_SECONDS, limits=limits, trust_env=False)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def get(self, replica: Replica, path: str) -> httpx.Response:
        return await self._http.get(f"{replica.url}{path}", headers=self._headers)

    async def offer(self, replica: Replica) -> Offer:
        """An offer of the newsletter. Raises a transport error, or what httpx makes of another status than 2xx."""
        request = {"purposes": ["newsletter"], "surface": SURFACE, "language": "en"}
        answer = await self._http.post(f"{replica.url}/v1/offers", content=json.dumps(request), headers=self._headers)
        return Offer(answer.raise_for_status().json()["offer"], time.monotonic())

    async def record(self, replica: Replica, choice: Choice) -> httpx.Response:
        """Record a choice about the newsletter. The same choice gives the same bytes."""
        event: dict[str, Any] = {"kind": choice.kind, "purpose": "newsletter"}
        request: dict[str, Any] = {
            "data_subject": {"id": choice.person},
            "events": [event],
            "actor": {"type": "data_subject"},
            "method": "web_form",
            "surface": SURFACE,
        }
        if choice.offer is not None:
            event["notice"] = "newsletter@1"
            request["evidence"] = {"offer": choice.offer}
        headers = {**self._headers, "idempotency-key": choice.key}
        return await self._http.post(f"{replica.url}/v1/consents", content=json.dumps(request), headers=headers)

    async def check(self, replica: Replica, person: str, **members: Any) -> httpx.Response:
        question = {
            "data_subject": {"id": person},
            "action": "send",
            "purpose": "newsletter",
            "channel": "email",
            **members,
        }
        return await self._http.post(f"{replica.url}/v1/check", content=json.dumps(question), headers=self._headers)


async def _all(tasks: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all, some at a time."""
    places = asyncio.Semaphore(8)

    async def run(task: Coroutine[Any, Any, None]) -> None:
        async with places:
            await task

    await asyncio.gather(*(run(task) for task in tasks))


async def choices(client: Client, deployment: Deployment, dice: random.Random, person: str, count: int) -> list[Choice]:
    """Grants and withdrawals in turn, with offers that have been in sight."""
    offers = [await client.offer(dice.choice(deployment.replicas)) for _ in range((count + 1) // 2)]
    await asyncio.sleep(SHOWN_SECONDS)
    return [
        Choice(f"{person}-{number}", person, None if number % 2 else offers[number // 2].token)
        for number in range(count)
    ]


class Load(AbstractAsyncContextManager["Load"]):
    """Writers that send each choice with a key of its own until it is acknowledged, and a reader that asks meanwhile.

    Without `grants` they only withdraw. Leaving the block starts no more writes and waits for those under way. With `again=False` a writer stops at its first
    write that gets no answer, so that what it wrote without being told shows up in the ledger.
    """

    def __init__(
        self,
        deployment: Deployment,
        dice: random.Random,
        *,
        writers: int = 8,
        people: Sequence[str] = PEOPLE,
        again: bool = True,
        grants: bool = True,
    ) -> None:
        self.deployment, self.client = deployment, Client(deployment)
        self.writes: list[Write] = []
        self.reads: list[Read] = []
        self.wrong: list[str] = []
        """What no fault excuses: another status than 201 and 503, a 503 that is no problem document, a write that never got through."""
        self.answered: list[Answered] = []
        self.broken = self.refused = self.before = 0
        """Attempts without an answer, attempts answered 503, and the size of the ledger when the load began."""
        run = f"{dice.randrange(2**32):08x}"
        self._run = run
        self._people, self._again, self._stopping = [f"{person}_{run}" for person in people], again, False
        self._offering = 3 if grants else 0
        self._choices: dict[str, Choice] = {}
        self._offers: deque[Offer] = deque()
        self._dice = [random.Random(dice.random()) for _ in range(writers + 1)]
        self._tasks: list[asyncio.Task[None]] = []
        self._pick = random.Random(dice.random())

    async def __aenter__(self) -> Load:
        self.before = len(await self.deployment.ledger())
        reader, *writers = self._dice
        self._tasks = [asyncio.create_task(self._read_on(reader))]
        self._tasks += [asyncio.create_task(self._offer_on()) for _ in range(self._offering)]
        self._tasks += [asyncio.create_task(self._write_on(f"w{number}", dice)) for number, dice in enumerate(writers)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping = True
        if kind is not None:
            for task in self._tasks:
                task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.__aexit__()
        if kind is not None:
            print(self.deployment.story())
        else:
            for result in results:
                if isinstance(result, BaseException):
                    raise result

    async def acknowledges(self, more: int, *, seconds: float) -> float:
        """Wait until so many further writes are acknowledged; returns the seconds that it took. Fails after `seconds`."""
        begun, goal = time.monotonic(), len(self.writes) + more
        while len(self.writes) < goal:
            took = time.monotonic() - begun
            assert took < seconds, (
                f"{len(self.writes)} of {goal} writes were acknowledged after {took:.1f} s: {self.wrong}"
            )
            await asyncio.sleep(0.01)
        return time.monotonic() - begun

    async def refuses(self, more: int, *, seconds: float) -> None:
        """Wait until so many further attempts are refused. Fails after `seconds`."""
        begun, goal = time.monotonic(), self.refused + more
        while self.refused < goal:
            assert time.monotonic() - begun < seconds, f"{self.refused} of {goal} were refused: the fault is none"
            await asyncio.sleep(0.01)

    async def assert_sound(self, *, replay: bool = True) -> None:
        """All that must hold after a run. Needs a running replica."""
        try:
            await self._assert_sound(replay)
        except BaseException:
            print(self.deployment.story())
            raise

    async def _assert_sound(self, replay: bool) -> None:
        assert not self.wrong, self.wrong[:5]
        assert self.writes, "the load wrote nothing"
        late = [one for one in self.answered if one.took > ANSWER_SECONDS[one.path]]
        assert late == [], f"{len(late)} attempts were answered too late"
        told = len(self.writes)
        async with Client(self.deployment) as client:
            if replay:
                again = self._pick.sample(self.writes, min(told, REPLAYS))
                await _all(self._replay(client, write) for write in again)
            running = [replica for replica in self.deployment.replicas if replica.running]
            people = sorted({write.person for write in self.writes})
            asked = len(self.reads)
            await _all(self._read(client, replica, person) for replica in running for person in people)
            assert len(self.reads) - asked == len(running) * len(people), "a check was not answered"
        ledger = await self.deployment.ledger()
        found = faults(ledger, self.writes, self.reads, before=self.before)
        assert found == [], f"{len(found)} faults in {told} writes and {len(self.reads)} reads"
        await self.deployment.audit()
        await self.deployment.settled()
        print(
            f"{told} acknowledged, {self.broken} attempts unanswered, {self.refused} answered 503,"
            f" {len(self.reads)} checks, {len(ledger)} entries; the slowest write {self.slowest('/v1/consents'):.1f} s,"
            f" check {self.slowest('/v1/check'):.1f} s; {self.deployment.grown()}"
        )

    async def _replay(self, client: Client, write: Write) -> None:
        """Send an acknowledged write again; `changed` compares the answers."""
        started = time.monotonic()
        answer = await client.record(self._replica(self._pick), self._choices[write.key])
        assert (answer.status_code, answer.headers.get("idempotency-replayed")) == (201, "true"), answer.text
        self._acknowledged(self._choices[write.key], started, answer)

    def _replica(self, dice: random.Random) -> Replica:
        return dice.choice(
            [replica for replica in self.deployment.replicas if replica.running] or self.deployment.replicas
        )

    async def _write_on(self, name: str, dice: random.Random) -> None:
        number = 0
        while not self._stopping and len(self.writes) < WRITES:
            number += 1
            shown = self._offers and self._offers[0].shown_at < time.monotonic() - SHOWN_SECONDS
            offer = self._offers.popleft().token if shown and dice.random() < 0.6 else None
            if not await self._write(Choice(f"{self._run}-{name}-{number}", dice.choice(self._people), offer), dice):
                return
            await asyncio.sleep(dice.uniform(0, 0.01))

    async def withdraw(self, person: str, replica: Replica) -> bool:
        """A withdrawal besides those of the writers, sent to one replica until it is acknowledged."""
        return await self._write(Choice(f"{self._run}-{person}", person, None), self._pick, replica)

    def slowest(self, path: str) -> float:
        """The seconds that the slowest attempt took to be answered."""
        return max((one.took for one in self.answered if one.path == path), default=0.0)

    async def _write(self, choice: Choice, dice: random.Random, replica: Replica | None = None) -> bool:
        """Send until acknowledged; False if the writer is to stop."""
        started = time.monotonic()
        self._choices[choice.key] = choice
        while time.monotonic() - started < SETTLE_SECONDS:
            asked, begun = replica or self._replica(dice), time.monotonic()
            try:
                answer = await self.client.record(asked, choice)
                took = time.monotonic() - begun
                self.answered.append(Answered(asked, "/v1/consents", begun, took, answer.status_code))
            except httpx.TransportError:
                self.broken += 1
                if not self._again:
                    return False
            else:
                if answer.status_code == 201:
                    self._acknowledged(choice, started, answer)
                    return True
                if answer.status_code != 503 or answer.headers["content-type"] != "application/problem+json":
                    self.wrong.append(f"{choice.key}: {answer.status_code} {answer.text[:500]}")
                    return False
                self.refused += 1
            await asyncio.sleep(dice.uniform(0.01, 0.1))
        self.wrong.append(f"{choice.key} was not acknowledged within {SETTLE_SECONDS} s")
        return False

    def _acknowledged(self, choice: Choice, started: float, answer: httpx.Response) -> None:
        body = msgspec.json.decode(answer.content)
        entries = body["entries"]
        first = entries[0]["index"] if entries else 0
        self.writes.append(
            Write(
                key=choice.key,
                person=choice.person,
                value=choice.kind,
                started=started,
                ended=time.monotonic(),
                first_index=first,
                entries=tuple(entry["entry"] for entry in entries),
                applied=entries[-1]["applied"] if entries else False,
                answer=answer.content,
            )
        )

    async def _offer_on(self) -> None:
        while not self._stopping:
            if len(self._offers) < OFFERS:
                try:
                    self._offers.append(await self.client.offer(self._replica(self._pick)))
                except (httpx.TransportError, httpx.HTTPStatusError):
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.002)

    async def _read_on(self, dice: random.Random) -> None:
        while not self._stopping:
            try:
                await self._read(self.client, self._replica(dice), dice.choice(self._people))
            except httpx.TransportError:
                self.broken += 1
            await asyncio.sleep(dice.uniform(0.005, 0.03))

    async def _read(self, client: Client, replica: Replica, person: str) -> None:
        started = time.monotonic()
        answer = await client.check(replica, person)
        ended = time.monotonic()
        self.answered.append(Answered(replica, "/v1/check", started, ended - started, answer.status_code))
        body = msgspec.json.decode(answer.content)
        if answer.status_code == 503:
            self.refused += 1
            if body.get("decision", "deny") != "deny" or body.get("allowed"):
                self.wrong.append(f"a check answered 503 and permits: {body}")
        elif answer.status_code != 200:
            self.wrong.append(f"a check answered {answer.status_code}: {body}")
        else:
            known = {"consent.granted": "grant", "consent.withdrawn": "withdraw", "consent.missing": UNKNOWN}
            self.reads.append(Read(person, known[body["reason"]], started, ended))
            if (body["decision"] == "permit") != (body["reason"] == "consent.granted"):
                self.wrong.append(f"a decision contradicts its reason: {body}")
