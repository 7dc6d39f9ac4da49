"""Every decision that must be logged is; what is missing is told; nothing of a person is in it; and no check waits for it."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from volenti.core.data_subject import EMPTY, Identifier
from volenti.core.decision import Deny, Permit, Question, evaluate
from volenti.core.policy.compile import CompiledPolicy
from volenti.core.policy.document import Action, Channel
from volenti.core.policy.starter import starter_policy
from volenti.errors import Invalid, Unavailable
from volenti.flows import log_decisions
from volenti.flows.check_policy import Asked, Checked, Consistency, check
from volenti.flows.clock import instant, milliseconds, uuid7, wall_clock
from volenti.flows.create_workspace import create
from volenti.flows.log_decisions import UNKNOWN, DecisionLog, document_of, masked, outcome_of, question_of, weight_of
from volenti.flows.open_services import opened
from volenti.flows.prune import prune
from volenti.flows.publish_policy import Published, publish
from volenti.flows.services import Services
from volenti.settings import Settings
from volenti.store import decision_log
from volenti.store.database import Database
from volenti.store.decision_log import DecisionRow, Gap
from volenti.store.embedded import Embedded

ALWAYS = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))
ACTIONS = f"[{', '.join(Action)}]"
PURPOSES = f"""\
purposes:
  everything: {{class: service, actions: {ACTIONS}, basis: {{default: contract}}, channels: [email], topics: [weekly]}}
  nothing: {{class: marketing, actions: {ACTIONS}, basis: {{default: consent}}, channels: [email], notice: newsletter}}
