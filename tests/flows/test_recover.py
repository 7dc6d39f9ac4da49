"""An old backup revives nothing: rollback and fork are found before the first answer, and recovery brings every restriction back."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias
from uuid import UUID

import asyncpg
import pytest

from deployments import services_on
from object_store import object_store
from volenti.api.app import application
from volenti.core.admission import Choice, Command, Refusal, Restriction
from volenti.core.consent import ConsentKind
from volenti.core.data_subject import Identifier
from volenti.core.decision import Decision, Deny, Question
from volenti.core.ledger import checkpoint, note
from volenti.core.policy.document import Action, Channel
from volenti.core.policy.starter import starter_policy
from volenti.errors import Invalid, LedgerDamaged, Unavailable
from volenti.flows import ask_consent, sign_checkpoint
from volenti.flows.check_policy import Asked, Checked, Consistency, check
from volenti.flows.clock import wall_clock
from volenti.flows.create_workspace import create
from volenti.flows.keep_anchor import Agrees, Contradicts, Unanchored, guard, guard_log, read_journal
from volenti.flows.manage_credentials import Authenticator, issue, revoke
from volenti.flows.open_services import opened
from volenti.flows.publish_policy import Published, publish
from volenti.flows.rebuild_states import rebuild
from volenti.flows.record_consents import Recorded, Retry, record
from volenti.flows.recover import NotRecovered, Recovered, recover
from volenti.flows.services import Services
from volenti.flows.sign_checkpoint import Checkpointer, sign
from volenti.flows.verify_ledger import verify
from volenti.keys.links import AskingLink, sign_asking
from volenti.settings import Settings
from volenti.store import data_subjects, ledger, schema
from volenti.store.anchor import AnchorStore, file_name
from volenti.store.database import Database
from volenti.store.embedded import Embedded
from volenti.store.journal import Line

_numbers = itertools.count()
Step: TypeAlias = Callable[[], Awaitable[None]]
QUESTION = Question(action=Action.SEND, purpose="newsletter", channel=Channel.EMAIL)


@dataclass
class Place:
    """A deployment of its own on the test server: a database that can be copied and put back, anchor and journal beside it."""

    server: Embedded
    folder: Path
    database: str
    anchor: str
    s3_endpoint: str | None = None
    profile: Literal["laptop", "production"] = "laptop"

    def services(self, **changed: Any) -> AbstractAsyncContextManager[Services]:
        given = {"anchor": self.anchor, "journal": str(self.folder / "journal"), **changed}
        keys = str(self.server.data_dir / "keys.json")
        return services_on(
            self.server,
            self.database,
            data_dir=str(self.folder),
            key_file=keys,
            profile=self.profile,
            s3_endpoint=self.s3_endpoint,
            **given,
        )

    async def back_up(self) -> str:
        name = f"{self.database}_backup{next(_numbers)}"
        await self._copy(self.database, name)
        return name

    async def put_back(self, backup: str) -> None:
        self.database = f"{self.database}_restored{next(_numbers)}"
        await self._copy(backup, self.database)

    async def _copy(self, source: str, target: str) -> None:
        connection = await asyncpg.connect(self.server.url("volenti", "postgres"))
        try:
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"
            await connection.execute(ended, source)  # what a pooler keeps open
            await connection.execute(f'CREATE DATABASE "{target}" TEMPLATE "{source}"')
        finally:
            await connection.close()


OVER_BOTH_STORES = pytest.mark.parametrize("place", ["file", "s3"], indirect=True)


@pytest.fixture
async def place(request: pytest.FixtureRequest, server: Embedded, tmp_path: Path) -> AsyncIterator[Place]:
    database = f"recover{os.getpid()}_{next(_numbers)}"
    connection = await asyncpg.connect(server.url("volenti", "postgres"))
    await connection.execute(f"CREATE DATABASE {database}")
    await connection.close()
    await schema.bootstrap(server.url("volenti", database))
    await schema.migrate(server.url("volenti_migrate", database), report=lambda line: None)
    if getattr(request, "param", "file") == "file":
        yield Place(server, tmp_path, database, str(tmp_path / "anchor"))
        return
    with object_store() as store:
        yield Place(server, tmp_path, database, f"s3://{store.bucket}/anchor", store.url)


async def choose(
    services: Services, workspace: UUID, person: str, kind: ConsentKind, *, retry: Retry | None = None
) -> Recorded:
    choice = Choice(kind=kind, purpose="newsletter", notice="newsletter@1" if kind == "grant" else None)
    command = Command(
        actor="data_subject", component="tests", choices=(choice,), method="web_form", surface="https://shop.example"
    )
    who = (Identifier("id", person), Identifier("email", f"{person}@example.org"))
    recorded = await record(services, workspace, command, who, retry)
    assert isinstance(recorded, Recorded)
    return recorded


async def recovered(services: Services, lines: Sequence[Line], **options: Any) -> list[Recovered]:
    """Recover all that there is to recover."""
    done = []
    for one in await recover(services, lines, **options):
        assert isinstance(one, Recovered), one
        done.append(one)
    return done


async def restrict(services: Services, workspace: UUID, person: str) -> None:
    command = Command(actor="operator", component="tests", restriction=Restriction())
    assert isinstance(await record(services, workspace, command, (Identifier("id", person),)), Recorded)


async def void(services: Services, workspace: UUID, person: str, entry: str) -> None:
    choice = Choice(kind="invalidate", purpose="newsletter", names=entry)
    command = Command(actor="operator", component="tests", choices=(choice,))
    assert isinstance(await record(services, workspace, command, (Identifier("id", person),)), Recorded)


async def decide(services: Services, workspace: UUID, person: str) -> Decision:
    (answered,) = await check(services, workspace, [Asked(Identifier("id", person), QUESTION)], deadline_ms=5000)
    assert isinstance(answered, Checked)
    return answered.decision


async def reason(services: Services, workspace: UUID, person: str) -> str:
    decision = await decide(services, workspace, person)
    return decision.reasons[0].reason.code


async def clean(services: Services) -> bool:
    verified = all(report.clean for report in await verify(services))
    return verified and not any(rebuilt.findings for rebuilt in await rebuild(services))


@OVER_BOTH_STORES
async def test_after_a_restore_everything_is_denied_until_it_is_recovered_and_then_every_withdrawal_holds(
    place: Place,
) -> None:
    async with place.services() as services:
        workspace = await create(services, "shop")
        await choose(services, workspace, "anna", "grant")
        await choose(services, workspace, "bela", "grant")
        await choose(services, workspace, "dora", "grant")
        given = await choose(services, workspace, "erik", "grant")
        issued = await issue(services, workspace, component="mail", scopes=["check"])
        await sign(services, workspace)
    backup = await place.back_up()
    async with place.services() as services:
        await choose(services, workspace, "anna", "withdraw")
        await choose(services, workspace, "cora", "object")  # first seen after the backup
        await restrict(services, workspace, "dora")
        await void(services, workspace, "erik", given.entries[-1].entry)
        await revoke(services, workspace, UUID(issued.credential_id))
        anchored = await sign(services, workspace)
        assert anchored is not None
    await place.put_back(backup)

    async with place.services() as services:
        standings = await guard(services, read_journal(services))
        assert standings["localhost/shop"] == Contradicts("rolled_back", anchored.note)
        assert {await reason(services, workspace, person) for person in ("anna", "bela", "cora")} == {
            "system.restoring"
        }
        with pytest.raises(Unavailable):
            await choose(services, workspace, "bela", "withdraw")

        (done,) = await recovered(services, read_journal(services))

        assert (done.how, done.origin, done.replayed, done.epoch) == ("rolled_back", "localhost/shop/2", 5, 2)
        assert await reason(services, workspace, "anna") == "consent.withdrawn"
        assert await reason(services, workspace, "bela") == "consent.granted"
        assert await reason(services, workspace, "cora") == "objection.recorded"
        assert await reason(services, workspace, "dora") == "data_subject.processing_restricted"
        assert await reason(services, workspace, "erik") == "consent.missing"
        assert await Authenticator(services)(issued.secret) is None
        assert await clean(services)
        assert await recovered(services, read_journal(services)) == []


async def test_a_replica_that_outlived_the_restore_decides_by_no_policy_that_was_lost(place: Place) -> None:
    """Numbers of versions and activations are given out again; what was compiled of a lost one is not used for them."""
    text = starter_policy("Acme GmbH")
    async with place.services() as services:
        workspace = await create(services, "shop")
    backup = await place.back_up()
    async with place.services() as services:
        await publish(services, workspace, text.replace("Acme", "Lost"))
        await reason(services, workspace, "anna")
        await services.policy_in_force(workspace, services.clock() + 1, services.clock())
        await sign(services, workspace)
        remembered = services._policies
    await place.put_back(backup)

    async with place.services() as restored:
        services = replace(restored, _policies=remembered)
        await recovered(services, read_journal(services))
        published = await publish(services, workspace, text.replace("Acme", "New"))
        assert isinstance(published, Published)
        (answered,) = await check(services, workspace, [Asked(Identifier("id", "anna"), QUESTION)], deadline_ms=5000)
        assert isinstance(answered, Checked)
        assert answered.policy is not None
        planned = await services.policy_in_force(workspace, services.clock() + 1, services.clock())
        assert planned is not None
        assert [answered.policy.hash, planned[1].hash] == [published.hash] * 2


async def test_the_first_entry_of_the_new_log_names_the_anchored_checkpoint(place: Place) -> None:
    async with place.services() as services:
        workspace = await create(services, "shop")
    backup = await place.back_up()
    async with place.services() as services:
        await choose(services, workspace, "anna", "withdraw")
        anchored = await sign(services, workspace)
        assert anchored is not None
    await place.put_back(backup)

    async with place.services() as services:
        await recovered(services, read_journal(services))
        async with services.database.workspace("volenti_app", workspace) as connection:
            body = await connection.fetchval("SELECT body FROM entry_payload WHERE log_id = 2 AND idx = 0")
            sealed, active = await ledger.logs(connection, workspace)

        assert (sealed.state, active.state, active.origin) == ("sealed", "active", "localhost/shop/2")
        assert anchored.note.splitlines()[2] in body[32:].decode()
        kept = await services.anchor.read("localhost/shop/2") if services.anchor is not None else None
        assert kept is not None
        assert checkpoint.verify(kept, [note.parse_vkey(services.signer.vkey("localhost/shop/2"))]).size == active.size


async def test_a_recovery_of_a_person_reads_nobody_elses_identifiers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.services() as services:
        workspace = await create(services, "shop")
        await choose(services, workspace, "bela", "withdraw")
        backup = await place.back_up()
        await choose(services, workspace, "anna", "withdraw")
        await sign(services, workspace)
    await place.put_back(backup)

    async def identifiers(*_: Any) -> Any:
        raise AssertionError("there may be millions, and the statement has five seconds")

    async with place.services() as services:
        monkeypatch.setattr(data_subjects, "identifiers", identifiers)
        monkeypatch.setattr("volenti.flows.recover.LINES_AT_ONCE", 1)
        (done,) = await recovered(services, read_journal(services))
        assert done.replayed == 1
        assert await reason(services, workspace, "anna") == "consent.withdrawn"


async def test_a_person_made_again_gets_their_identifiers_back_when_a_caller_states_them(place: Place) -> None:
    async with place.services() as services:
        workspace = await create(services, "shop")
    backup = await place.back_up()
    async with place.services() as services:
        await choose(services, workspace, "anna", "withdraw")
        await sign(services, workspace)
    await place.put_back(backup)

    async with place.services() as services:
        await recovered(services, read_journal(services))
        again = await choose(services, workspace, "anna", "object")

        assert again.data_subject == "anna"
        assert await reason(services, workspace, "anna") == "objection.recorded"
        assert await clean(services)


async def test_a_link_takes_the_no_of_a_person_made_again(place: Place) -> None:
    async with place.services() as services:
        workspace = await create(services, "shop")
        backup = await place.back_up()
        written = await choose(services, workspace, "anna", "withdraw")
        await sign(services, workspace)
    await place.put_back(backup)

    async with place.services() as services:
        await recovered(services, read_journal(services))
        assert written.holder is not None
        link = AskingLink(workspace, written.holder, "analytics", None, wall_clock() // 1000 + 3600)

        shown = await ask_consent.answer(services, sign_asking(services.keyring, link), agrees=False, shown="")

        assert isinstance(shown, ask_consent.Asking)
        assert shown.refused
        assert await clean(services)


@OVER_BOTH_STORES
async def test_a_fork_is_found_although_the_log_is_longer_than_the_anchor(place: Place) -> None:
    async with place.services() as services:
        workspace = await create(services, "shop")
    backup = await place.back_up()
    async with place.services() as services:
        await choose(services, workspace, "anna", "withdraw")
        await sign(services, workspace)
    await place.put_back(backup)
    async with place.services(anchor=f"{place.anchor}/elsewhere", journal=str(place.folder / "none")) as services:
        for person in ("bela", "cora", "dora"):
            await choose(services, workspace, person, "grant")

    async with place.services() as services:
        standings = await guard(services, read_journal(services))

        assert isinstance(standings["localhost/shop"], Contradicts)
        assert standings["localhost/shop"].how == "forked"
        assert await reason(services, workspace, "bela") == "system.restoring"


async def test_a_withdrawal_that_was_acknowledged_after_the_last_anchor_is_found_by_the_journal(place: Place) -> None:
    async with place.services() as services:
        workspace = await create(services, "shop")
        await choose(services, workspace, "anna", "grant")
        await sign(services, workspace)
    backup = await place.back_up()
    async with place.services() as services:
        await choose(services, workspace, "anna", "withdraw")  # and the disaster comes before the next checkpoint
    await place.put_back(backup)

    async with place.services() as services:
        standings = await guard(services, read_journal(services))
        assert isinstance(standings["localhost/shop"], Contradicts)
        assert standings["localhost/shop"].how == "journal_ahead"
        await recovered(services, read_journal(services))
        assert await reason(services, workspace, "anna") == "consent.withdrawn"


class Switched:
    """The database of a running replica, which another one takes the place of: a failover, or a restore."""

    def __init__(self, database: Database) -> None:
        self.now = database

    def __getattr__(self, name: str) -> Any:
        return getattr(self.now, name)


def replica(services: Services) -> tuple[Services, Switched]:
    database: Any = Switched(services.database)
    return replace(services, database=database), database


@pytest.mark.parametrize("person", ["anna", "bela"])
async def test_a_running_replica_finds_that_another_database_stands_in_the_place_of_its_own(
    place: Place, monkeypatch: pytest.MonkeyPatch, person: str
) -> None:
    """A fork of the same size, and a log that is behind and that nobody writes."""
    monkeypatch.setattr(sign_checkpoint, "EXAMINED_SECONDS", 3600.0)
    async with place.services() as services:
        running, database = replica(services)
        checkpointer = Checkpointer(running)
        workspace = await create(services, "shop")
        backup = await place.back_up()
        await choose(services, workspace, "anna", "grant")
        await checkpointer.sign_all()
        await place.put_back(backup)
        async with place.services() as restored:
            database.now = restored.database
            if person == "bela":  # of the same size
                await choose(restored, workspace, "bela", "grant")

            await checkpointer.sign_all()

            assert await states(restored, workspace) == ["frozen"]


async def test_a_log_that_nobody_writes_is_examined_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with place.services() as services:
        workspace = await create(services, "shop")
        checkpointer = Checkpointer(services)
        await checkpointer.sign_all()
        (file,) = (place.folder / "anchor").glob("*.checkpoint")
        file.unlink()

        await checkpointer.sign_all()
        assert await states(services, workspace) == ["active"]  # not at each pass
        monkeypatch.setattr(sign_checkpoint, "EXAMINED_SECONDS", 0.0)
        await checkpointer.sign_all()

        assert await states(services, workspace) == ["frozen"]


@pytest.mark.parametrize("known", ["written", "read at its start"])
async def test_a_lost_withdrawal_is_found_by_a_running_replica_before_it_signs(place: Place, known: str) -> None:
    async with place.services() as services:
        workspace = await create(services, "shop")
        await choose(services, workspace, "anna", "grant")
        await sign(services, workspace)
        backup = await place.back_up()
        await choose(services, workspace, "anna", "withdraw")  # acknowledged, and not anchored yet
        async with place.services() as other:
            await guard(other, read_journal(other))
            running, database = replica(services if known == "written" else other)
            await place.put_back(backup)
            async with place.services() as restored:
                database.now = restored.database
                await choose(restored, workspace, "bela", "grant")

                with pytest.raises(LedgerDamaged, match="journal_ahead"):
                    await sign(running, workspace)
                assert await reason(restored, workspace, "anna") == "system.restoring"


async def test_a_lost_withdrawal_of_a_log_that_was_never_signed_is_found_by_the_journal(place: Place) -> None:
    async with place.services() as services:
        workspace = await create(services, "shop")
        await choose(services, workspace, "anna", "grant")
    backup = await place.back_up()
    async with place.services() as services:
        await choose(services, workspace, "anna", "withdraw")
    await place.put_back(backup)

    async with place.services() as services:
        assert await guard(services, read_journal(services)) == {"localhost/shop": Contradicts("journal_ahead", None)}
        await recovered(services, read_journal(services))
        assert await reason(services, workspace, "anna") == "consent.withdrawn"


@OVER_BOTH_STORES
async def test_a_log_without_an_anchor_is_taken_up_only_when_an_operator_says_so_and_that_is_recorded(
    place: Place,
) -> None:
    async with place.services() as services:
        workspace = await create(services, "shop")
        await choose(services, workspace, "anna", "grant")
        await sign(services, workspace)
    async with place.services(anchor=f"{place.anchor}/lost") as services:
        assert (await guard(services)) == {"localhost/shop": Unanchored()}
        assert await reason(services, workspace, "anna") == "system.restoring"
        (refused,) = await recover(services, [])
        assert isinstance(refused, NotRecovered)
        assert isinstance(refused.error, Invalid)
        assert "--accept-head shop" in str(refused.error)

        (done,) = await recovered(services, [], accept_head=["shop"])

        assert done.how == "head_accepted"
        assert await reason(services, workspace, "anna") == "consent.granted"
        assert (await guard(services)).popitem()[1] != Unanchored()
        assert await clean(services)


async def test_a_log_that_was_never_signed_is_new_and_is_anchored_with_its_first_checkpoint(place: Place) -> None:
    async with place.services() as services:
        workspace = await create(services, "shop")
        assert await guard(services) == {"localhost/shop": Agrees(None)}
        signed = await sign(services, workspace)
        assert signed is not None
        assert await guard(services) == {"localhost/shop": Agrees(signed.note)}


async def test_a_guard_beside_a_writer_freezes_nothing(place: Place) -> None:
    """Another replica appends, signs and anchors between any two steps of the guard."""
    async with place.services() as services, place.services() as other:
        workspace = await create(services, "shop")

        async def write() -> None:
            for number in range(30):
                await choose(other, workspace, f"person{number}", "grant")
                await sign(other, workspace)

        writer = asyncio.create_task(write())
        while not writer.done():
            assert isinstance((await guard(services))["localhost/shop"], Agrees)
        await writer


async def _nothing() -> None:
    pass


class Interrupted:
    """An anchor that lets another replica work before, and after, it is read for the first time."""

    def __init__(self, anchor: AnchorStore, before: Step = _nothing, after: Step = _nothing) -> None:
        self._anchor, self._before, self._after = anchor, before, after

    async def read(self, origin: str) -> str | None:
        before, self._before = self._before, _nothing
        await before()
        kept = await self._anchor.read(origin)
        after, self._after = self._after, _nothing
        await after()
        return kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._anchor, name)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_log_that_is_signed_for_the_first_time_while_a_guard_looks_stays_active(
    place: Place, moment: str
) -> None:
    async with place.services() as services, place.services() as other:
        workspace = await create(services, "shop")
        assert services.anchor is not None

        async def another_replica() -> None:
            await sign(other, workspace)

        anchor = Interrupted(services.anchor, **{moment: another_replica})
        _, standing = await guard_log(replace(services, anchor=anchor), workspace)

        assert isinstance(standing, Agrees)
        await choose(services, workspace, "anna", "grant")  # not frozen


async def test_a_log_that_is_recovered_while_a_guard_looks_stays_active(place: Place) -> None:
    workspace = await rolled_back(place)
    async with place.services() as services, place.services() as other:
        assert services.anchor is not None

        async def another_replica() -> None:
            await recovered(other, [])

        anchor = Interrupted(services.anchor, after=another_replica)
        _, standing = await guard_log(replace(services, anchor=anchor), workspace)
        assert isinstance(standing, Agrees)
        await choose(services, workspace, "anna", "grant")


async def rolled_back(place: Place) -> UUID:
    """A workspace whose log is behind its anchor: an old backup was put back."""
    async with place.services() as services:
        workspace = await create(services, "shop")
        await sign(services, workspace)
        backup = await place.back_up()
        await choose(services, workspace, "anna", "grant")
        await sign(services, workspace)
    await place.put_back(backup)
    return workspace


async def unanchored(place: Place) -> UUID:
    """A workspace whose anchor was lost."""
    async with place.services() as services:
        workspace = await create(services, "shop")
        await choose(services, workspace, "anna", "grant")
        await sign(services, workspace)
    place.anchor = f"{place.anchor}/lost"
    return workspace


async def states(services: Services, workspace: UUID) -> list[str]:
    async with services.database.workspace("volenti_app", workspace) as connection:
        return [head.state for head in await ledger.logs(connection, workspace)]


class Between:
    """A database that lets another replica work before a signer's second transaction."""

    def __init__(self, database: Database, step: Step) -> None:
        self._database, self._step, self._begun = database, step, 0

    @asynccontextmanager
    async def workspace(self, role: Any, workspace_id: UUID) -> AsyncIterator[Any]:
        self._begun += 1
        if self._begun == 2:
            await self._step()
        async with self._database.workspace(role, workspace_id) as connection:
            yield connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


