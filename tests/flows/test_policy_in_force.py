"""A policy is in force from its activation on, for every check, write and replica; and what was in force can be asked later.

Over a clock that stands, so that a day ahead is a statement away. Two services on the one database are two replicas.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest

from volenti.core.admission import Choice, Command, Refusal
from volenti.core.data_subject import Identifier
from volenti.core.decision import Question
from volenti.core.policy.compile import CompiledPolicy
from volenti.core.policy.document import Action, Channel
from volenti.core.policy.starter import starter_policy
from volenti.errors import NotFound
from volenti.flows.check_policy import Asked, Checked, check
from volenti.flows.clock import StandingClock, instant
from volenti.flows.create_workspace import create
from volenti.flows.open_services import opened, stand_clock
from volenti.flows.publish_policy import Publication, Published, Rejected, TooLate, activate, publish
from volenti.flows.record_consents import Recorded, Recording, record
from volenti.flows.services import Services
from volenti.settings import Settings
from volenti.store import policies, schema, workspaces
from volenti.store.embedded import Embedded

SECOND = 1000
HOUR = 3_600_000
DAY = 24 * HOUR
FIRST = starter_policy("Acme GmbH")
ASKS = FIRST.replace("basis: {default: contract}", "basis: {default: consent}\n    notice: newsletter")
"""Order updates need consent: what the first version permits is denied."""
NEW_WORDS = FIRST.replace("version: 1", "version: 2", 1).replace("I can stop at any time.", "I stop when I want.")
"""The newsletter's second notice, a material change."""


@dataclass
class Replicas:
    """Two services on one database, and one workspace."""

    one: Services
    two: Services
    workspace: UUID

    def now(self) -> int:
        return self.one.clock()

    async def move(self, to: int) -> None:
        async with self.one.database.connection("volenti_admin") as connection:
            assert await workspaces.set_test_clock(connection, instant(to))
        for services in (self.one, self.two):
            assert isinstance(services.clock, StandingClock)
            services.clock.move(to)

    async def publish(self, text: str, at: int | None = None) -> Publication:
        return await publish(self.one, self.workspace, text, activate_at=at)

    async def activate(self, version: int, at: int | None = None) -> Publication:
        return await activate(self.one, self.workspace, version, at=at)

    async def check(
        self, services: Services | None = None, person: str = "stranger", purpose: str = "order_updates"
    ) -> Checked:
        """May this be sent to this person by e-mail?"""
        question = Question(action=Action.SEND, purpose=purpose, channel=Channel.EMAIL)
        who = Identifier("id", person)
        (answered,) = await check(services or self.one, self.workspace, [Asked(who, question)], deadline_ms=5000)
        assert isinstance(answered, Checked)
        return answered

    async def versions(self) -> tuple[int, int]:
        """Which version decides on either replica."""
        return (await self.check(self.one)).policy_version, (await self.check(self.two)).policy_version

    async def grant(self, notice: str, at: int | None = None) -> Recording:
        choice = Choice(kind="grant", purpose="newsletter", channels=("email",), notice=notice, claimed_at=at)
        command = Command(
            actor="data_subject",
            component="tests",
            choices=(choice,),
            method="web_form",
            surface="https://shop.example",
        )
        return await record(self.one, self.workspace, command, (Identifier("id", str(uuid4())),))


