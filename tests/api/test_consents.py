"""POST /v1/consents and /v1/offers: what is acknowledged holds, once, for the right person, and can be proved."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import pytest

from conftest import Api
from volenti.api import endpoint
from volenti.core.admission import Choice, Command
from volenti.core.data_subject import Identifier
from volenti.core.ledger import note, proof
from volenti.core.policy.starter import starter_policy
from volenti.flows.clock import rfc3339, wall_clock
from volenti.flows.issue_offer import OfferIssued
from volenti.flows.issue_offer import issue as issue_offer
from volenti.flows.manage_credentials import issue
from volenti.flows.rebuild_states import rebuild
from volenti.flows.record_consents import Recorded, record
from volenti.store import ledger

MINUTE, DAY = 60_000, 86_400_000


async def size(api: Api) -> int:
    async with api.services.database.workspace("volenti_app", api.workspace) as connection:
        return (await ledger.head(connection, api.workspace)).size


def is_problem(answer: httpx.Response, status: int, kind: str, pointer: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    document: dict[str, Any] = answer.json()
    assert document["type"] == f"urn:volenti:problem:{kind}"
    if pointer is not None:
        assert document["errors"][0]["pointer"] == f"#{pointer}"
    return document


def ago(milliseconds: int) -> str:
    return rfc3339(wall_clock() - milliseconds)


def known_by(*emails: str, id: str | None = None, **facts: str) -> dict[str, Any]:  # noqa: A002 - the member's name
    subject: dict[str, Any] = {"identifiers": [{"type": "email", "value": email} for email in emails], **facts}
    return subject if id is None else {"id": id, **subject}


async def history(api: Api, person: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = (await api.get(f"/v1/data-subjects/{person}/history")).json()["data"]
    return entries


# ---- what an answer says


async def test_every_entry_of_an_answer_stands_at_its_index_with_its_hash(api: Api) -> None:
    answer = (await api.choose("cus_1", "grant", body_data_subject=known_by("ana@example.org", id="cus_1"))).json()
    assert [entry["kind"] for entry in answer["entries"]] == ["data_subject.updated", "consent.granted"]
    for entry in answer["entries"]:
        assert (entry["applied"], entry["why"]) == (True, None)
        stored = (await api.get(f"/v1/ledger/entries/{entry['index']}")).json()
        assert (stored["entry"], stored["leaf_hash"]) == (entry["entry"], entry["leaf_hash"])
        assert stored["content"]["k"] == entry["kind"]
    assert (await api.get(answer["receipt"], accept="text/plain")).status_code == 200


async def test_prefer_wait_brings_proofs_that_verify(api: Api) -> None:
    body = {
        "data_subject": {"id": "cus_1", "jurisdiction": "DE"},
        "events": [{"kind": "grant", "purpose": "newsletter", "notice": "newsletter@1"}],
        "actor": {"type": "data_subject"},
    }
    answer = await api.post("/v1/consents", body, prefer="wait=2")
    key = note.parse_vkey((await api.get("/v1/ledger/keys")).json()["data"][0]["vkey"])
    assert len(answer.json()["entries"]) == 2
    for entry in answer.json()["entries"]:
        head = proof.verify(entry["proof"], bytes.fromhex(entry["leaf_hash"]), [key])
        assert proof.parse(entry["proof"]).index == entry["index"] < head.size


async def test_without_prefer_an_answer_has_no_proof(api: Api) -> None:
    assert "proof" not in (await api.choose("cus_1", "grant")).json()["entries"][0]


async def test_a_late_choice_that_a_newer_one_overrules_is_recorded_and_says_what_overrules_it(api: Api) -> None:
    before = rfc3339(wall_clock())
    await asyncio.sleep(0.005)
    withdrawn = (await api.choose("cus_1", "withdraw")).json()["entries"][-1]["entry"]
    entry = (await api.choose("cus_1", "grant", occurred_at=before)).json()["entries"][-1]
    assert (entry["applied"], entry["why"]) == (False, f"superseded_by:{withdrawn}")
    assert (await api.check("cus_1"))["decision"] == "deny"


# ---- safe to repeat


async def test_a_repeated_key_is_answered_as_the_first_time_byte_for_byte(api: Api) -> None:
    first = await api.choose("cus_1", "grant", body_data_subject=known_by("ana@example.org", id="cus_1"))
    assert first.status_code == 201
    given = {"data_subject": {"id": "cus_1"}, "events": [{"kind": "withdraw", "purpose": "newsletter"}], "actor": {"type": "data_subject"}}  # fmt: skip
    answers = [await api.post("/v1/consents", given, idempotency_key="k-1") for _ in range(3)]
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, "true", "true"]
    assert len(await history(api, "cus_1")) == 3


async def test_a_repetition_is_the_same_after_later_changes_of_the_person(api: Api) -> None:
    given = {"data_subject": known_by("ana@example.org"), "events": [{"kind": "withdraw", "purpose": "newsletter"}], "actor": {"type": "data_subject"}}  # fmt: skip
    first = await api.post("/v1/consents", given, idempotency_key="k-1")
    await api.choose("cus_1", "deny", "analytics", body_data_subject=known_by("ana@example.org", id="cus_1"))
    before = await size(api)
    again = await api.post("/v1/consents", given, idempotency_key='"k-1"')
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    assert await size(api) == before


async def test_members_in_another_order_are_the_same_request(api: Api) -> None:
    one = b'{"data_subject": {"id": "cus_1"}, "events": [{"kind": "deny", "purpose": "analytics"}], "actor": {"type": "data_subject"}}'
    other = b'{"actor":{"type":"data_subject"},"events":[{"purpose":"analytics","kind":"deny"}],"data_subject":{"id":"cus_1"}}'
    first = await api.post("/v1/consents", one, idempotency_key="k-1")
    again = await api.post("/v1/consents", other, idempotency_key="k-1")
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")


async def test_a_key_that_stands_for_another_request_is_refused(api: Api) -> None:
    await api.choose("cus_1", "withdraw")
    first = {"data_subject": {"id": "cus_1"}, "events": [{"kind": "deny", "purpose": "analytics"}], "actor": {"type": "data_subject"}}  # fmt: skip
    other = {**first, "data_subject": {"id": "cus_2"}}
    assert (await api.post("/v1/consents", first, idempotency_key="k-1")).status_code == 201
    before = await size(api)
    is_problem(await api.post("/v1/consents", other, idempotency_key="k-1"), 422, "idempotency_key_reused")
    facts = await api.request("PATCH", "/v1/data-subjects/cus_1", {"locale": "de"}, idempotency_key="k-1")
    is_problem(facts, 422, "idempotency_key_reused")
    assert await size(api) == before


async def test_the_key_of_another_credential_is_another_key(api: Api) -> None:
    issued = await issue(api.services, api.workspace, component="other", scopes=["consents:write"])
    given = {"data_subject": {"id": "cus_1"}, "events": [{"kind": "deny", "purpose": "analytics"}], "actor": {"type": "data_subject"}}  # fmt: skip
    first = await api.post("/v1/consents", given, idempotency_key="k-1")
    other = await api.post("/v1/consents", given, idempotency_key="k-1", authorization=f"Bearer {issued.secret}")
    assert "idempotency-replayed" not in other.headers
    assert other.json()["entries"][-1]["entry"] != first.json()["entries"][-1]["entry"]


async def test_duplicates_at_the_same_moment_have_one_effect_and_one_answer(api: Api) -> None:
    given = {"data_subject": {"id": "cus_1"}, "events": [{"kind": "deny", "purpose": "analytics"}], "actor": {"type": "data_subject"}}  # fmt: skip
    before = await size(api)
    answers = await asyncio.gather(*(api.post("/v1/consents", given, idempotency_key="k-1") for _ in range(12)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert await size(api) == before + 2


async def test_a_refused_request_does_not_use_its_key_up(api: Api) -> None:
    wrong = await api.post("/v1/consents", {"data_subject": {"id": "cus_1"}, "events": [{"kind": "grant", "purpose": "newsletter"}], "actor": {"type": "data_subject"}}, idempotency_key="k-1")  # fmt: skip
    is_problem(wrong, 422, "notice_required", "/events/0/notice")
    right = await api.post("/v1/consents", {"data_subject": {"id": "cus_1"}, "events": [{"kind": "deny", "purpose": "newsletter"}], "actor": {"type": "data_subject"}}, idempotency_key="k-1")  # fmt: skip
    assert right.status_code == 201


# ---- what is refused, and that nothing of it is stored

GRANT = {"kind": "grant", "purpose": "newsletter", "notice": "newsletter@1"}
REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    ({"purpose": "nothing"}, 422, "purpose_unknown", "/events/0/purpose"),
    ({"notice": None}, 422, "notice_required", "/events/0/notice"),
    ({"notice": "newsletter@2"}, 422, "notice_unknown", "/events/0/notice"),
    ({"notice": "analytics@1"}, 422, "notice_unknown", "/events/0/notice"),
    ({"channels": ["email", "post"]}, 422, "channel_unknown", "/events/0/channels/1"),
    ({"occurred_at": "2000-01-01T00:00:00Z"}, 422, "notice_not_published_then", "/events/0/occurred_at"),
    ({"occurred_at": ago(-DAY)}, 422, "dated_ahead", "/events/0/occurred_at"),
    ({"valid_until": "2000-01-01T00:00:00Z"}, 422, "validity_invalid", "/events/0/valid_until"),
    ({"token": "abc"}, 422, "invalid_value", "/events/0/token"),
    ({"supersedes": "0198b1c4-0000-7000-8000-000000000000"}, 422, "invalid_value", "/events/0/supersedes"),
    ({"kind": "acknowledge", "valid_until": "2999-01-01T00:00:00Z"}, 422, "invalid_value", "/events/0/valid_until"),
    ({"kind": "confirm", "token": "abc", "valid_from": "2020-01-01T00:00:00Z"}, 422, "invalid_value", "/events/0/valid_from"),
    ({"kind": "confirm"}, 422, "missing_member", "/events/0"),
    ({"kind": "confirm", "token": "abc"}, 409, "nothing_to_confirm", "/events/0/token"),
    ({"kind": "renew"}, 409, "not_renewable", "/events/0"),
    ({"kind": "invalidate"}, 422, "missing_member", "/events/0"),
    ({"kind": "invalidate", "supersedes": "0198b1c4-0000-7000-8000-000000000000"}, 409, "nothing_to_invalidate", "/events/0/supersedes"),
    ({"kind": "acknowledge", "notice": "newsletter@2"}, 422, "notice_unknown", "/events/0/notice"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "status", "kind", "pointer"), REFUSED)
async def test_a_grant_that_breaks_a_rule_is_refused_with_the_member(
    api: Api, changed: dict[str, Any], status: int, kind: str, pointer: str
) -> None:
    before = await size(api)
    answer = await api.choose("cus_1", "grant", body_events=[GRANT | changed])
    is_problem(answer, status, kind, pointer)
    assert await size(api) == before
    assert (await api.get("/v1/data-subjects/cus_1")).status_code == 404


async def test_preferences_are_refused_until_they_are_implemented(api: Api) -> None:
    answer = await api.choose("cus_1", "withdraw", body_preferences={"topics": {}})
    is_problem(answer, 422, "not_implemented", "/preferences")


async def test_a_grant_by_the_system_is_no_consent(api: Api) -> None:
    is_problem(await api.choose("cus_1", "grant", body_actor={"type": "system"}), 422, "not_affirmative", "/events/0")


async def test_choices_are_recorded_together_or_not_at_all(api: Api) -> None:
    events = [{"kind": "withdraw", "purpose": "newsletter"}, {"kind": "grant", "purpose": "analytics"}]
    is_problem(await api.choose("cus_1", "withdraw", body_events=events), 422, "notice_required", "/events/1/notice")
    assert (await api.get("/v1/data-subjects/cus_1")).status_code == 404


async def test_what_the_person_refused_is_not_given_again_by_somebody_else(api: Api) -> None:
    withdrawn = (await api.choose("cus_1", "withdraw")).json()["entries"][-1]["entry"]
    for actor in ("operator", "data_subject"):  # without an offer even the person's own act is not proved well enough
        answer = await api.choose("cus_1", "grant", body_actor={"type": actor})
        document = is_problem(answer, 409, "resubscribe_requires_data_subject_act", "/events/0")
        assert document["entry"] == withdrawn
    assert (await api.check("cus_1"))["reason"] == "consent.withdrawn"


# ---- dates


async def test_a_restriction_dated_ahead_holds_from_now_and_keeps_what_was_claimed(api: Api) -> None:
    await api.choose("cus_1", "grant")
    claimed = ago(-365 * DAY)
    assert (await api.choose("cus_1", "withdraw", occurred_at=claimed)).status_code == 201
    assert (await api.check("cus_1"))["reason"] == "consent.withdrawn"
    last = (await history(api, "cus_1"))[-1]
    assert last["occurred_at"] == last["recorded_at"] < claimed


async def test_a_restriction_with_an_end_is_recorded_and_has_none(api: Api) -> None:
    """It is never refused for a date; that it holds for longer than was said is the safe side."""
    assert (await api.choose("cus_1", "withdraw", valid_until="2020-01-01T00:00:00Z")).status_code == 201
    assert (await api.check("cus_1"))["reason"] == "consent.withdrawn"


async def test_a_restriction_of_long_ago_is_recorded_at_its_date(api: Api) -> None:
    assert (await api.choose("cus_1", "withdraw", occurred_at="0001-01-01T00:00:00Z")).status_code == 201
    assert (await history(api, "cus_1"))[-1]["occurred_at"] == "0001-01-01T00:00:00.000Z"
    assert (await api.check("cus_1"))["reason"] == "consent.withdrawn"


async def test_a_grant_may_run_ahead_of_our_clock_by_five_minutes(api: Api) -> None:
    assert (await api.choose("cus_1", "grant", occurred_at=ago(-4 * MINUTE))).status_code == 201
    assert (await api.check("cus_1"))["decision"] == "permit"


async def test_a_validity_at_the_end_of_time_is_answered_as_it_was_given(api: Api) -> None:
    end = "9999-12-31T23:59:59.999Z"
    assert (await api.choose("cus_1", "grant", valid_from=end)).status_code == 201
    denied = await api.check("cus_1")
    assert (denied["reason"], denied["retry_at"]) == ("consent.not_yet_effective", end)
    assert (await api.get("/v1/data-subjects/cus_1")).json()["consents"][0]["valid_from"] == end


async def test_a_bounded_grant_permits_no_longer_than_it_is_valid(api: Api) -> None:
    soon = wall_clock() + 1500
    await api.choose("cus_1", "grant", valid_until=rfc3339(soon))
    permitted = await api.check("cus_1")
    assert (permitted["decision"], permitted["valid_until"]) == ("permit", rfc3339(soon))
    await asyncio.sleep((soon - wall_clock()) / 1000 + 0.05)
    assert (await api.check("cus_1"))["reason"] == "consent.expired"


# ---- facts and identifiers


async def test_a_fact_becomes_an_entry_once(api: Api) -> None:
    subject = known_by("ana@example.org", id="cus_1", jurisdiction="DE", time_zone="Europe/Berlin", locale="de")
    first = await api.choose("cus_1", "withdraw", body_data_subject=subject)
    again = await api.choose("cus_1", "deny", "analytics", body_data_subject=subject)
    changed = await api.choose("cus_1", "deny", "advertising", body_data_subject={**subject, "locale": "fr"})
    kinds = [[entry["kind"] for entry in answer.json()["entries"]] for answer in (first, again, changed)]
    assert kinds == [
        ["data_subject.updated", "consent.withdrawn"],
        ["consent.denied"],
        ["data_subject.updated", "consent.denied"],
    ]
    shown = (await api.get("/v1/data-subjects/cus_1")).json()
    assert (shown["jurisdiction"], shown["time_zone"], shown["locale"]) == ("DE", "Europe/Berlin", "fr")


async def test_an_identifier_leads_to_the_person_however_it_is_written(api: Api) -> None:
    await api.choose("cus_1", "grant", body_data_subject=known_by("Ana@Example.org", id="cus_1"))
    question = {"action": "send", "purpose": "newsletter", "channel": "email", "data_subject": {"identifier": {"type": "email", "value": "ana@EXAMPLE.ORG"}}}  # fmt: skip
    answer = (await api.post("/v1/check", question)).json()
    assert (answer["decision"], answer["data_subject"]) == ("permit", {"id": "cus_1", "known": True})
    await api.choose("-", "withdraw", body_data_subject=known_by("ANA@example.org"))
    assert (await api.post("/v1/check", question)).json()["reason"] == "consent.withdrawn"


async def test_an_identifier_of_somebody_else_is_refused_with_its_place(api: Api) -> None:
    await api.choose("cus_1", "withdraw", body_data_subject=known_by("ana@example.org", id="cus_1"))
    before = await size(api)
    subject = known_by("new@example.org", "ana@example.org", id="cus_2")
    answer = await api.choose("cus_2", "grant", body_data_subject=subject)
    is_problem(answer, 409, "identifier_taken", "/data_subject/identifiers/1")
    assert "ana@example.org" not in answer.text
    assert await size(api) == before


async def test_an_identifier_of_somebody_else_never_blocks_a_restriction(api: Api) -> None:
    await api.choose("cus_1", "withdraw", body_data_subject=known_by("ana@example.org", id="cus_1"))
    for kind in ("withdraw", "deny", "object"):
        subject = known_by("ana@example.org", id=f"cus_{kind}")
        answer = await api.choose("-", kind, "analytics", body_data_subject=subject)
        assert answer.status_code == 201, answer.text
        assert (await api.check(f"cus_{kind}", "analytics", "use", None))["decision"] == "deny"
    assert (await api.get("/v1/data-subjects/cus_1")).json()["identifiers"][1]["value"] == "ana@example.org"


async def test_a_restriction_binds_whom_the_address_belongs_to_as_well(api: Api) -> None:
    await api.choose("cus_1", "grant", body_data_subject=known_by("ana@example.org", id="cus_1"))
    await api.choose("cus_2", "grant", body_data_subject=known_by("bea@example.org", id="cus_2"))
    subject = known_by("ana@example.org", "bea@example.org", "new@example.org", id="shop_77")
    answer = await api.choose("-", "withdraw", channels=["email"], body_data_subject=subject)
    body = answer.json()
    assert (answer.status_code, body["data_subject"]) == (201, "shop_77"), body
    assert [entry["kind"] for entry in body["entries"]] == ["consent.withdrawn", "consent.withdrawn", "data_subject.updated", "consent.withdrawn"]  # fmt: skip
    for person in ("cus_1", "cus_2", "shop_77"):
        check = await api.check(person, consistency={"mode": "at_least", "revision": body["revision"]})
        assert check["reason"] == "consent.withdrawn"
    assert (await api.get("/v1/data-subjects/cus_1")).json()["identifiers"][1]["value"] == "ana@example.org"
    (rebuilt,) = await rebuild(api.services, workspaces_only=[api.workspace])
    assert rebuilt.findings == ()


async def test_a_repeated_restriction_of_several_people_answers_as_the_first_time(api: Api) -> None:
    await api.choose("cus_1", "grant", body_data_subject=known_by("ana@example.org", id="cus_1"))
    write = {
        "data_subject": known_by("ana@example.org", id="shop_77"),
        "events": [{"kind": "withdraw", "purpose": "newsletter"}],
        "actor": {"type": "data_subject"},
        "method": "web_form",
        "surface": "https://shop.example/",
    }
    first = await api.post("/v1/consents", write, idempotency_key="once")
    before = await size(api)
    again = await api.post("/v1/consents", write, idempotency_key="once")
    assert (again.json(), await size(api)) == (first.json(), before)
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("kind", ["grant", "request"])
async def test_nobody_consents_with_the_address_of_somebody_else(api: Api, kind: str) -> None:
    await api.choose("cus_1", "withdraw", body_data_subject=known_by("ana@example.org", id="cus_1"))
    subject = known_by("ana@example.org", id="cus_2")
    answer = await api.choose("cus_2", kind, notice="newsletter@1", body_data_subject=subject)
    is_problem(answer, 409, "identifier_taken", "/data_subject/identifiers/0")


@pytest.mark.parametrize("ahead", [20_000, -20_000])
async def test_a_withdrawal_counts_after_what_was_recorded_before_it_whatever_the_clocks_say(
    api: Api, ahead: int
) -> None:
    """Two replicas, whose clocks may be 30 s apart from the database's."""
    other = replace(api.services, clock=lambda: wall_clock() + ahead)
    choices = (
        Choice(kind="grant", purpose="newsletter", notice="newsletter@1"),
        Choice(kind="withdraw", purpose="newsletter"),
    )
    for services, choice in zip((other, api.services) if ahead > 0 else (api.services, other), choices, strict=True):
        command = Command(actor="data_subject", component="tests", choices=(choice,), method="web_form", surface="app")
        done = await record(services, api.workspace, command, (Identifier("id", "cus_1"),))
        assert isinstance(done, Recorded)
        assert done.entries[-1].applied
    assert (await api.check("cus_1"))["reason"] == "consent.withdrawn"