async def test_a_log_that_was_recovered_since_a_signer_examined_the_old_one_stays_active(place: Place) -> None:
    workspace = await rolled_back(place)
    async with place.services() as services, place.services() as other:

        async def another_replica() -> None:
            await recovered(other, [])

        database: Any = Between(services.database, another_replica)
        with pytest.raises(LedgerDamaged):
            await sign(replace(services, database=database), workspace)

        assert await states(services, workspace) in (["frozen"], ["sealed", "active"])


async def test_a_recovery_while_a_signer_examines_waits_for_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = await rolled_back(place)
    async with place.services() as services, place.services() as other:
        read = ledger.head_and_frontier

        async def late(*arguments: Any) -> Any:
            monkeypatch.setattr(ledger, "head_and_frontier", read)
            await recover(other, [])
            return await read(*arguments)

        monkeypatch.setattr(ledger, "head_and_frontier", late)
        with pytest.raises(LedgerDamaged):
            await sign(services, workspace)

        assert await states(services, workspace) == ["frozen"]
        await recovered(other, [])
        assert await states(services, workspace) == ["sealed", "active"]


async def test_a_head_that_is_accepted_beside_a_serving_replica_stays_accepted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = await unanchored(place)
    async with place.services() as services, place.services() as other:
        await guard(services)

        async def late(*arguments: Any, **options: Any) -> Any:
            await Checkpointer(other).sign_all()
            return await sign(*arguments, **options)

        monkeypatch.setattr("volenti.flows.recover.sign", late)
        await recovered(services, [], accept_head=["shop"])
        await Checkpointer(other).sign_all()

        assert await states(services, workspace) == ["active"]
        assert await reason(services, workspace, "anna") == "consent.granted"


