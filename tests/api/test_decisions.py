"""What was decided can be read afterwards, and made again: with the same reason, whatever has changed since."""

from __future__ import annotations

import os
import random
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from conftest import Api
from policies import publish, starter
from volenti.core.policy.starter import starter_policy
from volenti.flows.clock import instant, uuid7, wall_clock
from volenti.flows.record_consents import parse_revision_token, revision_token
from volenti.store import decision_log, policies
from volenti.store.decision_log import Gap

SUBJECT = {"id": "cus_1", "identifiers": [{"type": "email", "value": "ana@example.org"}]}


async def flushed(api: Api) -> None:
    await api.services.decisions.flush()


async def decision(api: Api, answer: dict[str, Any], suffix: str = "") -> dict[str, Any]:
    """What is logged of an answer."""
    found = await api.get(f"/v1/decisions/{answer['decision_id']}{suffix}")
    assert found.status_code == 200, found.text
    logged: dict[str, Any] = found.json()
    return logged


async def listed(api: Api, person: str, query: str = "") -> dict[str, Any]:
    found = await api.get(f"/v1/data-subjects/{person}/decisions{query}")
    assert found.status_code == 200, found.text
    page: dict[str, Any] = found.json()
    return page


async def test_a_logged_decision_is_what_was_answered(api: Api) -> None:
    await api.choose("cus_1", "grant", body_data_subject=SUBJECT)
    answers = [
        await api.check("cus_1"),
        await api.check("cus_1", channel="sms", detail="all", jurisdiction="DE", topic="weekly"),
        await api.check("cus_nobody"),
        await api.check("cus_1", data_subject={"identifier": {"type": "email", "value": "ana@example.org"}}),
    ]
    await flushed(api)
    for answer, person in zip(answers, ("cus_1", "cus_1", None, "cus_1"), strict=True):
        logged = await decision(api, answer)
        for member in ("decision", "reason", "policy", "revision", "evaluated_at", "staleness_ms", "decision_id"):
            assert logged[member] == answer[member], member
        assert logged["reasons"] == [reason["code"] for reason in answer["reasons"]]
        assert logged["evidence"] == [evidence["entry"] for evidence in answer["evidence"]]
        assert logged["data_subject"] == {"id": person, "known": person is not None}
        assert (logged["component"], logged["mode"], logged["weight"]) == ("tests", "live", 1)
    assert (await decision(api, answers[1]))["question"] == {"every_reason": True, "jurisdiction": "DE"}


# ---- made again


async def test_a_decision_is_made_again_although_person_and_policy_have_changed(api: Api) -> None:
    await api.choose("cus_1", "grant")
    permitted = await api.check("cus_1")
    await api.choose("cus_1", "withdraw")
    document = starter_policy("Tests").replace("  newsletter:\n    version: 1", "  newsletter:\n    version: 2", 1)
    assert (await api.post("/v1/policies", {"document": document})).status_code == 201
    denied = await api.check("cus_1")
    await flushed(api)

    first, second = [await decision(api, answer, "/explain") for answer in (permitted, denied)]
    assert (first["reproduced"], first["replayed"]["reason"]) == (True, "consent.granted")
    assert first["replayed"]["evidence"] == [permitted["evidence"][0]["entry"]]
    assert (first["logged"]["policy"]["version"], second["logged"]["policy"]["version"]) == (1, 2)
    assert (second["reproduced"], second["replayed"]["reason"]) == (True, "consent.withdrawn")
    assert first["why"] is second["why"] is None