async def test_a_person_known_by_an_address_only_gets_an_id_of_ours_then_the_callers_too(api: Api) -> None:
    first = (await api.choose("-", "withdraw", body_data_subject=known_by("ana@example.org"))).json()
    assert first["data_subject"].startswith("ds_")
    assert UUID(first["data_subject"][3:]).version == 7
    named = await api.choose("cus_1", "deny", "analytics", body_data_subject=known_by("ana@example.org", id="cus_1"))
    assert named.status_code == 201
    assert (await api.check("cus_1"))["reason"] == "consent.withdrawn"
    for name in (first["data_subject"], "cus_1"):
        assert len(await history(api, name)) == 4
    other = await api.choose("cus_2", "grant", body_data_subject=known_by("ana@example.org", id="cus_2"))
    is_problem(other, 409, "identifier_taken", "/data_subject/identifiers/0")


async def test_ids_that_differ_in_case_are_two_people(api: Api) -> None:
    await api.choose("A", "withdraw")
    await api.choose("a", "grant")
    assert [(await api.check(person))["decision"] for person in ("A", "a")] == ["deny", "permit"]


@pytest.mark.parametrize(("given", "kept"), [("198.51.100.77", "198.51.100.0/24"), ("2001:db8:aaaa:bbbb:cccc::1", "2001:db8:aaaa::/48"), ("::ffff:198.51.100.77", "::/48")])  # fmt: skip
async def test_of_an_ip_address_only_the_prefix_is_kept(api: Api, given: str, kept: str) -> None:
    await api.choose("cus_1", "grant", body_evidence={"ip": given, "user_agent": "Mozilla/5.0"})
    answer = await api.get("/v1/data-subjects/cus_1/history")
    assert answer.json()["data"][-1]["detail"]["evidence"]["ip_prefix"] == kept
    assert given not in answer.text