@pytest.fixture(scope="module")
def standing(server: Embedded) -> Iterator[str]:
    """A database whose clock stands."""
    name = f"standing_{os.getpid()}"
    asyncio.run(_execute(server, f"CREATE DATABASE {name} TEMPLATE template0"))
    try:
        asyncio.run(_prepare(server, name))
        yield name
    finally:
        asyncio.run(_execute(server, f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(server: Embedded, statement: str) -> None:
    connection = await asyncpg.connect(server.url("volenti", "postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _prepare(server: Embedded, name: str) -> None:
    await schema.bootstrap(server.url("volenti", name))
    await schema.migrate(server.url("volenti_migrate", name), report=lambda line: None)
    await stand_clock(_settings(server), lambda role: server.url(role, name), datetime(2026, 7, 1, 12, tzinfo=UTC))


def _settings(server: Embedded) -> Settings:
    return Settings(data_dir=str(server.data_dir), log_level="error", anchor="off", journal="off")


@pytest.fixture
async def replicas(server: Embedded, standing: str) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(opened(_settings(server), lambda role: server.url(role, standing)))
            for _ in range(2)
        ]
        yield Replicas(one, two, await create(one, f"w-{uuid4().hex[:12]}"))


def in_force(publication: Publication) -> Published:
    assert isinstance(publication, Published), publication
    return publication


# --- what decides


async def test_a_version_with_a_day_waits_for_it_and_then_decides_on_every_replica(replicas: Replicas) -> None:
    day = replicas.now() + DAY
    published = in_force(await replicas.publish(ASKS, day))
    assert (published.version, published.active_from) == (2, day)
    assert await replicas.versions() == (1, 1)
    await replicas.move(day - 1)
    assert await replicas.versions() == (1, 1)
    await replicas.move(day)

    assert await replicas.versions() == (2, 2)
    assert (await replicas.check(replicas.two)).decision.reasons[0].reason.code == "consent.missing"


async def test_a_version_without_a_day_decides_from_the_next_check_on_every_replica(replicas: Replicas) -> None:
    assert await replicas.versions() == (1, 1)
    published = in_force(await replicas.publish(ASKS))

    assert published.active_from == replicas.now()
    assert await replicas.versions() == (2, 2)


async def test_of_all_who_ask_at_the_moment_of_a_change_one_compiles_and_nobody_is_denied_for_it(
    replicas: Replicas,
) -> None:
    in_force(await replicas.publish(with_purposes("surveys")))
    answers = await asyncio.gather(*(replicas.check() for _ in range(200)))

    assert {answer.decision.reasons[0].reason.code for answer in answers} == {"basis.contract"}
    assert len({id(answer.policy) for answer in answers}) == 1


async def test_no_answer_is_valid_beyond_the_next_activation(replicas: Replicas) -> None:
    until = replicas.now() + 10 * SECOND
    assert (await replicas.check()).decision.valid_until == replicas.now() + 60 * SECOND
    in_force(await replicas.publish(ASKS, until))
    in_force(await replicas.publish(FIRST, until + DAY))

    for services in (replicas.one, replicas.two):
        assert (await replicas.check(services)).decision.valid_until == until
    await replicas.move(until)
    assert (await replicas.check()).decision.valid_until > until


async def test_an_older_version_comes_back_at_once(replicas: Replicas) -> None:
    in_force(await replicas.publish(ASKS))
    assert (await replicas.check()).policy_version == 2
    back = in_force(await replicas.activate(1))

    assert (back.version, back.repeated) == (1, False)
    assert await replicas.versions() == (1, 1)
    assert (await replicas.check()).decision.reasons[0].reason.code == "basis.contract"


async def test_a_version_that_waits_is_brought_forward(replicas: Replicas) -> None:
    day = replicas.now() + DAY
    in_force(await replicas.publish(ASKS, day))
    in_force(await replicas.activate(2, replicas.now() + HOUR))
    await replicas.move(replicas.now() + HOUR)

    assert await replicas.versions() == (2, 2)


async def test_a_version_that_waits_is_called_off_by_another_for_the_same_instant(replicas: Replicas) -> None:
    day = replicas.now() + DAY
    in_force(await replicas.publish(ASKS, day))
    in_force(await replicas.activate(1, day))
    await replicas.move(day)

    assert await replicas.versions() == (1, 1)


# --- what is recorded


async def _kinds(replicas: Replicas) -> list[str]:
    async with replicas.one.database.workspace("volenti_app", replicas.workspace) as connection:
        rows = await connection.fetch(
            "SELECT convert_from(leaf, 'UTF8')::jsonb ->> 'k' FROM ledger_entry WHERE workspace_id = $1 ORDER BY idx",
            replicas.workspace,
        )
    return [row[0] for row in rows][1:]  # the first one created the workspace


async def test_publishing_is_one_entry_with_or_without_a_day_and_activating_one_of_its_own(replicas: Replicas) -> None:
    in_force(await replicas.publish(ASKS))
    in_force(await replicas.publish(FIRST, replicas.now() + DAY))
    in_force(await replicas.activate(1))

    assert await _kinds(replicas) == ["policy.published"] * 3 + ["policy.activated"]


async def test_what_is_in_force_or_scheduled_for_that_instant_is_not_recorded_again(replicas: Replicas) -> None:
    day = replicas.now() + DAY
    first = in_force(await replicas.publish(ASKS, day))
    again = in_force(await replicas.publish(ASKS, day))
    later = in_force(await replicas.publish("# another comment\n" + ASKS, day + DAY))
    same = in_force(await replicas.activate(2, day))
    now = in_force(await replicas.activate(1))

    for repeated in (again, later, same):
        assert (repeated.entry, repeated.version, repeated.repeated) == (first.entry, 2, True)
    assert (now.version, now.repeated) == (1, True)
    assert len(await _kinds(replicas)) == 2


async def test_a_retry_after_the_instant_has_passed_is_no_second_publication(replicas: Replicas) -> None:
    day = replicas.now() + DAY
    first = in_force(await replicas.publish(ASKS, day))
    await replicas.move(day + HOUR)
    again = in_force(await replicas.publish(ASKS, day))

    assert (again.entry, again.repeated) == (first.entry, True)
    assert in_force(await replicas.activate(2, day)).entry == first.entry


async def test_what_was_in_force_is_not_changed_afterwards(replicas: Replicas) -> None:
    past = replicas.now() - 1
    assert isinstance(await replicas.publish(ASKS, past), TooLate)
    assert isinstance(await replicas.activate(1, past), TooLate)

    assert await _kinds(replicas) == ["policy.published"]


async def test_a_version_that_was_not_published_is_not_put_in_force(replicas: Replicas) -> None:
    with pytest.raises(NotFound):
        await replicas.activate(2)


async def test_activations_at_the_same_moment_are_recorded_one_after_the_other(replicas: Replicas) -> None:
    in_force(await replicas.publish(ASKS))
    days = [replicas.now() + n * DAY for n in range(1, 7)]
    done = await asyncio.gather(*(activate((replicas.one, replicas.two)[n % 2], replicas.workspace, 1, at=day) for n, day in enumerate(days)))  # fmt: skip
    async with replicas.one.database.workspace("volenti_app", replicas.workspace) as connection:
        recorded = await policies.activations(connection, replicas.workspace)

    assert [one.number for one in recorded] == list(range(1, len(recorded) + 1))
    assert {str(one.entry_id) for one in recorded} >= {in_force(one).entry for one in done}
    assert len(recorded) == len(await _kinds(replicas))


# --- what binds a document


async def test_a_repair_does_not_need_the_words_of_a_policy_that_still_waits(replicas: Replicas) -> None:
    day = replicas.now() + DAY
    in_force(await replicas.publish(NEW_WORDS, day))
    repair = in_force(await replicas.publish(ASKS))
    assert (repair.version, await replicas.versions()) == (3, (3, 3))
    granted = await replicas.grant("newsletter@1")
    assert isinstance(granted, Recorded)
    await replicas.move(day)

    assert await replicas.versions() == (2, 2)


async def test_words_that_were_in_force_never_go_back(replicas: Replicas) -> None:
    in_force(await replicas.publish(NEW_WORDS))
    await replicas.move(replicas.now() + SECOND)
    in_force(await replicas.activate(1))

    refused = await replicas.publish(ASKS)
    assert isinstance(refused, Rejected)
    assert "a version never goes back" in refused.findings[0].message


def with_purposes(*names: str) -> str:
    """The first version with purposes of these names beside its own."""
    more = "".join(f"  {name}: {{actions: [use], basis: {{default: contract}}}}\n" for name in names)
    return FIRST.replace("  security:\n", f"{more}  security:\n")


async def test_a_purpose_that_was_in_force_once_is_never_deleted_also_after_a_rollback(replicas: Replicas) -> None:
    in_force(await replicas.publish(with_purposes("surveys")))
    await replicas.move(replicas.now() + SECOND)
    in_force(await replicas.activate(1))

    assert isinstance(await replicas.publish(ASKS), Rejected)


async def test_a_purpose_of_a_policy_that_waits_binds_nobody_before_its_day(replicas: Replicas) -> None:
    day = replicas.now() + DAY
    in_force(await replicas.publish(with_purposes("surveys"), day))

    assert in_force(await replicas.publish(ASKS)).version == 3
    assert isinstance(await replicas.publish(ASKS.replace("Acme", "Bcme"), day + HOUR), Rejected)


# --- what a grant may name


def code(recording: Recording) -> str | None:
    return recording.code if isinstance(recording, Refusal) else None


async def test_a_grant_names_a_notice_only_since_a_policy_that_holds_it_is_in_force(replicas: Replicas) -> None:
    day = replicas.now() + DAY
    in_force(await replicas.publish(NEW_WORDS, day))
    assert code(await replicas.grant("newsletter@2")) == "notice_unknown"
    await replicas.move(day + HOUR)

    assert code(await replicas.grant("newsletter@2", at=day - 1)) == "notice_not_published_then"
    assert isinstance(await replicas.grant("newsletter@2", at=day), Recorded)
    assert isinstance(await replicas.grant("newsletter@2"), Recorded)


async def test_a_notice_whose_policy_was_brought_forward_is_shown_since_then(replicas: Replicas) -> None:
    day, earlier = replicas.now() + DAY, replicas.now() + HOUR
    in_force(await replicas.publish(NEW_WORDS, day))
    assert await replicas.one.policy_in_force(replicas.workspace, day + HOUR, replicas.now()) is not None
    in_force(await replicas.activate(2, earlier))
    await replicas.move(day + HOUR)

    assert isinstance(await replicas.grant("newsletter@2", at=earlier), Recorded)


async def test_after_a_rollback_the_old_notice_counts_again_and_what_was_given_to_the_new_one_too(
    replicas: Replicas,
) -> None:
    in_force(await replicas.publish(NEW_WORDS))
    granted = await replicas.grant("newsletter@2")
    assert isinstance(granted, Recorded)
    assert granted.data_subject is not None
    await replicas.move(replicas.now() + SECOND)
    in_force(await replicas.activate(1))
    checked = await replicas.check(person=granted.data_subject, purpose="newsletter")
    assert (checked.policy_version, checked.decision.reasons[0].reason.code) == (1, "consent.granted")
    _, policy = await _policy(replicas, replicas.now(), replicas.now())

    assert policy.purposes["newsletter"].required_notice_version == 1
    assert isinstance(await replicas.grant("newsletter@1"), Recorded)
    assert code(await replicas.grant("newsletter@2")) == "notice_unknown"


# --- what was in force, and what will be


async def _policy(replicas: Replicas, at: int, known_at: int) -> tuple[int, CompiledPolicy]:
    found = await replicas.two.policy_in_force(replicas.workspace, at, known_at)
    assert found is not None
    return found


async def test_the_past_and_the_schedule_can_be_asked_for_as_they_were_known(replicas: Replicas) -> None:
    begun = replicas.now()
    day = begun + DAY
    await replicas.move(begun + HOUR)
    in_force(await replicas.publish(ASKS, day))
    await replicas.move(begun + 2 * HOUR)
    in_force(await replicas.activate(1, day))
    now = replicas.now()

    assert (await _policy(replicas, now, now))[0] == 1
    assert (await _policy(replicas, day, begun))[0] == 1
    assert (await _policy(replicas, day, begun + HOUR))[0] == 2
    assert (await _policy(replicas, day, now))[0] == 1
    assert await replicas.one.policy_in_force(replicas.workspace, begun - 1, now) is None


async def test_the_policy_in_force_is_the_one_that_the_checks_of_then_named(replicas: Replicas) -> None:
    decided = {}
    for text in (ASKS, FIRST, ASKS):
        decided[replicas.now()] = (await replicas.check()).policy_version
        await replicas.move(replicas.now() + HOUR)
        in_force(await replicas.publish(text, replicas.now() + HOUR // 2))
        decided[replicas.now()] = (await replicas.check()).policy_version
        await replicas.move(replicas.now() + HOUR)
    decided[replicas.now()] = (await replicas.check()).policy_version

    assert len(set(decided.values())) == 4
    assert {at: (await _policy(replicas, at, at))[0] for at in decided} == decided