async def test_a_head_that_is_accepted_while_a_guard_looks_stays_accepted(place: Place) -> None:
    workspace = await unanchored(place)
    async with place.services() as services, place.services() as other:
        assert services.anchor is not None

        async def another_replica() -> None:
            await recovered(other, [], accept_head=["shop"])

        anchor = Interrupted(services.anchor, after=another_replica)
        _, standing = await guard_log(replace(services, anchor=anchor), workspace)

        assert isinstance(standing, Agrees)
        assert await states(services, workspace) == ["active"]


class Unwritable(Interrupted):
    """An anchor that can be read only."""

    async def swap(self, origin: str, old: str | None, new: str) -> bool:
        raise Unavailable("the anchor cannot be written")


async def test_a_head_that_cannot_be_anchored_is_not_accepted(place: Place) -> None:
    workspace = await unanchored(place)
    async with place.services() as services:
        assert services.anchor is not None
        await guard(services)

        (refused,) = await recover(replace(services, anchor=Unwritable(services.anchor)), [], accept_head=["shop"])

        assert isinstance(refused, NotRecovered)
        assert str(refused.error) == "the anchor cannot be written"
        assert await states(services, workspace) == ["frozen"]
        (done,) = await recovered(services, [], accept_head=["shop"])
        assert done.how == "head_accepted"