# ---- offers


async def offered(api: Api, *purposes: str, seconds_ago: float = 5, preset: bool = False) -> str:
    """The token of an offer that was issued a while ago."""
    earlier = replace(api.services, clock=lambda: wall_clock() - int(seconds_ago * 1000))
    issued = await issue_offer(
        earlier,
        api.workspace,
        [(purpose, preset) for purpose in purposes],
        "https://shop.example/signup",
        "en",
        component="tests",
    )
    assert isinstance(issued, OfferIssued)
    return issued.token


async def grades(api: Api, person: str) -> dict[str, str]:
    consents = (await api.get(f"/v1/data-subjects/{person}")).json()["consents"]
    return {consent["purpose"]: consent["evidence_grade"] for consent in consents}


async def test_an_offer_states_the_texts_that_must_be_shown(api: Api) -> None:
    body = {"purposes": ["newsletter", "analytics"], "surface": "https://shop.example/", "language": "de"}
    answer = await api.post("/v1/offers", body)
    assert answer.status_code == 201
    assert [notice["notice"] for notice in answer.json()["notices"]] == ["newsletter@1", "analytics@1"]
    assert answer.json()["notices"][1]["title"] == "Statistik"
    assert rfc3339(wall_clock() + 59 * MINUTE) < answer.json()["expires_at"] < rfc3339(wall_clock() + 61 * MINUTE)