"""
POLICY = starter_policy("Tests").replace("purposes:\n", PURPOSES, 1).replace('\njurisdictions: "2026.11"', "")


def row_at(at: datetime, **members: Any) -> DecisionRow:
    """A row like those of the service, of any instant."""
    given: dict[str, Any] = {
        "decision_id": uuid7(milliseconds(at), os.urandom(10)), "evaluated_at": at, "component": "tests", "holder": None, "action": "send",
        "purpose": "newsletter", "channel": "email", "topic": None, "message_class": None, "decision": "permit", "reasons": (1,),
        "policy_version": 1, "policy_hash": bytes(32), "epoch": 1, "log_id": 1, "size": 3, "staleness_ms": 1, "evidence": (),
        "obligations_hash": None, "mode": "live", "request_hash": bytes(32), "took_us": 900, "weight": 1, "question": "{}",
    }  # fmt: skip
    return DecisionRow(**given | members)


def now() -> datetime:
    return instant(wall_clock())


async def rows_of(services: Services, workspace: UUID) -> list[Any]:
    async with services.database.workspace("volenti_app", workspace) as connection:
        rows: list[Any] = await connection.fetch("SELECT * FROM decision_log ORDER BY evaluated_at, decision_id")
    return rows


async def gaps_of(services: Services, workspace: UUID) -> list[Gap]:
    async with services.database.workspace("volenti_app", workspace) as connection:
        return await decision_log.gaps(connection, workspace, since=ALWAYS[0], until=ALWAYS[1])


async def written(services: Services, workspace: UUID, count: int) -> None:
    """Return when so many rows are there, and fail if that takes long."""
    async with asyncio.timeout(10):
        for _ in itertools.count():
            if len(await rows_of(services, workspace)) >= count:
                return
            await asyncio.sleep(0.05)


async def ask(services: Services, workspace: UUID, person: str = "nobody", **members: Any) -> Checked:
    question = Question(**{"action": Action.USE, "purpose": "everything", **members})
    return await asked(services, workspace, Asked(Identifier("id", person), question))


async def asked(services: Services, workspace: UUID, one: Asked) -> Checked:
    (answered,) = await check(services, workspace, [one], component="tests", deadline_ms=30_000)
    assert isinstance(answered, Checked)
    return answered


async def policy_of(services: Services, workspace: UUID) -> CompiledPolicy:
    found = await services.policy_in_force(workspace, wall_clock(), wall_clock())
    assert found is not None
    return found[1]


@pytest.fixture
async def ours(services: Services, workspace: UUID) -> UUID:
    """A workspace whose policy permits every action for one purpose and denies it for another."""
    assert isinstance(await publish(services, workspace, POLICY), Published)
    return workspace


# ---- what is logged


async def test_a_row_says_what_was_answered_to_whom_and_on_what_ground(services: Services, ours: UUID) -> None:
    checked = await ask(services, ours, action=Action.SEND, channel=Channel.EMAIL, topic="weekly", jurisdiction="DE")
    await services.decisions.flush()

    (row,) = await rows_of(services, ours)
    policy = await policy_of(services, ours)
    assert row["decision_id"] == checked.decision_id
    assert milliseconds(row["evaluated_at"]) == checked.evaluated_at
    assert (row["component"], row["holder"], row["action"], row["purpose"]) == ("tests", None, "send", "everything")
    assert (row["channel"], row["topic"], row["class"], row["mode"], row["weight"]) == (
        "email",
        "weekly",
        None,
        "live",
        1,
    )
    assert (row["decision"], row["reasons"], row["policy_version"]) == ("permit", [2], 2)
    assert (row["policy_hash"], row["epoch"], row["log_id"], row["size"]) == (policy.hash, 1, 1, checked.size)
    assert msgspec.json.decode(row["question"]) == {"jurisdiction": "DE"}
    assert 0 < row["took_us"] < 10_000_000


@pytest.mark.parametrize("purpose", ["everything", "nothing", "unheard_of"])
async def test_every_deny_and_every_decision_on_a_complete_action_is_logged(
    services: Services, ours: UUID, purpose: str
) -> None:
    complete = {Action.AUTOMATE, Action.TRAIN, Action.SELL, Action.SHARE, Action.SEND}
    asked = [action for action in Action if purpose != "everything" or action in complete]
    answers = [await ask(services, ours, action=action, purpose=purpose, channel=Channel.EMAIL) for action in asked * 5]
    await services.decisions.flush()

    rows = await rows_of(services, ours)
    assert {row["decision_id"] for row in rows} == {answer.decision_id for answer in answers}
    assert {row["weight"] for row in rows} == {1}
    assert len(rows) == 5 * len(asked) > 20


async def test_the_weights_of_sampled_permits_add_up_to_their_number(services: Services, ours: UUID) -> None:
    answers = [answer for _ in range(60) for answer in await asyncio.gather(*(ask(services, ours) for _ in range(25)))]
    await services.decisions.flush()

    rows = [row for row in await rows_of(services, ours) if row["decision"] == "permit"]
    permits = {answer.decision_id for answer in answers if isinstance(answer.decision, Permit)}
    assert len(permits) > 1000  # on a machine that is very busy some checks are too late
    assert {row["weight"] for row in rows} == {10}
    assert {row["decision_id"] for row in rows} < permits
    assert abs(sum(row["weight"] for row in rows) - len(permits)) < 6 * (len(permits) * 9) ** 0.5  # six deviations


@pytest.mark.parametrize("every", [1, 2, 10, 1000])
def test_one_in_so_many_permits_stands_for_all(every: int) -> None:
    chance, count = random.Random(7), 200_000
    ids = [uuid7(1_764_000_000_000 + n, chance.randbytes(10)) for n in range(count)]
    weights = [weight_of(one, Action.USE, permitted=True, required=False, every=every) for one in ids]

    assert set(weights) == ({1} if every == 1 else {0, every})
    assert abs(sum(weights) - count) <= 5 * (count * (every - 1)) ** 0.5


def test_what_a_caller_asks_decides_nothing_of_the_sample_but_its_action() -> None:
    for one in (uuid4() for _ in range(1000)):
        sampled = {weight_of(one, action, permitted=True, required=False, every=10) for action in (Action.USE, Action.PROFILE, Action.COLLECT, Action.RETAIN)}  # fmt: skip
        assert len(sampled) == 1
        assert weight_of(one, Action.USE, permitted=False, required=False, every=10) == 1
        assert weight_of(one, Action.USE, permitted=True, required=True, every=10) == 1


async def test_a_decision_of_the_system_is_logged_where_the_workspace_is_known(services: Services, ours: UUID) -> None:
    question = Question(action=Action.USE, purpose="everything")
    who = Identifier("id", "nobody")
    checked = await asked(services, ours, Asked(who, question, Consistency("at_least", 1, 1000)))
    await services.decisions.flush()

    (row,) = await rows_of(services, ours)
    assert (row["decision"], row["reasons"], row["decision_id"]) == ("deny", [11], checked.decision_id)


# ---- nothing of a person


def test_every_member_of_a_question_is_known_to_hold_no_free_text_or_is_masked(services: Services) -> None:
    closed = {"action", "channel", "message_class", "jurisdiction", "every_reason"}
    made_here = {"address"}  # of the type of an identifier and whether it is verified
    masked_ones = {"purpose", "topic", "supported_obligations", "data_categories", "recipient", "region"}

    assert set(Question.__struct_fields__) == closed | made_here | masked_ones, (
        "decide of the new member what of it may be logged"
    )


@pytest.mark.parametrize("word", ["ana.example.org", "4915112345678", "cus_canary"])
async def test_a_key_that_no_policy_has_is_not_logged(services: Services, ours: UUID, word: str) -> None:
    asked = {"action": Action.SEND, "channel": Channel.EMAIL}
    await ask(
        services,
        ours,
        word,
        **asked,
        purpose=word,
        topic=word,
        supported_obligations=frozenset((word, "include_unsubscribe")),
    )
    await ask(services, ours, word, **asked, topic=word, supported_obligations=frozenset((word,)))
    await services.decisions.flush()

    rows = await rows_of(services, ours)
    assert [(row["purpose"], row["topic"]) for row in rows] == [(UNKNOWN, UNKNOWN), ("everything", UNKNOWN)]
    assert word not in str(rows)
    assert word.encode().hex() not in str([{name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()} for row in rows])  # fmt: skip


async def test_a_logged_question_is_answered_as_the_question_itself(services: Services, ours: UUID) -> None:
    members: dict[str, list[Any]] = {
        "purpose": ["everything", "nothing", "unheard_of", ""],
        "action": [Action.SEND, Action.USE],
        "channel": [None, Channel.EMAIL, Channel.SMS],
        "topic": [None, "weekly", "unheard_of"],
        "supported_obligations": [None, frozenset(), frozenset(("include_unsubscribe", "x"))],
        "every_reason": [False, True],
    }
    policy, at, seen = await policy_of(services, ours), wall_clock(), set()
    for values in itertools.product(*members.values()):
        question = Question(**dict(zip(members, values, strict=True)))
        kept = masked(question, policy)
        columns = {name: getattr(kept, name) for name in ("action", "purpose", "channel", "topic", "message_class")}
        again = question_of(row_at(now(), **columns, question=document_of(kept)))
        answers = [outcome_of(evaluate(policy, EMPTY, one, at)) for one in (question, again)]
        assert answers[0] == answers[1]
        seen |= set(answers[0].reasons)

    assert {2, 20, 22, 29, 50} <= seen


async def test_the_hash_of_a_request_tells_nobody_that_two_were_of_one_person(services: Services, ours: UUID) -> None:
    for _ in range(2):
        await ask(services, ours, "anna", purpose="nothing")
    await services.decisions.flush()

    rows = await rows_of(services, ours)
    assert len({row["request_hash"] for row in rows}) == 2


# ---- nothing is lost silently


class Cable:
    """The way to the database, which a test plugs in and out: a socket's other name."""

    def __init__(self, server: Embedded, folder: Path) -> None:
        address = server.url("volenti_app")
        (self._directory,) = parse_qs(urlsplit(address).query)["host"]
        self._plug = folder / ".s.PGSQL.5432"
        self.address = address.replace(quote(self._directory), quote(str(folder)))

    def plug_in(self) -> None:
        self._plug.symlink_to(f"{self._directory}/.s.PGSQL.5432")

    def pull(self) -> None:
        self._plug.unlink()