async def test_a_recovery_says_that_it_could_not_sign(place: Place) -> None:
    workspace = await rolled_back(place)
    async with place.services() as services:
        assert services.anchor is not None

        (done,) = await recover(replace(services, anchor=Unwritable(services.anchor)), [])

        assert isinstance(done, NotRecovered)
        assert isinstance(done.error, Unavailable)
        assert "localhost/shop/2 was recovered and goes on, but could not be signed yet" in str(done.error)
        assert await states(services, workspace) == ["sealed", "active"]


async def test_an_edited_anchor_freezes_the_log(place: Place) -> None:
    async with place.services() as services:
        await sign(services, await create(services, "shop"))
        (file,) = (place.folder / "anchor").glob("*.checkpoint")
        file.write_text(file.read_text().replace("localhost/shop\n2\n", "localhost/shop\n1\n", 1))

        standing = (await guard(services))["localhost/shop"]

        assert isinstance(standing, Contradicts)
        assert standing.how == "anchor_altered"


@pytest.mark.parametrize("kept", [b"\xff\xfe\n", b"", b"localhost/\xff\n2\n\n\n"])
async def test_whatever_stands_in_an_anchor_the_workspace_and_those_after_it_are_recovered(
    place: Place, kept: bytes
) -> None:
    async with place.services() as services:
        first, second = await create(services, "aaa"), await create(services, "zzz")
        for workspace in (first, second):
            await sign(services, workspace)
        backup = await place.back_up()
        for workspace in (first, second):
            await choose(services, workspace, "anna", "withdraw")
            await sign(services, workspace)
    (place.folder / "anchor" / file_name("localhost/aaa")).write_bytes(kept)
    await place.put_back(backup)
    async with place.services() as services:
        done = await recovered(services, read_journal(services))

        assert [(one.workspace, one.how) for one in done] == [("aaa", "anchor_altered"), ("zzz", "rolled_back")]
        async with services.database.workspace("volenti_app", first) as connection:
            body = await connection.fetchval("SELECT body FROM entry_payload WHERE log_id = 2 AND idx = 0")
        assert json.loads(body[32:])["anchored"] == kept.decode(errors="backslashreplace")
        assert await clean(services)