async def test_a_grant_is_graded_by_what_proves_it(api: Api) -> None:
    now = ago(0)
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "bare": ({"body_method": None, "body_surface": None}, "E0"),
        "form": ({}, "E1"),
        "hasty": ({"body_evidence": {"offer": await offered(api, "newsletter", seconds_ago=0)}}, "E1"),
        "shown": ({"body_evidence": {"offer": await offered(api, "newsletter")}}, "E2"),
        "confirmed": ({"body_evidence": {"offer": await offered(api, "newsletter"), "confirmation": {"method": "email_link", "at": now}}}, "E3"),
        "both": ({"body_evidence": {"offer": await offered(api, "newsletter"), "confirmation": {"method": "email_link", "at": now}, "authentication": {"method": "password", "at": now}}}, "E4"),
    }  # fmt: skip
    for person, (members, grade) in cases.items():
        assert (await api.choose(person, "grant", **members)).status_code == 201
        assert await grades(api, person) == {"newsletter": grade}, person


async def test_a_backdated_grant_beyond_the_limit_counts_as_unproved(api: Api) -> None:
    await api.choose("cus_1", "grant", body_actor={"type": "import"}, notice=None, occurred_at=ago(400 * DAY))
    assert await grades(api, "cus_1") == {"newsletter": "E0"}


