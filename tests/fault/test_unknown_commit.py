"""A connection that is cut around the commit: whatever happened, exactly one effect, and the same answer to every retry."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

import pytest

from fault.pgproxy import Fault, Plan, Proxy, proxied
from volenti.core.admission import Choice, Command
from volenti.core.data_subject import Identifier
from volenti.errors import Unavailable
from volenti.flows.create_workspace import create
from volenti.flows.open_services import opened
from volenti.flows.rebuild_states import rebuild
from volenti.flows.record_consents import Recorded, Retry, record
from volenti.flows.services import Services
from volenti.flows.verify_ledger import verify
from volenti.settings import Settings
from volenti.store import ledger
from volenti.store.embedded import Embedded

pytestmark = [pytest.mark.fault, pytest.mark.slow]

APPENDS = int(os.environ.get("VOLENTI_FAULT_APPENDS", "60"))
"""Through each kind of cut; the long form is 1,000."""
BRANCHES = min(100, APPENDS)
"""How often at least a cut must have met an append before its commit, and after it, for the run to say anything."""


@pytest.fixture
async def proxy(server: Embedded, tmp_path: Path) -> AsyncIterator[Proxy]:
    target = Path(server.url("volenti_app").partition("host=")[2].partition("&")[0])
    async with proxied(target, Path("/tmp") / f"volenti-proxy-{os.getpid()}-{tmp_path.name[-20:]}") as running:
        yield running
    for file in running.folder.iterdir():
        file.unlink()
    running.folder.rmdir()


@pytest.fixture
async def behind(server: Embedded, proxy: Proxy, tmp_path: Path) -> AsyncIterator[Services]:
    """Services whose every connection goes through the proxy."""
    settings = Settings(data_dir=str(tmp_path), key_file=str(server.data_dir / "keys.json"), log_level="error")
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(opened(settings, proxy.url))


def choice(kind: str) -> Command:
    grant = kind == "grant"
    one = Choice(kind="grant" if grant else "withdraw", purpose="newsletter", notice="newsletter@1" if grant else None)
    return Command(
        actor="data_subject", component="tests", choices=(one,), method="web_form", surface="https://shop.example"
    )


async def withdrawn(services: Services, workspace: UUID, retry: Retry) -> Recorded:
    """A withdrawal, retried with the same key as a caller would while the answer is 503."""
    for _ in range(10):
        try:
            recorded = await record(services, workspace, choice("withdraw"), (Identifier("id", "anna"),), retry)
        except Unavailable:
            continue
        assert isinstance(recorded, Recorded)
        return recorded
    raise AssertionError("ten tries, and no answer")


async def size_of(services: Services, workspace: UUID) -> int:
    async with services.database.workspace("volenti_app", workspace) as connection:
        return (await ledger.head(connection, workspace)).size


@pytest.mark.parametrize("fault", ["cut_before_sync", "cut_after_sync", "reset", "cut_after_bytes"])
async def test_appends_that_are_cut_have_exactly_one_effect_and_one_answer(
    behind: Services, proxy: Proxy, fault: Fault
) -> None:
    workspace = await create(behind, f"cut-{fault.replace('_', '-')}-{os.getpid()}")
    await record(behind, workspace, choice("grant"), (Identifier("id", "anna"),))
    begin = await size_of(behind, workspace)
    answers = []
    hits = 0
    for number in range(APPENDS):
        retry = Retry(UUID(int=1), f"key-{number}", "POST /v1/consents", b"{}")
        proxy.plan = Plan(fault, application="volenti_app", byte_count=number % 120, appends=True, times=1)
        first = await withdrawn(behind, workspace, retry)
        hits += proxy.plan.hits
        proxy.plan = Plan()
        again = await withdrawn(behind, workspace, retry)
        assert (first.entries, first.first_index) == (again.entries, again.first_index)
        answers.append(first)

    written = sum(answer.replayed for answer in answers)  # by the attempt that was cut: the next one found it there
    print(f"{fault}: {hits} cuts in {APPENDS} appends, {written} of them after the commit")
    assert hits >= BRANCHES
    match fault:
        case "cut_before_sync":
            assert written == 0
        case "cut_after_sync" | "cut_after_bytes":  # no byte of the answer, or some
            assert written >= BRANCHES
        case _:
            pass
    assert await size_of(behind, workspace) == begin + APPENDS
    assert sorted(answer.first_index for answer in answers) == list(range(begin, begin + APPENDS))
    assert all(report.clean for report in await verify(behind, workspaces=[workspace]))
    assert not any(one.findings for one in await rebuild(behind, workspaces_only={workspace}))


@pytest.mark.parametrize(("fault", "written"), [("cut_before_sync", 0), ("cut_after_sync", 1)])
async def test_a_cut_before_the_sync_leaves_nothing_and_one_after_it_leaves_the_entry(
    behind: Services, services: Services, proxy: Proxy, fault: Fault, written: int
) -> None:
    """The two branches of an unknown commit, seen from beside the proxy while the caller still waits."""
    workspace = await create(behind, f"branch-{written}-{os.getpid()}")
    await record(behind, workspace, choice("grant"), (Identifier("id", "anna"),))
    before = await size_of(services, workspace)
    proxy.plan = Plan(fault, application="volenti_app")
    caller = asyncio.create_task(record(behind, workspace, choice("withdraw"), (Identifier("id", "anna"),)))
    await asyncio.sleep(1.0)  # several attempts of the appender, each of them cut
    assert proxy.plan.hits > 1
    assert await size_of(services, workspace) == before + written

    proxy.plan = Plan()
    assert isinstance(await caller, Recorded)
    assert await size_of(services, workspace) == before + 1


async def test_a_transaction_on_a_silent_connection_ends_with_its_callers_deadline(
    behind: Services, proxy: Proxy
) -> None:
    """Its ROLLBACK would wait for the answer that does not come."""
    workspace = await create(behind, f"silent-{os.getpid()}")
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def ask() -> None:
        async with asyncio.timeout(0.5), behind.database.workspace("volenti_app", workspace) as connection:
            proxy.plan = Plan("black_hole")
            await connection.fetchval("SELECT 1")

    with pytest.raises(TimeoutError):
        await ask()
    proxy.plan = Plan()

    assert loop.time() - begun < 3
    assert await size_of(behind, workspace) > 0