async def test_a_workspace_that_cannot_be_recovered_keeps_no_other_from_it(
    place: Place,
) -> None:
    async with place.services() as services:
        first, second = await create(services, "aaa"), await create(services, "zzz")
        for workspace in (first, second):
            await sign(services, workspace)
        async with services.database.workspace("volenti_signer", second) as connection:
            await ledger.freeze(connection, second, 1)
        assert services.anchor is not None
        (place.folder / "anchor" / file_name("localhost/aaa")).unlink()

        refused, done = await recover(services, [])

        assert isinstance(refused, NotRecovered)
        assert isinstance(done, Recovered)
        assert (refused.workspace, done.workspace) == ("aaa", "zzz")
        assert (await states(services, first), await states(services, second)) == (["active"], ["active"])


async def test_a_log_that_stands_as_anchored_goes_on(place: Place) -> None:
    async with place.services() as services:
        workspace = await create(services, "shop")
        await choose(services, workspace, "anna", "withdraw")
    async with place.services() as services:
        assert isinstance((await guard(services, read_journal(services)))["localhost/shop"], Agrees)
        assert await reason(services, workspace, "anna") == "consent.withdrawn"


async def test_the_service_guards_its_logs_before_the_first_answer(place: Place) -> None:
    async with place.services() as services:
        workspace = await create(services, "shop")
        await choose(services, workspace, "anna", "grant")
        await sign(services, workspace)
    async with place.services(anchor=str(place.folder / "lost")) as services, application(services).started():
        assert await reason(services, workspace, "anna") == "system.restoring"