async def test_an_offer_settles_one_form(api: Api) -> None:
    offer = await offered(api, "newsletter")
    assert (await api.choose("cus_1", "grant", body_evidence={"offer": offer})).status_code == 201
    before = await size(api)
    for person in ("cus_1", "cus_2"):
        answer = await api.choose(person, "grant", body_evidence={"offer": offer})
        is_problem(answer, 409, "offer_invalid", "/evidence/offer")
    assert await size(api) == before


async def test_an_offer_that_has_expired_proves_nothing(api: Api) -> None:
    offer = await offered(api, "newsletter", seconds_ago=3601)
    answer = await api.choose("cus_1", "grant", body_evidence={"offer": offer})
    is_problem(answer, 409, "offer_expired", "/evidence/offer")


@pytest.mark.parametrize("damage", ["cut", "turned", "nonsense"])
async def test_an_offer_that_is_not_ours_proves_nothing(api: Api, damage: str) -> None:
    offer = await offered(api, "newsletter")
    head, payload, signature = offer.split(".")
    broken = {"cut": offer[:-1], "turned": f"{head}.{payload}.{signature[::-1]}", "nonsense": "abc"}[damage]
    answer = await api.choose("cus_1", "grant", body_evidence={"offer": broken})
    is_problem(answer, 409, "offer_invalid", "/evidence/offer")


