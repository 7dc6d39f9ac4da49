"""Bars 10, 11 and 12: how fast the ledger takes entries, against what it would cost without group commit.

    10   the appender, items prepared, 32 callers     ∥ pgbench with the same writes, a transaction an entry, head locked
                                                      ∥ pgbench with one-row commits into an equal table
    11   POST /v1/consents over HTTP, 32 connections  ∥ record_consents.record in process, 32 callers, the same bodies
    12   POST /v1/consents over HTTP, 32 connections  ∥ the naive service of peers/naive.py over HTTP

Everything runs on one embedded PostgreSQL of its own in a temporary folder; the peers write in a second database of it
that the same migrations made. Sides take turns. The gates are on the clock's rates, because a side that waits for a
lock uses no CPU: a ratio per CPU-second, printed beside, would not see what group commit is for. Each append is of
another person; afterwards what the ledger holds must equal what was acknowledged, and the whole tree must verify.

Exit code: 0 all gates hold, 1 one does not, 2 the ledger does not hold what it acknowledged, 3 a side is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import shutil
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.connections import ask, post
from bench.measure import Meter, closed_loop, ended_children, of_tree, own, surroundings, take_turns, tell
from bench.peers.naive import Sizes

from volenti.api import wire
from volenti.cli.deployment import prepare
from volenti.core.admission import Choice, Command, NewEntry
from volenti.core.data_subject import EMPTY, ConsentRecorded, DataSubjectState, Entry, Identifier, encode_event, evolve
from volenti.flows.create_workspace import create
from volenti.flows.find_data_subject import index_of
from volenti.flows.manage_credentials import issue
from volenti.flows.open_services import opened
from volenti.flows.record_consents import Recorded, Retry, record
from volenti.flows.seal_entries import sealed_entries, sealed_state
from volenti.flows.services import Services
from volenti.flows.verify_ledger import verify
from volenti.keys.keyring import create_file
from volenti.keys.sealer import (
    NONCE_BYTES,
    answer_context,
    holder_key_context,
    identifier_context,
    seal,
)
from volenti.settings import Settings
from volenti.store import embedded, ledger, schema
from volenti.store.appender import Appended
from volenti.store.embedded import Embedded
from volenti.store.ledger import IdempotencyRow, IdentifierChange, Item, NewHolder, PendingHolder

CALLERS = 32
SEED = 20261124
WAIT_SECONDS = 60
PEERS = "peers"
"""The database of the sides that we are measured against."""


# --- what is appended


def body_of(person: str) -> bytes:
    """The request of a new person who agrees to one purpose."""
    return json.dumps(
        {
            "data_subject": {"id": person},
            "events": [{"kind": "grant", "purpose": "newsletter", "notice": "newsletter@1"}],
            "actor": {"type": "data_subject"},
            "method": "web_form",
            "surface": "https://shop.example/signup",
        }
    ).encode()


def command_of(body: bytes) -> tuple[Command, tuple[Identifier, ...], bytes]:
    """The same as the API makes it: the command, who is meant, and the canonical body of the fingerprint."""
    asked = msgspec.json.decode(body, type=wire.ConsentsRequest)
    (event,) = asked.events
    assert asked.data_subject.id is not None
    assert event.kind == "grant"
    command = Command(
        actor=asked.actor.type,
        component="bench",
        choices=(Choice(kind=event.kind, purpose=event.purpose, notice=event.notice),),
        method=asked.method,
        surface=asked.surface,
    )
    return command, (Identifier("id", asked.data_subject.id),), msgspec.json.encode(asked, order="sorted")


class People:
    """Names that never repeat, the same in every run."""

    def __init__(self, side: str) -> None:
        self._random = random.Random(f"{SEED} {side}")
        self._count = 0

    def __next__(self) -> str:
        self._count += 1
        return f"person-{self._random.getrandbits(32):08x}-{self._count:08d}"

    def __iter__(self) -> Iterator[str]:
        return self


class Workspace(msgspec.Struct, frozen=True):
    """A workspace of Volenti's for one side."""

    id: UUID
    credential_id: UUID
    secret: str
    size: int
    """Entries before the first append."""


async def workspace_of(services: Services, name: str) -> Workspace:
    workspace_id = await create(services, name)
    issued = await issue(services, workspace_id, component="bench", scopes=("consents:write",))
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        head = await ledger.head(connection, workspace_id)
    return Workspace(workspace_id, UUID(issued.credential_id), issued.secret, head.size)


# --- the sides