@pytest.fixture
def cable(server: Embedded) -> Iterator[Cable]:
    with tempfile.TemporaryDirectory(prefix="cable-") as folder:  # a socket's path is short
        yield Cable(server, Path(folder))


@pytest.fixture
async def adrift(cable: Cable) -> AsyncIterator[DecisionLog]:
    """A decision log whose database is away until the cable is plugged in."""
    database = Database(lambda role: cable.address)
    log = DecisionLog(database, os.urandom)
    yield log
    await log.close()
    await database.close()


async def test_rows_wait_while_the_database_is_away_and_arrive_when_it_is_back(
    services: Services, ours: UUID, adrift: DecisionLog, cable: Cable
) -> None:
    rows = [row_at(now()) for _ in range(1200)]
    assert all(adrift.record(ours, row) for row in rows)
    await asyncio.sleep(2 * log_decisions.FLUSH_SECONDS)
    assert await rows_of(services, ours) == []

    cable.plug_in()
    await written(services, ours, len(rows))
    cable.pull()
    await (await adrift._database.pool("volenti_app")).expire_connections()
    rows += [row_at(now()) for _ in range(1200)]
    assert all(adrift.record(ours, row) for row in rows[1200:])
    await asyncio.sleep(2 * log_decisions.FLUSH_SECONDS)
    assert len(await rows_of(services, ours)) == 1200
    cable.plug_in()
    await written(services, ours, len(rows))
    assert {row["decision_id"] for row in await rows_of(services, ours)} == {row.decision_id for row in rows}
    assert await gaps_of(services, ours) == []