async def test_an_offer_of_another_purpose_proves_nothing(api: Api) -> None:
    offer = await offered(api, "analytics")
    answer = await api.choose("cus_1", "grant", body_evidence={"offer": offer})
    is_problem(answer, 409, "offer_invalid", "/evidence/offer")


async def test_a_toggle_that_was_on_by_default_is_no_consent(api: Api) -> None:
    offer = await offered(api, "newsletter", preset=True)
    answer = await api.choose("cus_1", "grant", body_evidence={"offer": offer})
    is_problem(answer, 422, "not_affirmative", "/events/0")


async def test_the_person_may_come_back_after_a_withdrawal_with_an_offer(api: Api) -> None:
    await api.choose("cus_1", "withdraw")
    answer = await api.choose("cus_1", "grant", body_evidence={"offer": await offered(api, "newsletter")})
    assert answer.status_code == 201, answer.text
    assert (await api.check("cus_1"))["reason"] == "consent.granted"


async def test_a_replayed_offer_within_a_repeated_request_is_answered_as_the_first_time(api: Api) -> None:
    body = {"data_subject": {"id": "cus_1"}, "events": [GRANT], "actor": {"type": "data_subject"}, "evidence": {"offer": await offered(api, "newsletter")}}  # fmt: skip
    first = await api.post("/v1/consents", body, idempotency_key="k-1")
    again = await api.post("/v1/consents", body, idempotency_key="k-1")
    assert (first.status_code, again.content) == (201, first.content)