async def test_a_withdrawal_is_not_acknowledged_while_a_required_journal_cannot_be_written(place: Place) -> None:
    place.profile = "production"
    retry = Retry(UUID(int=7), "key", "POST /v1/consents", b"{}")
    async with place.services() as services:
        workspace = await create(services, "shop")
        await choose(services, workspace, "anna", "grant")
        (place.folder / "journal").rmdir() if (place.folder / "journal").exists() else None
        (place.folder / "journal").write_text("a file where the folder should be")

        with pytest.raises(Unavailable, match="journal"):
            await choose(services, workspace, "anna", "withdraw", retry=retry)
        assert (
            await reason(services, workspace, "anna") == "consent.withdrawn"
        )  # committed, and binding, though not acknowledged

        (place.folder / "journal").unlink()
        again = await choose(services, workspace, "anna", "withdraw", retry=retry)
        assert again.replayed
        assert [line.entry for line in read_journal(services)] == [again.entries[-1].entry]


async def test_production_does_not_open_without_an_anchor_and_a_journal(place: Place) -> None:
    settings = Settings(
        data_dir=str(place.folder),
        key_file=str(place.server.data_dir / "keys.json"),
        profile="production",
        database_url=place.server.url("volenti_app", place.database),
    )
    with pytest.raises(Invalid, match="anchor and a journal"):
        async with opened(settings, lambda role: place.server.url(role, place.database)):
            raise AssertionError


