"""/v1/data-subjects: what is in force, the history that led there, and the facts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import pytest

from conftest import Api
from volenti.flows.clock import rfc3339, wall_clock
from volenti.flows.read_data_subject import standing

DAY = 86_400_000


async def patch(api: Api, person: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    return await api.request("PATCH", f"/v1/data-subjects/{person}", body, **headers)


async def shown(api: Api, person: str) -> dict[str, Any]:
    answer = await api.get(f"/v1/data-subjects/{person}")
    assert answer.status_code == 200, answer.text
    person_shown: dict[str, Any] = answer.json()
    return person_shown


async def history(api: Api, person: str, query: str = "") -> dict[str, Any]:
    page: dict[str, Any] = (await api.get(f"/v1/data-subjects/{person}/history{query}")).json()
    return page


def is_problem(answer: httpx.Response, status: int, kind: str, pointer: str | None = None) -> None:
    assert answer.status_code == status, answer.text
    assert answer.json()["type"] == f"urn:volenti:problem:{kind}"
    if pointer is not None:
        assert answer.json()["errors"][0]["pointer"] == f"#{pointer}"


async def test_what_is_in_force_names_the_entry_that_decided_it(api: Api) -> None:
    granted = (await api.choose("cus_1", "grant", channels=["email"])).json()["entries"][-1]["entry"]
    withdrawn = (await api.choose("cus_1", "withdraw", channels=["sms"])).json()["entries"][-1]["entry"]
    denied = (await api.choose("cus_1", "deny", "analytics")).json()["entries"][-1]["entry"]
    consents = (await shown(api, "cus_1"))["consents"]
    assert [(one["purpose"], one["channel"], one["state"], one["entry"]) for one in consents] == [
        ("analytics", "*", "denied", denied),
        ("newsletter", "email", "granted", granted),
        ("newsletter", "sms", "withdrawn", withdrawn),
    ]
    grant = consents[1]
    assert (grant["notice"], grant["evidence_grade"]) == ("newsletter@1", "E1")


async def test_an_answer_carries_a_revision_that_a_check_obeys(api: Api) -> None:
    await api.choose("cus_1", "grant")
    revision = (await shown(api, "cus_1"))["revision"]
    assert (await api.check("cus_1", consistency={"mode": "at_least", "revision": revision}))["decision"] == "permit"


async def test_the_history_says_of_every_entry_whether_it_holds_and_what_stands_against_it(api: Api) -> None:
    await api.choose("cus_1", "grant")
    withdrawn = (await api.choose("cus_1", "withdraw")).json()["entries"][-1]["entry"]
    entries = (await history(api, "cus_1"))["data"]
    assert [(one["kind"], one["effect"]) for one in entries] == [
        ("data_subject.updated", "in_force"),
        ("consent.granted", "none"),
        ("consent.withdrawn", "in_force"),
    ]
    assert entries[1]["why"] == f"superseded_by:{withdrawn}"
    assert [one["index"] for one in entries] == sorted(one["index"] for one in entries)
    assert {one["component"] for one in entries} == {"tests"}
    assert entries[1]["detail"]["evidence_grade"] == "E1"


async def test_the_history_says_instants_as_every_answer_does(api: Api) -> None:
    act = {"method": "email_link", "at": "2026-07-01T00:00:00.000Z"}
    guardian = {
        "id": "cus_2",
        "method": "id_check",
        "since": "2026-07-02T00:00:00.000Z",
        "until": "2026-08-02T00:00:00.000Z",
    }
    relation = {"type": "purchase", "at": "2026-07-03T00:00:00.000Z"}
    address = {"type": "email", "value": "ana@example.org", "verified_at": "2026-07-04T00:00:00.000Z"}
    await api.choose("cus_1", "grant", body_evidence={"confirmation": act}, valid_until="2027-01-01T00:00:00.000Z")
    await patch(api, "cus_1", {"guardian": guardian, "relations": [relation], "identifiers": {"add": [address]}})
    _, grant, facts = [one["detail"] for one in (await history(api, "cus_1"))["data"]]
    assert grant["evidence"]["confirmation"] == act
    assert grant["valid_until"] == "2027-01-01T00:00:00.000Z"
    assert (facts["guardian"], facts["relations"], facts["added"]) == (guardian, [relation], [address])


async def test_the_pages_of_a_history_hold_each_entry_once(api: Api) -> None:
    for number in range(7):
        await api.choose("cus_1", "deny", "analytics" if number % 2 else "advertising")
    whole = await history(api, "cus_1")
    assert (len(whole["data"]), whole["next_cursor"]) == (8, None)
    paged: list[Any] = []
    cursor = ""
    while True:
        page = await history(api, "cus_1", f"?limit=3{cursor}")
        assert len(page["data"]) <= 3
        paged += page["data"]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert paged == whole["data"]


async def test_a_person_whom_nobody_knows_is_404_for_reads_and_facts(api: Api) -> None:
    for answer in (
        await api.get("/v1/data-subjects/cus_none"),
        await api.get("/v1/data-subjects/cus_none/history"),
        await patch(api, "cus_none", {"locale": "de"}),
    ):
        is_problem(answer, 404, "not_found")


async def test_a_lookup_finds_a_person_by_an_identifier_however_it_is_written(api: Api) -> None:
    identifiers = [{"type": "email", "value": "Ana@Example.org"}, {"type": "phone", "value": "+49 151 12345678"}, {"type": "external", "value": "crm-7"}]  # fmt: skip
    await api.choose("cus_1", "withdraw", body_data_subject={"id": "cus_1", "identifiers": identifiers})
    for kind, value in (("email", "ANA@example.ORG"), ("phone", "+4915112345678"), ("external", "crm-7")):
        answer = await api.post("/v1/data-subjects/lookup", {"identifier": {"type": kind, "value": value}})
        assert answer.json() == {"id": "cus_1"}
    for kind, value in (("external", "CRM-7"), ("device", "crm-7"), ("email", "ben@example.org")):
        answer = await api.post("/v1/data-subjects/lookup", {"identifier": {"type": kind, "value": value}})
        is_problem(answer, 404, "not_found")


async def test_facts_change_once_and_null_clears(api: Api) -> None:
    await api.choose("cus_1", "withdraw")
    facts = {"jurisdiction": "US-CA", "time_zone": "America/Los_Angeles", "locale": "en"}
    first, again = [await patch(api, "cus_1", facts) for _ in range(2)]
    assert [entry["kind"] for entry in first.json()["entries"]] == ["data_subject.updated"]
    assert (again.status_code, again.json()["entries"]) == (200, [])
    cleared = await patch(api, "cus_1", {"jurisdiction": None})
    assert cleared.status_code == 200
    person = await shown(api, "cus_1")
    assert (person["jurisdiction"], person["time_zone"], person["locale"]) == (None, "America/Los_Angeles", "en")


async def test_a_persons_jurisdiction_decides_the_basis(api: Api) -> None:
    await api.choose("cus_1", "deny", "analytics")
    question: dict[str, Any] = {"purpose": "advertising", "action": "sell", "channel": None}
    assert (await api.check("cus_1", **question))["reason"] == "consent.missing"
    await patch(api, "cus_1", {"jurisdiction": "US"})
    assert (await api.check("cus_1", **question))["reason"] == "basis.opt_out_regime"
    stricter = await api.check("cus_1", **question, jurisdiction="DE")
    assert stricter["reason"] == "consent.missing"


async def test_an_identifier_is_added_verified_and_removed(api: Api) -> None:
    await api.choose("cus_1", "withdraw")
    address = {"type": "email", "value": "ana@example.org"}
    verified_at = rfc3339(wall_clock() - 1000)
    assert (await patch(api, "cus_1", {"identifiers": {"add": [address]}})).status_code == 200
    assert (await patch(api, "cus_1", {"identifiers": {"add": [{**address, "verified_at": verified_at}]}})).status_code == 200  # fmt: skip
    assert (await shown(api, "cus_1"))["identifiers"][-1] == {**address, "verified_at": verified_at}
    assert (await patch(api, "cus_1", {"identifiers": {"remove": [address]}})).status_code == 200
    assert [one["type"] for one in (await shown(api, "cus_1"))["identifiers"]] == ["id"]
    is_problem(await api.post("/v1/data-subjects/lookup", {"identifier": address}), 404, "not_found")
    other = await api.choose("cus_2", "grant", body_data_subject={"id": "cus_2", "identifiers": [address]})
    assert other.status_code == 201


async def test_an_identifier_of_somebody_else_cannot_be_added(api: Api) -> None:
    address = {"type": "email", "value": "ana@example.org"}
    await api.choose("cus_1", "withdraw", body_data_subject={"id": "cus_1", "identifiers": [address]})
    await api.choose("cus_2", "withdraw")
    added = [{"type": "external", "value": "x"}, address]
    answer = await patch(api, "cus_2", {"identifiers": {"add": added}})
    is_problem(answer, 409, "identifier_taken", "/identifiers/add/1")
    assert [one["type"] for one in (await shown(api, "cus_2"))["identifiers"]] == ["id"]


async def test_a_repeated_key_is_answered_as_the_first_time(api: Api) -> None:
    await api.choose("cus_1", "withdraw")
    first = await patch(api, "cus_1", {"locale": "de"}, idempotency_key="k-1")
    await patch(api, "cus_1", {"locale": "fr"})
    again = await patch(api, "cus_1", {"locale": "de"}, idempotency_key="k-1")
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    assert (await shown(api, "cus_1"))["locale"] == "fr"


async def test_a_fact_that_is_not_implemented_is_refused(api: Api) -> None:
    await api.choose("cus_1", "withdraw")
    answer = await patch(api, "cus_1", {"push_permission": "granted"})
    is_problem(answer, 422, "not_implemented", "/push_permission")


@pytest.mark.parametrize(
    "person", ["a b", "é", "日本", "a%b", "a?b", "a#b", "..", "lookup2", "%2e", "a:b@c", "a" * 128]
)
async def test_any_id_without_a_slash_names_its_person(api: Api, person: str) -> None:
    assert (await api.choose(person, "withdraw")).status_code == 201
    path = "".join(f"%{byte:02X}" for byte in person.encode())
    assert (await shown(api, path))["id"] == person


async def test_a_grant_says_when_it_ends_and_is_expired_from_then_on(api: Api) -> None:
    """By its own end here, for the one; by the law of an unknown place, a year, for the other."""
    end = wall_clock() + 3 * DAY
    await api.choose("cus_1", "grant", valid_until=rfc3339(end))
    await api.choose("cus_1", "grant", "analytics")
    own, lawful = sorted((await shown(api, "cus_1"))["consents"], key=lambda one: one["purpose"] != "newsletter")
    assert (own["state"], own["valid_until"], lawful["state"]) == ("granted", rfc3339(end), "granted")
    assert rfc3339(end) < lawful["valid_until"] <= rfc3339(wall_clock() + 366 * DAY)

    for moment, states in ((end - 1, ("granted", "granted")), (end, ("granted", "expired")), (end + 400 * DAY, ("expired", "expired"))):  # fmt: skip
        _, _, consents = await standing(replace(api.services, clock=partial(int, moment)), api.workspace, "cus_1")
        assert tuple(one.state for one in consents) == states