# ---- people whom nobody knows

INTEREST = """
  care:
    title: {en: Customer care, de: Kundenpflege}
    class: service
    actions: [send]
    basis: {default: legitimate_interest}
    channels: [email, sms]
"""


async def with_interest(api: Api) -> None:
    """Publish a policy with a purpose that everybody is in until they object."""
    text = starter_policy("Acme GmbH").replace("\npurposes:\n", f"\npurposes:\n{INTEREST}")
    text = text.replace('\njurisdictions: "2026.11"', "")  # where nobody knows the place, it would ask for consent
    assert (await api.post("/v1/policies", {"document": text})).status_code == 201


@pytest.mark.parametrize(("kind", "reason"), [("withdraw", "consent.withdrawn"), ("deny", "consent.denied"), ("object", "objection.recorded")])  # fmt: skip
async def test_a_restriction_of_a_stranger_is_kept_and_overrules_a_default_of_yes(
    api: Api, kind: str, reason: str
) -> None:
    await with_interest(api)
    assert (await api.check("cus_new", "care"))["reason"] == "basis.legitimate_interest"
    assert (await api.choose("cus_new", kind, "care")).status_code == 201
    denied = await api.check("cus_new", "care")
    assert (denied["decision"], denied["reason"]) == ("deny", reason)
    assert (await api.check("cus_other", "care"))["decision"] == "permit"