async def test_a_decision_made_while_a_policy_was_being_published_is_made_again_by_the_version_that_made_it(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publication is in force from an instant that lies before its commit: until then checks use the version before."""
    answers = []
    store = policies.activate

    async def slowly(*given: Any, **members: Any) -> policies.Activation:
        activation = await store(*given, **members)
        answers.append(await api.check("cus_1", "order_updates"))
        return activation

    monkeypatch.setattr(policies, "activate", slowly)
    await publish(api, starter(order_updates={"basis": {"default": "consent"}, "notice": "newsletter"}))
    answers.append(await api.check("cus_1", "order_updates"))
    await flushed(api)

    explained = [await decision(api, answer, "/explain") for answer in answers]
    assert [one["logged"]["policy"]["version"] for one in explained] == [1, 2]
    assert [one["replayed"]["reason"] for one in explained] == ["basis.contract", "consent.missing"]
    assert [one["reproduced"] for one in explained] == [True, True]


async def test_a_decision_by_a_policy_version_that_is_not_the_published_one_is_not_explained(
    api: Api, superuser: Any
) -> None:
    answer = await api.check("cus_1")
    await flushed(api)
    for altered in ("policy_version = 7", "policy_version = 1, policy_hash = sha256('another')"):
        await superuser.execute(f"UPDATE decision_log SET {altered} WHERE workspace_id = $1", api.workspace)
        refused = await api.get(f"/v1/decisions/{answer['decision_id']}/explain")
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:volenti:problem:ledger_damaged")


CHANNELS, PURPOSES = ("email", "sms", "push", "post"), ("newsletter", "advertising", "analytics", "order_updates", "x")


class Life:
    """What people, components and the publisher of policies do, at random."""

    def __init__(self, api: Api, seed: int) -> None:
        self.api, self.dice, self.version = api, random.Random(seed), 1
        self.people = [f"cus_{seed}_{n}" for n in range(3)]

    async def step(self) -> dict[str, Any] | None:
        """Do something; returns the answer if it was a question."""
        dice, person = self.dice, self.dice.choice(self.people)
        match dice.choices(("choose", "facts", "publish", "check"), (4, 1, 0.4, 6))[0]:
            case "choose":
                purpose = dice.choice(PURPOSES[:3])
                kind = dice.choice(("grant", "grant", "deny", "withdraw", "object"))
                channels = dice.sample(CHANNELS[:3], dice.randint(0, 2)) if purpose == "newsletter" else []
                at = instant(wall_clock() - dice.randint(0, 90) * 86_400_000).isoformat()
                offer = await self._offer(purpose) if kind == "grant" and dice.random() < 0.3 else {}
                await self.api.choose(person, kind, purpose, channels=channels, **offer or {"occurred_at": at})
            case "facts":
                facts = {"jurisdiction": dice.choice(("DE", "US-CA", "US", None)), "actor": {"type": "operator"}}
                await self.api.request("PATCH", f"/v1/data-subjects/{person}", facts)
            case "publish":
                await self._publish()
            case _:
                return await self._ask(person)
        return None

    async def _offer(self, purpose: str) -> dict[str, Any]:
        body = {"purposes": [purpose], "surface": "https://shop.example/", "language": "en"}
        return {"body_evidence": {"offer": (await self.api.post("/v1/offers", body)).json()["offer"]}}

    async def _publish(self) -> None:
        self.version += self.dice.random() < 0.5
        basis = self.dice.choice(("consent", "legitimate_interest", "opt_out"))
        document = starter_policy(f"Number {self.dice.random()}")
        document = document.replace("  newsletter:\n    version: 1", f"  newsletter:\n    version: {self.version}", 1)
        document = document.replace("US: opt_out", f"US: {basis}", 1)
        assert (await self.api.post("/v1/policies", {"document": document})).status_code == 201

    async def _ask(self, person: str) -> dict[str, Any]:
        dice, purpose = self.dice, self.dice.choice(PURPOSES)
        action = {"newsletter": "send", "order_updates": "send", "advertising": "share", "analytics": "use"}
        members: dict[str, Any] = {
            "detail": dice.choice(("primary", "all")),
            "jurisdiction": dice.choice((None, "DE", "US-CA", "JP")),
            "topic": dice.choice((None, None, "weekly", "unheard_of")),
            "supported_obligations": dice.choice((None, [], ["include_unsubscribe"], ["unheard_of"])),
        }
        channel = dice.choice(CHANNELS)
        return await self.api.check(person, purpose, action.get(purpose, "sell"), channel, **members)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happened_every_decision_is_made_again_with_its_reasons(api: Api, seed: int) -> None:
    life = Life(api, seed)
    answers = [answer for _ in range(120) if (answer := await life.step()) is not None]
    await flushed(api)

    explained = []
    for answer in answers:
        found = await api.get(f"/v1/decisions/{answer['decision_id']}/explain")
        if found.status_code == 404:
            assert (answer["decision"], answer["reason"]) == ("permit", "consent.granted")  # analytics: sampled
            continue
        explained.append((answer, found.json()))
    assert len(explained) > 35
    for answer, one in explained:
        assert one["reproduced"] is True, (answer, one)
        assert one["replayed"]["reasons"] == [reason["code"] for reason in answer["reasons"]]
        assert one["replayed"]["decision"] == answer["decision"]
    assert len({answer["reason"] for answer, _ in explained}) >= 6
    assert len({one["logged"]["policy"]["version"] for _, one in explained}) >= 2


async def test_a_row_that_was_changed_is_not_reproduced(api: Api, superuser: Any) -> None:
    """The log itself is not signed; the ledger and the policies that it names tell that it was altered."""
    await api.choose("cus_1", "withdraw")
    answer = await api.check("cus_1")
    await flushed(api)
    await superuser.execute("UPDATE decision_log SET decision = 'permit', reasons = '{1}' WHERE workspace_id = $1", api.workspace)  # fmt: skip

    explained = await decision(api, answer, "/explain")
    assert (explained["reproduced"], explained["logged"]["reason"]) == (False, "consent.granted")
    assert explained["replayed"]["reason"] == "consent.withdrawn"


async def test_a_decision_of_the_system_is_not_made_again_and_the_answer_says_so(api: Api) -> None:
    await api.choose("cus_1", "grant")
    epoch, size = parse_revision_token((await api.check("cus_1"))["revision"]) or (0, 0)
    ahead = {"mode": "at_least", "revision": revision_token(epoch, size + 5)}
    answer = await api.check("cus_1", consistency=ahead)
    assert answer["reason"] == "system.state_stale"
    await flushed(api)

    explained = await decision(api, answer, "/explain")
    assert (explained["replayed"], explained["reproduced"]) == (None, None)
    assert "no rule" in explained["why"]
    assert explained["logged"]["reason"] == "system.state_stale"


async def test_a_person_who_was_unknown_then_is_unknown_in_the_replay(api: Api) -> None:
    before = await api.check("cus_1")
    await api.choose("cus_1", "grant")
    await flushed(api)

    explained = await decision(api, before, "/explain")
    assert (explained["reproduced"], explained["replayed"]["reason"]) == (True, "consent.missing")
    assert explained["logged"]["data_subject"] == {"id": None, "known": False}


async def test_of_an_erased_person_nothing_is_made_again(api: Api, superuser: Any) -> None:
    """Erasure takes the key and the state; the statistics stay."""
    await api.choose("cus_1", "grant")
    answer = await api.check("cus_1")
    await flushed(api)
    await superuser.execute("DELETE FROM data_subject_state WHERE workspace_id = $1", api.workspace)
    await superuser.execute("DELETE FROM data_subject WHERE workspace_id = $1", api.workspace)

    refused = await api.get(f"/v1/decisions/{answer['decision_id']}/explain")
    assert (refused.status_code, refused.json()["type"]) == (410, "urn:volenti:problem:erased")
    assert (await decision(api, answer))["data_subject"] == {"id": None, "known": True}


async def test_a_revision_that_the_ledger_no_longer_reaches_is_said(api: Api, superuser: Any) -> None:
    await api.choose("cus_1", "grant")
    answer = await api.check("cus_1")
    await flushed(api)
    await superuser.execute("UPDATE decision_log SET size = size + 1000 WHERE workspace_id = $1", api.workspace)

    explained = await decision(api, answer, "/explain")
    assert (explained["reproduced"], explained["replayed"]) == (None, None)
    assert "shorter" in explained["why"]


# ---- what is not there


@pytest.mark.parametrize("name", ["dec_", "dec_x", "x", "dec_%00", "0198b1c4-0000-7000-8000-000000000000", "dec_0198b1c4-0000-7000-8000-000000000000", f"dec_{'f' * 32}", f"dec_{'f' * 33}", "dec_{0198b1c4-0000-7000-8000-000000000000"])  # fmt: skip
async def test_an_unknown_decision_is_404_and_the_sentence_names_the_possible_causes(api: Api, name: str) -> None:
    for suffix in ("", "/explain"):
        answer = await api.get(f"/v1/decisions/{name}{suffix}")
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:volenti:problem:not_found")
        assert "sampled" in answer.json()["detail"]


async def test_a_permit_that_the_sample_left_out_is_404(api: Api) -> None:
    answers = [await api.check("cus_1", "security", "use", None) for _ in range(60)]
    await flushed(api)
    found = [await api.get(f"/v1/decisions/{answer['decision_id']}") for answer in answers]
    weights = [one.json()["weight"] for one in found if one.status_code == 200]
    assert {one.status_code for one in found} <= {200, 404}
    assert [one.status_code for one in found].count(404) > 30
    assert set(weights) <= {10}


# ---- by time


async def test_a_persons_decisions_come_by_time_and_page_by_page_each_once(api: Api) -> None:
    await api.choose("cus_1", "grant", body_data_subject=SUBJECT)
    answers = [await api.check("cus_1") for _ in range(11)]
    await api.check("cus_2")
    await flushed(api)

    pages = [await listed(api, "cus_1", "?limit=4")]
    while cursor := pages[-1]["next_cursor"]:
        pages.append(await listed(api, "cus_1", f"?limit=4&cursor={cursor}"))
    assert [len(page["data"]) for page in pages] == [4, 4, 3]
    seen = [one["decision_id"] for page in pages for one in page["data"]]
    assert sorted(seen) == sorted(answer["decision_id"] for answer in answers)
    assert seen == sorted(seen)  # a UUIDv7 sorts by its time
    assert {one["data_subject"]["id"] for one in (await listed(api, "cus_1"))["data"]} == {"cus_1"}


async def test_a_persons_decisions_are_found_wherever_in_the_retention_they_lie(api: Api) -> None:
    await api.choose("cus_1", "grant")
    await api.check("cus_1")
    await flushed(api)
    async with api.services.database.workspace("volenti_app", api.workspace) as connection:
        row = decision_log._row(await connection.fetchrow(f"SELECT {decision_log._READ} FROM decision_log"))
    ages = (399, 200, 64, 32, 31, 1, 0)
    for age in ages:
        at = wall_clock() - age * 86_400_000
        older = msgspec.structs.replace(row, decision_id=uuid7(at, os.urandom(10)), evaluated_at=instant(at))
        api.services.decisions.record(api.workspace, older)
    await flushed(api)

    pages = [await listed(api, "cus_1", "?limit=3")]
    while cursor := pages[-1]["next_cursor"]:
        pages.append(await listed(api, "cus_1", f"?limit=3&cursor={cursor}"))
    assert [len(page["data"]) for page in pages] == [3, 3, 2]
    times = [one["evaluated_at"] for page in pages for one in page["data"]]
    assert times == sorted(times)


async def test_reading_locks_no_more_days_than_it_looks_at(api: Api, superuser: Any) -> None:
    """The server has a few thousand locks for everybody; a year of days has over a thousand."""
    await api.choose("cus_1", "grant")
    answer = await api.check("cus_1")
    await flushed(api)
    today = instant(wall_clock())
    async with api.services.database.connection("volenti_app") as connection:
        await decision_log.prepare(connection, [(today - timedelta(days=age)).date() for age in range(1, 60)])
    held = "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE l.pid = pg_backend_pid() AND c.relname ~ '^d2[0-9]{7}$'"
    for _ in range(8):  # more often than it takes until a generic plan is thought of
        async with api.services.database.workspace("volenti_app", api.workspace) as connection:
            await decision_log.by_id(connection, api.workspace, UUID(answer["decision_id"].removeprefix("dec_")))
            assert await connection.fetchval(held) == 1


async def test_why_did_you_write_to_me_on_that_day_is_answered_for_that_day(api: Api) -> None:
    await api.choose("cus_1", "grant")
    answers = [await api.check("cus_1") for _ in range(3)]
    await flushed(api)
    times = [datetime.fromisoformat(answer["evaluated_at"]) for answer in answers]
    middle, after = times[1].isoformat(), (times[1] + timedelta(milliseconds=1)).isoformat()

    def query(**members: str) -> str:
        return "?" + "&".join(f"{name}={value.replace('+', '%2B')}" for name, value in members.items())

    async def ids(**members: str) -> set[str]:
        return {one["decision_id"] for one in (await listed(api, "cus_1", query(**members)))["data"]}

    expected = {answer["decision_id"] for answer, at in zip(answers, times, strict=True) if at == times[1]}
    assert await ids(**{"from": middle, "to": after}) == expected
    assert await ids(**{"from": after}) | await ids(to=after) == {answer["decision_id"] for answer in answers}
    assert await ids(to="2020-01-01T00:00:00Z") == await ids(**{"from": "2099-01-01T00:00:00+02:00"}) == set()


async def test_where_rows_are_missing_the_list_says_how_many(api: Api) -> None:
    await api.choose("cus_1", "grant")
    noon = instant(wall_clock()).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=30)
    day = f"{noon:%Y-%m-%d}"
    async with api.services.database.workspace("volenti_app", api.workspace) as connection:
        await decision_log.insert_gap(connection, api.workspace, Gap(uuid4(), noon, noon + timedelta(seconds=2), 17))

    told = [{"from": f"{day}T12:00:00.000Z", "to": f"{day}T12:00:02.000Z", "number": 17}]
    assert (await listed(api, "cus_1"))["gaps"] == told
    assert (await listed(api, "cus_1", f"?from={day}T12:00:01Z&to={day}T23:59:59Z"))["gaps"] == told
    assert (await listed(api, "cus_1", f"?from={day}T13:00:00Z"))["gaps"] == []


@pytest.mark.parametrize("query", ["from=yesterday", "to=2026-05-03", "from=2026-05-03T12:00:00", "from=0001-01-01T00:00:00%2B14:00", "cursor=x", "cursor=dec_", "limit=0", "limit=1001"])  # fmt: skip
async def test_a_query_that_says_nothing_usable_is_refused(api: Api, query: str) -> None:
    await api.choose("cus_1", "grant")
    answer = await api.get(f"/v1/data-subjects/cus_1/decisions?{query}")
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:volenti:problem:invalid_query")


async def test_nobodys_decisions_are_404(api: Api) -> None:
    assert (await api.get("/v1/data-subjects/cus_nobody/decisions")).status_code == 404