async def test_the_journal_holds_no_identifier(place: Place) -> None:
    async with place.services() as services:
        workspace = await create(services, "shop")
        await choose(services, workspace, "anna", "withdraw")

        text = b"".join(path.read_bytes() for path in (place.folder / "journal").iterdir())
        assert b"anna" not in text
        assert b"newsletter" in text


async def test_a_decision_in_a_frozen_workspace_says_nothing_of_the_person(place: Place) -> None:
    async with place.services() as services:
        workspace = await create(services, "shop")
        await choose(services, workspace, "anna", "withdraw")
        async with services.database.workspace("volenti_signer", workspace) as connection:
            await ledger.freeze(connection, workspace, 1)

        decision = await decide(services, workspace, "anna")

        assert isinstance(decision, Deny)
        assert [given.event for given in decision.reasons] == [None]


async def test_a_retry_after_a_recovery_names_the_log_that_its_entry_stands_in(place: Place) -> None:
    retry = Retry(UUID(int=7), "key", "POST /v1/consents", b"{}")
    async with place.services() as services:
        workspace = await create(services, "shop")
        for person in ("bela", "cora", "dora"):
            await choose(services, workspace, person, "grant")
        first = await choose(services, workspace, "anna", "withdraw", retry=retry)
        await sign(services, workspace)
        backup = await place.back_up()
        await choose(services, workspace, "erik", "grant")
        await sign(services, workspace)
    await place.put_back(backup)
    async with place.services() as services:
        await recovered(services, read_journal(services))
    async with place.services() as services:  # another process: it remembers no line
        again = await choose(services, workspace, "anna", "withdraw", retry=retry)

        assert again.replayed
        assert [entry.entry for entry in again.entries] == [entry.entry for entry in first.entries]
        asked = Asked(Identifier("id", "bela"), QUESTION, Consistency("at_least", again.epoch, again.size))
        (answered,) = await check(services, workspace, [asked], deadline_ms=5000)
        assert isinstance(answered, Checked)
        assert answered.decision.reasons[0].reason.code == "consent.granted"
        assert {(line.origin, line.index) for line in read_journal(services)} == {
            ("localhost/shop", first.first_index + len(first.entries) - 1)
        }
    async with place.services() as services:
        assert isinstance((await guard(services, read_journal(services)))["localhost/shop/2"], Agrees)