async def test_a_restriction_of_a_stranger_by_address_binds_the_id_that_comes_later(api: Api) -> None:
    await with_interest(api)
    await api.choose("-", "object", "care", body_data_subject=known_by("ana@example.org"))
    await api.choose("cus_1", "deny", "analytics", body_data_subject=known_by("ana@example.org", id="cus_1"))
    assert (await api.check("cus_1", "care"))["reason"] == "objection.recorded"


async def test_a_restriction_on_one_channel_leaves_the_others(api: Api) -> None:
    await with_interest(api)
    await api.choose("cus_1", "object", "care", channels=["sms"])
    assert [(await api.check("cus_1", "care", channel=channel))["decision"] for channel in ("email", "sms")] == ["permit", "deny"]  # fmt: skip


async def test_a_choice_holds_for_every_check_from_its_acknowledgement_on(api: Api) -> None:
    for round_number in range(10):
        person = f"cus_{round_number}"
        await api.choose(person, "grant")
        assert (await api.check(person))["decision"] == "permit"
        withdrawn = await api.choose(person, "withdraw", occurred_at=rfc3339(wall_clock() + 1000))
        assert withdrawn.status_code == 201
        assert (await api.check(person))["decision"] == "deny"


async def test_a_request_is_answered_within_its_deadline_and_its_retry_finds_what_was_written(
    api: Api, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.choose("anna", "grant")
    monkeypatch.setattr(endpoint, "REQUEST_SECONDS", 0.3)
    body = {
        "data_subject": {"id": "anna"},
        "events": [{"kind": "withdraw", "purpose": "newsletter"}],
        "actor": {"type": "data_subject"},
        "method": "web_form",
        "surface": "https://shop.example/account",
    }
    async with superuser.transaction():  # as another writer of the log that does not come to an end
        await superuser.execute("SELECT FROM ledger_head WHERE workspace_id = $1 FOR UPDATE", api.workspace)
        late = await api.post("/v1/consents", body, idempotency_key="once")
    monkeypatch.undo()
    told = await api.post("/v1/consents", body, idempotency_key="once")

    assert (late.status_code, late.headers["retry-after"]) == (503, "1")
    assert "unknown, a retry with the same key is safe" in late.json()["detail"]
    assert told.status_code == 201
    assert [entry["kind"] for entry in told.json()["entries"]] == ["consent.withdrawn"]