async def test_what_finds_no_room_becomes_a_gap_with_its_number_as_soon_as_writing_works(
    services: Services, ours: UUID, adrift: DecisionLog, cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_decisions, "QUEUE_ROWS", 40)
    other = await create(services, f"gap-{uuid4().hex[:12]}")
    begin = now()
    rows = [row_at(begin + timedelta(milliseconds=n)) for n in range(100)]
    taken = [adrift.record(ours if n % 3 else other, row) for n, row in enumerate(rows)]
    assert taken == [True] * 40 + [False] * 60

    cable.plug_in()
    await adrift.flush()
    assert len(await rows_of(services, ours)) + len(await rows_of(services, other)) == 40
    (gap,), (theirs,) = await gaps_of(services, ours), await gaps_of(services, other)
    assert (gap.number, theirs.number) == (40, 20)
    assert (gap.from_at, gap.to_at) == (rows[40].evaluated_at, rows[98].evaluated_at)
    assert adrift.record(ours, row_at(now()))


async def test_a_gap_is_told_although_rows_never_stop_coming(
    services: Services, ours: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_decisions, "QUEUE_ROWS", 50)
    log = services.decisions
    stop = asyncio.Event()

    async def pour() -> None:
        while not stop.is_set():
            for _ in range(100):
                log.record(ours, row_at(now()))
            await asyncio.sleep(0)

    pouring = asyncio.create_task(pour())
    async with asyncio.timeout(10):
        for _ in itertools.count():
            if await gaps_of(services, ours):
                break
            await asyncio.sleep(0.05)
    stop.set()
    await pouring