async def test_a_policy_that_is_published_again_after_a_recovery_is_answered_with_a_revision_that_can_be_seen(
    place: Place,
) -> None:
    retry = Retry(UUID(int=7), "key", "POST /v1/policies", b"{}")
    text = starter_policy("shop").replace("shop", "the shop", 1)
    async with place.services() as services:
        workspace = await create(services, "shop")
        for person in ("anna", "bela", "cora"):
            await choose(services, workspace, person, "grant")
        await publish(services, workspace, text, retry=retry)
        await sign(services, workspace)
        backup = await place.back_up()
        await choose(services, workspace, "erik", "grant")
        await sign(services, workspace)
    await place.put_back(backup)
    async with place.services() as services:
        await recovered(services, read_journal(services))

        again = await publish(services, workspace, text, retry=retry)

        assert isinstance(again, Published)
        async with services.database.workspace("volenti_app", workspace) as connection:
            assert again.size == (await ledger.head(connection, workspace)).size


async def test_an_import_that_was_recorded_before_a_recovery_is_not_recorded_again(place: Place) -> None:
    choice = Choice(kind="grant", purpose="newsletter", notice="newsletter@1")
    command = Command(
        actor="import", component="tests", choices=(choice,), method="list", surface="https://shop.example"
    )
    async with place.services() as services:
        workspace = await create(services, "shop")
        ids = tuple(services.new_id() for _ in range(4))
        assert isinstance(await record(services, workspace, command, (Identifier("id", "anna"),), ids=ids), Recorded)
        await sign(services, workspace)
        backup = await place.back_up()
        await choose(services, workspace, "bela", "grant")
        await sign(services, workspace)
    await place.put_back(backup)
    async with place.services() as services:
        await recovered(services, read_journal(services))

        again = await record(services, workspace, command, (Identifier("id", "anna"),), ids=ids)

        assert isinstance(again, Refusal)
        assert again.code == "entry_exists"
