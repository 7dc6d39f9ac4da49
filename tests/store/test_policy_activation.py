"""Which version is in force at an instant, by what was known at another: one rule, two statements that agree."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from volenti.core.policy.starter import starter_policy
from volenti.flows.clock import instant, milliseconds
from volenti.flows.publish_policy import Published, activate, publish
from volenti.flows.services import Services
from volenti.store import data_subjects, policies
from volenti.store.embedded import Embedded


@dataclass
class Timeline:
    """A workspace of nothing but a log and activations; `begin` is the instant that hours are counted from."""

    connection: Any
    workspace: UUID
    begin: datetime

    def hours(self, count: float) -> datetime:
        return self.begin + count * timedelta(hours=1)

    async def activate(self, version: int, hours: float, recorded: float = 0) -> None:
        await policies.activate(
            self.connection, self.workspace, version,
            active_from=self.hours(hours), recorded_at=self.hours(recorded), entry_id=uuid4(),
        )  # fmt: skip

    async def in_force(self, hours: float, known: float | None = None) -> tuple[int, int] | None:
        """The version in force so many hours from the beginning, and how many activations were known."""
        known_at = None if known is None else self.hours(known)
        found = await policies.in_force(self.connection, self.workspace, self.hours(hours), known_at)
        return None if found is None else (found.activation.version, found.known)


@pytest.fixture
async def timeline(services: Services, superuser: Any) -> AsyncIterator[Timeline]:
    transaction = superuser.transaction()
    await transaction.start()
    try:
        workspace = uuid4()
        await superuser.execute("SELECT ledger_open($1, $2)", workspace, f"tests/{workspace}")
        yield Timeline(superuser, workspace, await policies.now(superuser))
    finally:
        await transaction.rollback()


CASES: dict[str, tuple[Sequence[tuple[int, int]], dict[int, int]]] = {
    "one that lies ahead waits": ([(1, 0), (2, 3)], {0: 1, 2: 1, 3: 2, 9: 2}),
    "the next day's version follows it": ([(1, 0), (2, 3), (3, 5)], {2: 1, 3: 2, 4: 2, 5: 3}),
    "an older version comes back, the schedule stands": ([(1, 0), (2, 1), (1, 2), (3, 5)], {1: 2, 2: 1, 4: 1, 5: 3}),
    "of the same instant the later record counts": ([(1, 0), (2, 3), (1, 3)], {2: 1, 3: 1, 9: 1}),
    "recorded later for an earlier instant": ([(1, 0), (2, 5), (3, 3)], {2: 1, 3: 3, 4: 3, 5: 2}),
    "brought forward": ([(1, 0), (2, 5), (2, 1)], {0: 1, 1: 2, 5: 2}),
}
"""Activations (version, from which hour on), and which version is in force at which hour."""


@pytest.mark.parametrize("name", CASES)
async def test_in_force_is_the_activation_that_began_last(timeline: Timeline, name: str) -> None:
    activations, expected = CASES[name]
    for version, hours in activations:
        await timeline.activate(version, hours)

    assert {hours: await timeline.in_force(hours) for hours in expected} == {
        hours: (version, len(activations)) for hours, version in expected.items()
    }


@pytest.mark.parametrize(("name", "hour"), [(name, hour) for name, (_, expected) in CASES.items() for hour in expected])
async def test_the_ground_of_a_check_names_what_is_in_force_now_and_until_when(
    timeline: Timeline, name: str, hour: int
) -> None:
    activations, expected = CASES[name]
    timeline.begin -= timedelta(hours=hour)  # so that the hour is the present
    for version, hours in activations:
        await timeline.activate(version, hours)
    ground, _ = await data_subjects.find(timeline.connection, timeline.workspace, [])
    found = await policies.in_force(timeline.connection, timeline.workspace, ground.at)
    ahead = [timeline.hours(hours) for _, hours in activations if hours > hour]

    assert found is not None
    assert (ground.policy_version, ground.policy_activation) == (expected[hour], found.activation.number)
    assert ground.policy_until == min(ahead, default=None)


async def test_before_the_first_activation_nothing_is_in_force(timeline: Timeline) -> None:
    ground, _ = await data_subjects.find(timeline.connection, timeline.workspace, [])
    assert (ground.policy_version, ground.policy_activation, ground.policy_until) == (None, None, None)
    await timeline.activate(1, hours=1)

    assert await timeline.in_force(0.99) is None
    assert await timeline.in_force(2, known=-1) is None
    ground, _ = await data_subjects.find(timeline.connection, timeline.workspace, [])
    assert (ground.policy_version, ground.policy_until) == (None, timeline.hours(1))


async def test_an_earlier_knowledge_answers_as_was_answered_then(timeline: Timeline) -> None:
    await timeline.activate(1, hours=0)
    await timeline.activate(2, hours=5, recorded=1)
    await timeline.activate(1, hours=5, recorded=2)

    assert {known: await timeline.in_force(6, known) for known in (0, 1, 2)} == {0: (1, 1), 1: (2, 2), 2: (1, 3)}


async def _publish_for_tomorrow(services: Services, workspace: UUID) -> datetime:
    """Publish new words as version 2; returns from when on they are in force."""
    text = starter_policy("Acme GmbH").replace("version: 1", "version: 2", 1).replace("I can stop", "I may stop")
    tomorrow = instant(services.clock()) + timedelta(days=1)
    assert isinstance(await publish(services, workspace, text, activate_at=milliseconds(tomorrow)), Published)
    return tomorrow


async def test_a_notice_may_have_been_shown_since_a_policy_that_holds_it_came_into_force(
    services: Services, workspace: UUID
) -> None:
    tomorrow = await _publish_for_tomorrow(services, workspace)
    async with services.database.workspace("volenti_app", workspace) as connection:
        then = {(one.notice, one.version): one.published_at for one in await policies.notices(connection, workspace, up_to=2)}  # fmt: skip
        before = {(one.notice, one.version): one.published_at for one in await policies.notices(connection, workspace, up_to=2, known=1)}  # fmt: skip

    (changed,) = {notice for notice, version in then if version == 2}
    assert then[changed, 2] == tomorrow
    assert before[changed, 2] is None
    assert then[changed, 1] == before[changed, 1] is not None


async def test_a_notice_whose_policy_was_called_off_was_never_shown(services: Services, workspace: UUID) -> None:
    tomorrow = await _publish_for_tomorrow(services, workspace)
    assert isinstance(await activate(services, workspace, 1, at=milliseconds(tomorrow)), Published)
    async with services.database.workspace("volenti_app", workspace) as connection:
        known = await policies.notices(connection, workspace, up_to=2)

    assert [one.published_at for one in known if one.version == 2] == [None]


async def test_a_check_reads_the_index_only_however_many_activations_there_are(
    server: Embedded, superuser: Any, workspace: UUID
) -> None:
    """Also where the table was never analysed: no statement may read a workspace's whole schedule for each check."""
    await superuser.execute(
        "INSERT INTO policy_activation SELECT $1, n, 1, volenti.now() + (n - 600) * interval '1 hour', volenti.now(),"
        " gen_random_uuid() FROM generate_series(2, 1000) n",
        workspace,
    )
    body, settings = await superuser.fetchrow("SELECT prosrc, proconfig FROM pg_proc WHERE proname = 'find_states'")
    query = body.partition("RETURN QUERY")[2].partition(";")[0]
    for variable, place in (("p_ws", "$1"), ("p_indexes", "$2"), ("ts", "$3")):
        query = re.sub(rf"\b{variable}\b", place, query)
    connection = await asyncpg.connect(server.url("volenti_app"), server_settings={"search_path": "volenti"})
    try:
        async with connection.transaction():
            for setting in settings:
                await connection.execute("SELECT set_config($1, $2, true)", *setting.split("=", 1))
            await connection.execute("SELECT set_config('app.workspace', $1, true)", str(workspace))
            await connection.execute(f"PREPARE ground (uuid, bytea[], timestamptz) AS {query}")
            plan = json.loads(
                await connection.fetchval(
                    f"EXPLAIN (FORMAT JSON, ANALYZE, TIMING OFF) EXECUTE ground('{workspace}', '{{}}', volenti.now())"
                )
            )
    finally:
        await connection.close()

    scans = [node for node in _nodes(plan[0]["Plan"]) if node.get("Relation Name") == "policy_activation"]
    assert [(node["Node Type"], node["Index Name"], node["Actual Rows"]) for node in scans] == [
        ("Index Only Scan", "policy_activation_in_force", 1)
    ] * 2


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *itertools.chain.from_iterable(_nodes(child) for child in plan.get("Plans", ()))]