async def test_a_purpose_that_demands_its_log_is_denied_when_there_is_no_room(
    services: Services, ours: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    demanding = f"  demanding: {{class: service, actions: {ACTIONS}, basis: {{default: contract}}, channels: [email], log_guarantee: required}}\n"
    assert isinstance(
        await publish(services, ours, POLICY.replace("purposes:\n", f"purposes:\n{demanding}", 1)), Published
    )
    assert isinstance((await ask(services, ours, purpose="demanding")).decision, Permit)

    monkeypatch.setattr(log_decisions, "QUEUE_ROWS", 0)
    assert isinstance((await ask(services, ours, purpose="everything", action=Action.SELL)).decision, Permit)
    refused = await ask(services, ours, purpose="demanding")
    assert isinstance(refused.decision, Deny)
    assert [given.reason.code for given in refused.decision.reasons] == ["system.evaluation_error"]
    assert not refused.decision.determinate
    monkeypatch.undo()
    assert isinstance((await ask(services, ours, purpose="demanding")).decision, Permit)
    await services.decisions.flush()
    assert [gap.number for gap in await gaps_of(services, ours)] == [2]
    assert Counter(row["weight"] for row in await rows_of(services, ours)) == {1: 2}  # sampled it is not


async def test_connections_cut_in_flight_lose_and_double_nothing(
    services: Services, ours: UUID, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_decisions, "RETRY_SECONDS", 0.02)
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'volenti_app' AND state <> 'idle'"
    rows = [row_at(now()) for _ in range(8000)]
    for row in rows:
        assert services.decisions.record(ours, row)
    killed = 0
    async with asyncio.timeout(60):
        while services.decisions._task is not None:
            killed += len(await superuser.fetch(kill)) if killed < 15 else 0
            await asyncio.sleep(0.005)

    assert killed > 3
    assert sorted(row["decision_id"] for row in await rows_of(services, ours)) == sorted(r.decision_id for r in rows)
    assert await gaps_of(services, ours) == []


async def test_a_row_that_cannot_be_stored_is_a_gap_and_holds_up_no_other(services: Services, ours: UUID) -> None:
    other = await create(services, f"bad-{uuid4().hex[:12]}")
    services.decisions.record(other, row_at(now(), component="a NUL: \0"))
    services.decisions.record(ours, row_at(now()))
    await services.decisions.flush()

    assert len(await rows_of(services, ours)) == 1
    assert await rows_of(services, other) == []
    assert [gap.number for gap in await gaps_of(services, other)] == [1]


async def test_a_bad_row_is_the_only_one_of_its_workspace_that_is_missing(services: Services, ours: UUID) -> None:
    for component in ("before", "a NUL: \0", "behind"):
        services.decisions.record(ours, row_at(now(), component=component))
    await services.decisions.flush()

    assert {row["component"] for row in await rows_of(services, ours)} == {"before", "behind"}
    assert [gap.number for gap in await gaps_of(services, ours)] == [1]


@pytest.mark.parametrize("refusal", ["SET TRANSACTION READ ONLY", "SET LOCAL ROLE volenti_signer"])
async def test_rows_and_gaps_wait_while_the_database_takes_none_of_them(
    services: Services, ours: UUID, monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    """As in the second of a failover, or while its rights are not made yet: no row is to blame, and none is given up."""

    def refusing(real: Any) -> Any:
        async def write(connection: Any, *given: Any) -> None:
            await connection.execute(refusal)
            await real(connection, *given)

        return write

    monkeypatch.setattr(decision_log, "insert", refusing(decision_log.insert))
    monkeypatch.setattr(decision_log, "insert_gap", refusing(decision_log.insert_gap))
    rows = [row_at(now()) for _ in range(20)]
    for row in rows:
        services.decisions.record(ours, row)
    with pytest.raises(Unavailable):
        await services.decisions.flush()
    services.decisions._gaps.append((ours, Gap(uuid4(), now(), now(), 7)))
    with pytest.raises(Unavailable):
        await services.decisions._tell_gaps()
    monkeypatch.undo()
    await services.decisions.flush()

    assert {row["decision_id"] for row in await rows_of(services, ours)} == {row.decision_id for row in rows}
    assert [gap.number for gap in await gaps_of(services, ours)] == [7]


async def test_a_service_that_stops_writes_what_waits(
    server: Embedded, settings: Settings, services: Services, ours: UUID
) -> None:
    async with opened(settings, server.url) as stopping:
        for _ in range(300):
            assert stopping.decisions.record(ours, row_at(now()))

    assert len(await rows_of(services, ours)) == 300


async def test_a_service_that_stops_without_a_database_does_not_wait_for_it(
    services: Services, ours: UUID, adrift: DecisionLog
) -> None:
    adrift.record(ours, row_at(now()))
    async with asyncio.timeout(log_decisions.DRAIN_SECONDS + 2):
        await adrift.close()
    assert not adrift.record(ours, row_at(now()))


async def test_a_check_never_waits_for_its_row(services: Services, ours: UUID, superuser: Any) -> None:
    """While somebody holds the table, checks are answered; their rows come when it is free."""
    async with superuser.transaction():
        await superuser.execute("LOCK decision_log IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(5):
            answers = [await ask(services, ours, purpose="nothing") for _ in range(20)]
            await asyncio.sleep(2 * log_decisions.FLUSH_SECONDS)
            answers += [await ask(services, ours, purpose="nothing") for _ in range(20)]
    await written(services, ours, len(answers))


# ---- days


async def test_midnight_divides_the_days_and_loses_nothing(services: Services, ours: UUID, superuser: Any) -> None:
    midnight = datetime(2031, 5, 4, tzinfo=UTC)  # a day that nobody has made
    times = [midnight + timedelta(milliseconds=n) for n in (-86_400_000, -1, 0, 1, 86_399_999, 86_400_000)]
    for at in times:
        services.decisions.record(ours, row_at(at))
    await services.decisions.flush()

    rows = await superuser.fetch("SELECT evaluated_at, tableoid::regclass::text AS day FROM decision_log WHERE workspace_id = $1 ORDER BY 1", ours)  # fmt: skip
    days = ["20310503", "20310503", "20310504", "20310504", "20310504", "20310505"]
    assert [tuple(row) for row in rows] == [
        (at, f"volenti_decisions.d{day}") for at, day in zip(times, days, strict=True)
    ]


async def test_a_day_that_vanishes_under_a_running_service_is_made_again(
    services: Services, ours: UUID, superuser: Any
) -> None:
    at = datetime(2032, 1, 1, tzinfo=UTC)
    services.decisions.record(ours, row_at(at))
    await services.decisions.flush()
    await superuser.execute("DROP TABLE volenti_decisions.d20320101")
    services.decisions.record(ours, row_at(at))
    await services.decisions.flush()

    assert len(await rows_of(services, ours)) == 1
    assert await gaps_of(services, ours) == []


async def test_of_many_processes_that_make_a_day_at_once_one_does_and_all_succeed(services: Services) -> None:
    days = [date(2033, 1, 1) + timedelta(days=n) for n in range(5)]

    async def make() -> int:
        connection = await services.database.connect("volenti_app")
        try:
            return await decision_log.prepare(connection, days)
        finally:
            await connection.close()

    assert sum(await asyncio.gather(*(make() for _ in range(6)))) == len(days)
    assert await make() == 0


async def test_retention_drops_whole_days_and_old_gaps_and_makes_the_next_days(
    services: Services, ours: UUID, superuser: Any
) -> None:
    short = replace(services, settings=msgspec.structs.replace(services.settings, decision_log_days=3))
    begin = now().replace(hour=0, minute=0, second=0, microsecond=0)
    tables = [f"volenti_decisions.d{begin + timedelta(days=ahead):%Y%m%d}" for ahead in range(-4, 9)]
    for table in tables:  # a test before this one may have made days by a clock of its own
        await superuser.execute(f"DROP TABLE IF EXISTS {table}")
    kept = [row_at(begin - timedelta(days=3)), row_at(begin)]
    gone = [row_at(begin - timedelta(days=3, milliseconds=1)), row_at(begin - timedelta(days=9))]
    for row in (*kept, *gone):
        services.decisions.record(ours, row)
    services.decisions._miss(ours, begin - timedelta(days=4))
    await services.decisions.flush()
    services.decisions._miss(ours, begin)
    await services.decisions.flush()
    await prune(short)

    assert [row["decision_id"] for row in await rows_of(services, ours)] == [row.decision_id for row in kept]
    assert [gap.from_at for gap in await gaps_of(services, ours)] == [begin]
    made = [await superuser.fetchval("SELECT to_regclass($1) IS NOT NULL", table) for table in tables]
    assert made == [False, True, False, False, *[True] * 8, False]


async def test_nobody_can_make_the_log_forget_today(server: Embedded) -> None:
    connection = await asyncpg.connect(server.url("volenti_eraser"), server_settings={"search_path": "volenti"})
    try:
        for days in (0, -1, None):
            with pytest.raises(asyncpg.InvalidParameterValueError):
                await connection.fetchval("SELECT decision_log_drop($1)", days)
    finally:
        await connection.close()


async def test_what_is_sent_twice_stands_once_and_is_no_gap(services: Services, ours: UUID) -> None:
    """After a lost connection nobody knows what was committed, so it is sent again."""
    rows = [row_at(now()) for _ in range(3)]
    gap = Gap(uuid4(), now(), now(), 7)
    for sent in (rows[:2], rows):
        for row in sent:
            services.decisions.record(ours, row)
        services.decisions._gaps.append((ours, gap))
        await services.decisions.flush()

    assert sorted(row["decision_id"] for row in await rows_of(services, ours)) == sorted(
        row.decision_id for row in rows
    )
    assert [one.number for one in await gaps_of(services, ours)] == [7]


def test_a_setting_of_no_days_or_no_sample_is_refused() -> None:
    from volenti.settings import load

    for name in ("decision_log_days", "decision_sample"):
        with pytest.raises(Invalid, match=name):
            load({}, **{name: 0})