class _Volenti:
    """A side that appends to a workspace of Volenti's; `entries` counts what was acknowledged."""

    clients: frozenset[str] = frozenset()

    def __init__(self, name: str, services: Services, workspace: Workspace, meters: Mapping[str, Meter]) -> None:
        self.name, self.services, self.workspace, self.meters = name, services, workspace, meters
        self.people = People(name)
        self.entries = 0
        self._expected_rate = 10_000.0

    def _enough(self, seconds: float) -> int:
        return int(self._expected_rate * seconds * 1.5)

    def _was(self, count: int, elapsed: float) -> tuple[int, float]:
        self._expected_rate = max(self._expected_rate, count / elapsed)
        return count, elapsed


class AppenderSide(_Volenti):
    """`Appender.append` with prepared items: in turn a new person with one identifier, and that person again."""

    _pairs: Iterator[tuple[Item, Item]] = iter(())

    async def prepare(self, seconds: float) -> None:
        key = await self.services.workspace_key(self.workspace.id)
        self._pairs = iter([self._pair(key) for _ in range(self._enough(seconds) // 2)])

    async def run(self, seconds: float) -> tuple[int, float]:
        append = self.services.appender.append
        workspace_id = self.workspace.id

        async def step() -> int:
            pair = next(self._pairs, None)
            if pair is None:
                return 0
            new, known = pair
            outcome = await append(workspace_id, 1, new)
            assert isinstance(outcome, Appended), outcome
            holder = msgspec.structs.replace(known.holders[0], expected_revision=outcome.first_index + 1)
            outcome = await append(workspace_id, 1, msgspec.structs.replace(known, holders=(holder,)))
            assert isinstance(outcome, Appended), outcome
            return 2

        done = self._was(*await closed_loop(CALLERS, seconds, step))
        self.entries += done[0]
        return done

    def _pair(self, workspace_key: bytes) -> tuple[Item, Item]:
        services, workspace_id = self.services, self.workspace.id
        holder, key = UUID(bytes=services.entropy(16), version=4), services.entropy(32)
        person = Identifier("id", next(self.people))
        index = index_of(services, workspace_id, person)
        context = holder_key_context(workspace_id.bytes, holder.bytes)
        first, state = self._item(holder, key, msgspec.structs.replace(EMPTY, identifiers=(person,)), workspace_key)
        first = msgspec.structs.replace(
            first,
            new_holders=(NewHolder(holder, seal(workspace_key, services.entropy(NONCE_BYTES), key, context)),),
            identifiers=(
                IdentifierChange(
                    index,
                    None,
                    holder,
                    seal(
                        key,
                        services.entropy(NONCE_BYTES),
                        person.value.encode(),
                        identifier_context(workspace_id.bytes, index),
                    ),
                ),
            ),
        )
        second, _ = self._item(holder, key, state, workspace_key)
        return first, second

    def _item(
        self, holder: UUID, key: bytes, state: DataSubjectState, workspace_key: bytes
    ) -> tuple[Item, DataSubjectState]:
        services, workspace_id, now = self.services, self.workspace.id, self.services.clock()
        event = ConsentRecorded(
            kind="grant", purpose="newsletter", notice="newsletter@1", evidence_grade=1, minimum_grade=1, occurred_at=now,
            claimed_at=now, actor="data_subject", component="bench", method="web_form", surface="https://shop.example/signup",
        )  # fmt: skip
        entry_id = str(services.new_id())
        new = NewEntry(
            entry_id, "consent.granted", (event.purpose,), hashlib.sha256(encode_event(event)).digest(), event
        )
        entries = sealed_entries(services, workspace_id, 1, holder, key, [new], now)
        after = evolve(state, Entry(entry_id, now, event))
        sealed = sealed_state(services, workspace_id, holder, key, after, entries[0].id)
        mac, fingerprint = services.entropy(32), services.entropy(32)
        context = answer_context(workspace_id.bytes, self.workspace.credential_id.bytes, mac, fingerprint)
        answer = seal(workspace_key, services.entropy(NONCE_BYTES), bytes(150), context)
        return Item(
            entries,
            holders=(PendingHolder(holder, 0, 1, entries[0].id, sealed),),
            idempotency=IdempotencyRow(self.workspace.credential_id, mac, fingerprint, answer),
        ), after


class InProcess(_Volenti):
    """`record_consents.record`, commands prepared from the bodies that go over HTTP."""

    _given: Iterator[tuple[Command, tuple[Identifier, ...], bytes]] = iter(())

    async def prepare(self, seconds: float) -> None:
        self._given = iter([command_of(body_of(next(self.people))) for _ in range(self._enough(seconds))])

    async def run(self, seconds: float) -> tuple[int, float]:
        credential_id = self.workspace.credential_id

        async def step() -> int:
            given = next(self._given, None)
            if given is None:
                return 0
            command, who, canonical = given
            retry = Retry(credential_id, f"key-{who[0].value}", "POST /v1/consents", canonical)
            recording = await record(self.services, self.workspace.id, command, who, retry)
            assert isinstance(recording, Recorded), recording
            assert not recording.replayed
            assert [entry.applied for entry in recording.entries] == [True, True]
            self.entries += len(recording.entries)
            return 1

        return self._was(*await closed_loop(CALLERS, seconds, step))


class Http:
    """POST /v1/consents over keep-alive connections; every answer must be a 201. An append of it is two entries."""

    clients = frozenset({"client"})

    def __init__(self, name: str, port: int, secret: str, meters: Mapping[str, Meter]) -> None:
        self.name = name
        self.meters: Mapping[str, Meter] = {"client": own, **meters}
        self.entries = 0
        self._port, self._secret, self._people = port, secret, People(name)

    async def prepare(self, seconds: float) -> None:
        """Nothing: a request is made in microseconds when it is asked."""

    async def run(self, seconds: float) -> tuple[int, float]:
        count, elapsed = await ask(self._port, self._requests(), connections=CALLERS, seconds=seconds, status=201)
        self.entries += 2 * count
        return count, elapsed

    def _requests(self) -> Iterator[bytes]:
        authorization = f"Bearer {self._secret}"
        for person in self._people:
            yield post(
                self._port, "/v1/consents", body_of(person), authorization=authorization, idempotency_key=f"key-{person}"
            )  # fmt: skip


class Pgbench:
    """pgbench with a script of `peers`, 32 clients, one thread; `each` is how many appends one run of the script is."""

    clients: frozenset[str] = frozenset()

    def __init__(
        self, name: str, program: Path, url: str, script: Path, *, each: int, meters: Mapping[str, Meter]
    ) -> None:
        self.name = name
        self.meters: Mapping[str, Meter] = {"pgbench": ended_children, **meters}
        self.entries = 0
        self._each = each
        self._command = [str(program), "-n", "-M", "prepared", "-c", str(CALLERS), "-j", "1", "-f", str(script)]
        self._url = url

    async def prepare(self, seconds: float) -> None:
        """Nothing: the script stands."""

    async def run(self, seconds: float) -> tuple[int, float]:
        """By pgbench's own report: the time to connect is not counted."""
        process = await asyncio.create_subprocess_exec(
            *self._command, "-T", str(max(1, round(seconds))), self._url,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, complained = (text.decode() for text in await process.communicate())
        done = dict(line.split(sep)[:2] for line in said.splitlines() for sep in (": ", " = ") if sep in line)
        if process.returncode or done.get("number of failed transactions", "0").split()[0] != "0":
            raise RuntimeError(f"pgbench failed: {said}{complained}")
        count = self._each * int(done["number of transactions actually processed"].split("/")[0])
        self.entries += count
        return count, count / (self._each * float(done["tps"].split()[0]))


# --- the peers' scripts and processes


def pgbench_of(server: Embedded) -> Path | None:
    """A pgbench that runs: beside the server's programs, else on the path; None if there is none."""
    for path in (server.binaries.path / "pgbench", Path(shutil.which("pgbench") or "pgbench")):
        try:
            answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        except OSError:
            continue
        if answer.returncode == 0 and answer.stdout.startswith("pgbench (PostgreSQL)"):
            return path
    return None


async def make_peers(server: Embedded) -> tuple[UUID, UUID]:
    """The second database: the same migrations, a log for pgbench and one for the naive service, and the table of one-row commits."""
    connection = await asyncpg.connect(server.url("volenti"))
    await connection.execute(f"CREATE DATABASE {PEERS} OWNER volenti TEMPLATE template0")
    await connection.execute(f"ALTER DATABASE {PEERS} SET search_path = volenti")
    await connection.close()
    await schema.bootstrap(server.url("volenti", PEERS))
    await schema.migrate(server.url("volenti_migrate", PEERS), report=lambda line: None)
    logs = UUID(int=10), UUID(int=12)
    connection = await asyncpg.connect(server.url("volenti", PEERS))
    for log in logs:
        await connection.fetchval("SELECT ledger_open($1, $2)", log, f"peers/{log}")
    await connection.execute("CREATE TABLE one_row (LIKE ledger_entry INCLUDING ALL); CREATE SEQUENCE one_row_idx")
    await connection.close()
    return logs


def write_script(folder: Path, name: str, workspace_id: UUID, item: Item) -> Path:
    """A script of `peers` with bytes of the sizes that an item has."""
    (entry,) = item.entries
    assert item.idempotency is not None
    blobs = {
        "leaf": entry.leaf,
        "leaf_hash": hashlib.sha256(b"\x00" + entry.leaf).digest(),
        "body": entry.body,
        "wrapped_key": item.new_holders[0].wrapped_key,
        "identifier": item.identifiers[0].sealed or b"",
        "state": item.holders[0].sealed,
        "answer": item.idempotency.answer,
    }
    template = string.Template((Path(__file__).parent / "peers" / name).read_text())
    script = folder / name
    script.write_text(template.substitute(workspace=workspace_id, **{name: blob.hex() for name, blob in blobs.items()}))
    return script


@contextmanager
def served(command: list[str], folder: Path, name: str) -> Iterator[tuple[int, int]]:
    """A service as a process of its own: its pid and the port that it names. Stopped at the end."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VOLENTI_")}
    said = folder / f"{name}.log"
    with said.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
    try:
        yield process.pid, _port(process, said)
    except BaseException:
        tell(f"{name} said last: {said.read_text(errors='replace')[-2000:]}")
        raise
    finally:
        process.terminate()
        try:
            process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[bytes], said: Path) -> int:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        for line in said.read_text(errors="replace").splitlines():
            head, found, port = line.partition(" on http://127.0.0.1:")
            if found and port.strip().isdigit() and " " not in head:
                return int(port)
        time.sleep(0.05)
    raise RuntimeError(f"{said.stem} did not start")


async def sizes_of(services: Services, workspace: Workspace, superuser: str) -> Sizes:
    """What Volenti stores for one request over HTTP: the naive service seals and stores as much."""
    command, who, canonical = command_of(body_of("person-of-the-sizes"))
    done = await record(
        services, workspace.id, command, who, Retry(workspace.credential_id, "key", "POST /v1/consents", canonical)
    )
    assert isinstance(done, Recorded)
    connection = await asyncpg.connect(superuser, server_settings={"search_path": "volenti"})
    row = await connection.fetchrow(
        "SELECT (SELECT array_agg(octet_length(leaf) ORDER BY idx) FROM ledger_entry WHERE workspace_id = $1 AND idx >= $2),"
        " (SELECT array_agg(octet_length(body) ORDER BY idx) FROM entry_payload WHERE workspace_id = $1 AND idx >= $2),"
        " octet_length(d.wrapped_key), octet_length(i.sealed), octet_length(s.sealed), octet_length(a.answer)"
        " FROM data_subject d, data_subject_identifier i, data_subject_state s, idempotency a"
        " WHERE d.workspace_id = $1 AND i.workspace_id = $1 AND s.workspace_id = $1 AND a.workspace_id = $1",
        workspace.id, workspace.size,
    )  # fmt: skip
    await connection.close()
    assert row is not None
    return Sizes(tuple(row[0]), tuple(row[1]), *row[2:])


# --- what must be true afterwards


async def wrong_of(services: Services, ours: Mapping[Workspace, list[_Volenti | Http]]) -> list[str]:
    """What contradicts the acknowledgements: a log of another size, or a tree that does not verify."""
    wrong = []
    for workspace, sides in ours.items():
        async with services.database.workspace("volenti_app", workspace.id) as connection:
            head = await ledger.head(connection, workspace.id)
        acknowledged = sum(side.entries for side in sides)
        if head.size - workspace.size != acknowledged:
            wrong.append(f"{head.origin}: {acknowledged} acknowledged, {head.size - workspace.size} in the ledger")
    tell("verifying the ledgers")
    for report in await verify(services, workspaces=[workspace.id for workspace in ours]):
        wrong += [f"{report.origin}: {finding}" for finding in report.findings]
    return wrong


async def wrong_of_peers(server: Embedded, sides: Mapping[UUID, Pgbench | Http]) -> list[str]:
    """The same for the peers' logs, which have no tree."""
    wrong = []
    connection = await asyncpg.connect(server.url("volenti", PEERS))
    for log, side in sides.items():
        row = await connection.fetchrow(
            "SELECT h.size, (SELECT count(*) FROM ledger_entry e WHERE e.workspace_id = $1) FROM ledger_head h WHERE h.workspace_id = $1",
            log,
        )
        if row is None or not row[0] == row[1] == side.entries:
            wrong.append(f"{side.name}: {side.entries} acknowledged, size and entries {row and tuple(row)}")
    await connection.close()
    return wrong


# --- the command


async def measured(
    server: Embedded, folder: Path, *, seconds: float, pairs: int
) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """The bars, the sides that are missing, and what is wrong with the ledgers."""
    await prepare(server)
    create_file(server.data_dir / "keys.json", os.urandom)
    pgbench_log, naive_log = await make_peers(server)
    postmaster = int((server.data_dir / "postgresql" / "postmaster.pid").read_text().split()[0])
    database: dict[str, Meter] = {"postgresql": lambda: of_tree(postmaster)}
    bars, missing = [], []
    async with opened(Settings(data_dir=str(server.data_dir), log_level="error"), server.url) as services:
        spaces = {name: await workspace_of(services, name) for name in ("appender", "in-process", "http", "sizes")}
        appender = AppenderSide("appender", services, spaces["appender"], {"appender": own, **database})
        ours: dict[Workspace, list[_Volenti | Http]] = {spaces["appender"]: [appender]}
        theirs: dict[UUID, Pgbench | Http] = {}
        if (program := pgbench_of(server)) is not None:
            new, _ = appender._pair(await services.workspace_key(spaces["appender"].id))
            scripts = [write_script(folder, name, pgbench_log, new) for name in ("append.sql", "one_row.sql")]
            url = server.url("volenti", PEERS)
            locked = Pgbench("pgbench", program, url, scripts[0], each=2, meters=database)
            one_row = Pgbench("one_row", program, url, scripts[1], each=1, meters=database)
            turns = await take_turns([appender, locked, one_row], pairs=pairs, seconds=seconds)
            theirs[pgbench_log] = locked
            bars += [
                turns.bar(10, "append in process against a locked transaction an entry", "appender", "pgbench", gate=3.0, goal=3.0),
                turns.bar(10, "append in process against one-row commits", "appender", "one_row", gate=None, goal=1.5),
            ]  # fmt: skip
        else:
            missing.append("pgbench")
        sizes = await sizes_of(services, spaces["sizes"], server.url("volenti"))
        with (
            served([sys.executable, "-m", "volenti", "serve", "--data-dir", str(server.data_dir), "--port", "0"], folder, "Volenti") as (pid, port),
            served(naive_command(server, naive_log, spaces["http"].secret, sizes), folder, "naive") as (naive_pid, naive_port),
        ):  # fmt: skip
            in_process = InProcess("in_process", services, spaces["in-process"], {"caller": own, **database})
            http = Http("http", port, spaces["http"].secret, {"service": lambda: of_tree(pid), **database})
            naive = Http(
                "naive", naive_port, spaces["http"].secret, {"service": lambda: of_tree(naive_pid), **database}
            )
            turns = await take_turns([http, in_process, naive], pairs=pairs, seconds=seconds)
        bars += [
            turns.bar(11, "append over HTTP against in process", "http", "in_process", gate=0.5, goal=0.7),
            turns.bar(12, "append over HTTP against the naive service", "http", "naive", gate=2.0, goal=10.0),
        ]
        ours |= {spaces["in-process"]: [in_process], spaces["http"]: [http]}
        theirs[naive_log] = naive
        wrong = await wrong_of(services, ours) + await wrong_of_peers(server, theirs)
    return bars, missing, wrong


def naive_command(server: Embedded, log: UUID, secret: str, sizes: Sizes) -> list[str]:
    return [
        sys.executable, str(Path(__file__).parent / "peers" / "naive.py"), "--url", server.url("volenti", PEERS),
        "--workspace", str(log), "--secret", secret, "--sizes", msgspec.json.encode(sizes).decode(), "--connections", str(CALLERS),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn")
    parser.add_argument("--pairs", type=int, default=5, help="turns of each side; at least five make a gate")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="volenti-bench-") as name,
        embedded.running(Path(name) / "data", pg_bin=os.environ.get("VOLENTI_PG_BIN"), report=tell) as server,
    ):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            bars, missing, wrong = runner.run(measured(server, Path(name), seconds=given.seconds, pairs=given.pairs))
        line = {
            "benchmark": "append",
            **surroundings(server.binaries.version[1]),
            "seconds": given.seconds,
            "pairs": given.pairs,
            "callers": CALLERS,
            "seed": SEED,
            "bars": bars,
            "missing": missing,
            "wrong": wrong,
        }
    print(json.dumps(line))
    below = [bar for bar in bars if bar["holds"] is False]
    for bar in below:
        tell(f"bar {bar['bar']} does not hold: {bar['ratio']} is below {bar['gate']} ({bar['figure']})")
    for sentence in wrong:
        tell(f"wrong: {sentence}")
    for side in missing:
        tell(f"missing: {side}")
    return 2 if wrong else 1 if below else 3 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
