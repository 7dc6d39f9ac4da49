"""The life of a consent over HTTP: renewal, invalidation, acknowledgement, restriction, guardians, age, relations, asking."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest

from conftest import Api
from policies import publish, starter
from volenti.flows.clock import rfc3339, wall_clock

DAY = 86_400_000


def ago(days: float) -> str:
    return rfc3339(wall_clock() - round(days * DAY))


def kind_of(answer: httpx.Response) -> str:
    return str(answer.json()["type"]).rpartition(":")[2]


async def entry_of(api: Api, person: str, kind: str, **members: Any) -> str:
    answer = await api.choose(person, kind, **members)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["entries"][-1]["entry"])


async def patch(api: Api, person: str, facts: dict[str, Any]) -> httpx.Response:
    return await api.request("PATCH", f"/v1/data-subjects/{person}", facts)


# ---- renewing, voiding, acknowledging


async def test_a_renewal_extends_a_consent_that_is_in_force(api: Api) -> None:
    await api.choose("cus_1", "grant", valid_until=rfc3339(wall_clock() + DAY))
    renewed = await entry_of(api, "cus_1", "renew", valid_until=rfc3339(wall_clock() + 3 * DAY))
    later = await api.check("cus_1", at=rfc3339(wall_clock() + 2 * DAY))
    assert (later["reason"], later["evidence"][0]["entry"]) == ("consent.granted", renewed)
    assert later["evidence"][0]["notice"] == "newsletter@1"


async def test_what_has_ended_or_was_withdrawn_is_not_renewed(api: Api) -> None:
    await api.choose("cus_1", "withdraw")
    assert kind_of(await api.choose("cus_1", "renew")) == "not_renewable"
    assert kind_of(await api.choose("nobody", "renew")) == "not_renewable"


async def test_an_entry_that_is_declared_void_counts_as_never_made(api: Api) -> None:
    operator: dict[str, Any] = {"body_actor": {"type": "operator"}}
    granted = await entry_of(api, "cus_1", "grant")
    await entry_of(api, "cus_1", "invalidate", supersedes=granted, **operator)
    assert (await api.check("cus_1"))["reason"] == "consent.missing"
    history = (await api.get("/v1/data-subjects/cus_1/history")).json()["data"]
    assert [(one["kind"], one["effect"]) for one in history][-2:] == [("consent.granted", "none"), ("consent.invalidated", "in_force")]  # fmt: skip
    again = await api.choose("cus_1", "invalidate", supersedes=granted, **operator)
    assert kind_of(again) == "nothing_to_invalidate"


async def test_only_the_controller_declares_an_entry_void(api: Api) -> None:
    granted = await entry_of(api, "cus_1", "grant")
    assert kind_of(await api.choose("cus_1", "invalidate", supersedes=granted)) == "not_affirmative"
    assert (await api.check("cus_1"))["decision"] == "permit"


async def test_an_acknowledgement_is_recorded_and_permits_nothing(api: Api) -> None:
    await entry_of(api, "cus_1", "acknowledge", notice="newsletter@1")
    assert (await api.check("cus_1"))["reason"] == "consent.missing"


# ---- restriction of processing


async def restrict(api: Api, person: str, *, restricted: bool = True, **headers: str) -> httpx.Response:
    body = {"restricted": restricted, "ground": "accuracy_contested"}
    return await api.post(f"/v1/data-subjects/{person}/restriction", body, **headers)


async def test_a_restriction_denies_all_but_what_the_law_demands_until_it_is_lifted(api: Api) -> None:
    await api.choose("cus_1", "grant")
    entry = (await restrict(api, "cus_1")).json()["entries"][0]
    assert entry["kind"] == "data_subject.restricted"
    answer = await api.check("cus_1")
    assert (answer["reason"], answer["evidence"][0]["entry"]) == ("data_subject.processing_restricted", entry["entry"])
    assert (await api.check("cus_1", "security", "use", None))["reason"] == "basis.legal_obligation"
    assert (await api.get("/v1/data-subjects/cus_1")).json()["restricted_since"] is not None

    assert (await restrict(api, "cus_1")).json()["entries"] == []  # it stands already
    await restrict(api, "cus_1", restricted=False)
    assert (await api.check("cus_1"))["reason"] == "consent.granted"


async def test_a_restriction_of_nobody_is_not_found(api: Api) -> None:
    assert (await restrict(api, "nobody")).status_code == 404


# ---- guardians and age

TEEN, CHILD_GUARDIAN = "2012-06-01", {"id": "parent_1", "method": "id_document", "since": "2020-01-01T00:00:00Z"}


@pytest.fixture
async def placed(api: Api) -> Api:
    """A workspace in which the shipped jurisdiction profiles bind."""
    await publish(api, starter(policy={"jurisdictions": "2026.11", "markets": ["DE"]}))
    return api


async def child(api: Api, person: str = "kid") -> None:
    await api.choose(
        person, "withdraw", purpose="model_training", body_data_subject={"id": person, "jurisdiction": "DE"}
    )
    answer = await patch(api, person, {"birth_date": TEEN, "guardian": CHILD_GUARDIAN})
    assert answer.status_code == 200, answer.text


async def test_a_child_does_not_consent_alone_and_a_guardian_on_record_may(placed: Api) -> None:
    await child(placed)
    assert kind_of(await placed.choose("kid", "grant")) == "guardian_required"
    assert (await placed.check("kid"))["reason"] == "data_subject.minor_no_guardian"
    stranger = {"type": "guardian", "id": "stranger"}
    assert kind_of(await placed.choose("kid", "grant", body_actor=stranger)) == "guardian_unknown"
    parent = {"type": "guardian", "id": "parent_1"}
    assert (await placed.choose("kid", "grant", body_actor=parent)).status_code == 201
    assert (await placed.check("kid"))["reason"] == "consent.granted"


async def test_a_childs_own_refusal_binds_against_the_guardian(placed: Api) -> None:
    await child(placed)
    assert (await placed.choose("kid", "deny")).status_code == 201
    answer = await placed.choose("kid", "grant", body_actor={"type": "guardian", "id": "parent_1"})
    assert kind_of(answer) == "resubscribe_requires_data_subject_act"


@pytest.mark.parametrize("day", ["2026-13-01", "2999-01-01", "1899-01-01", "2026-02-30"])
async def test_a_birth_date_is_a_day_up_to_today(api: Api, day: str) -> None:
    await api.choose("cus_1", "withdraw")
    answer = await patch(api, "cus_1", {"birth_date": day})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/birth_date")


# ---- relations


async def test_soft_opt_in_rests_on_a_dated_relation_and_ends_with_it(api: Api) -> None:
    soft = {"basis": {"default": "soft_opt_in"}, "relations": {"purchase": "P24M"}}
    await publish(api, starter(newsletter=soft))
    await api.choose("cus_1", "withdraw", purpose="analytics", body_data_subject={"id": "cus_1", "jurisdiction": "DE"})
    assert (await api.check("cus_1"))["reason"] == "consent.missing"
    bought = await patch(api, "cus_1", {"relations": [{"type": "purchase", "at": ago(30)}]})
    answer = await api.check("cus_1")
    assert (answer["reason"], answer["evidence"][0]["entry"]) == (
        "basis.soft_opt_in",
        bought.json()["entries"][0]["entry"],
    )
    await api.choose("cus_1", "object")
    assert (await api.check("cus_1"))["reason"] == "objection.recorded"


async def test_a_relation_that_is_too_old_or_of_another_kind_qualifies_for_nothing(api: Api) -> None:
    soft = {"basis": {"default": "soft_opt_in"}, "relations": {"purchase": "P24M"}}
    await publish(api, starter(newsletter=soft))
    await api.choose("cus_1", "withdraw", purpose="analytics", body_data_subject={"id": "cus_1", "jurisdiction": "DE"})
    facts = {"relations": [{"type": "purchase", "at": ago(800)}, {"type": "inquiry", "at": ago(1)}]}
    await patch(api, "cus_1", facts)
    assert (await api.check("cus_1"))["reason"] == "consent.missing"


# ---- asking


async def offer(api: Api, person: str | None, *purposes: str, **headers: str) -> httpx.Response:
    body: dict[str, Any] = {"purposes": list(purposes), "surface": "https://shop.example/", "language": "en"}
    return await api.post("/v1/offers", body | ({} if person is None else {"data_subject": {"id": person}}), **headers)


async def kinds(api: Api, person: str) -> list[str]:
    return [entry["kind"] for entry in (await api.get(f"/v1/data-subjects/{person}/history")).json()["data"]]


async def test_after_a_refusal_the_person_is_not_asked_again_until_the_lock_ends(placed: Api) -> None:
    subject = {"id": "cus_1", "jurisdiction": "DE"}
    await placed.choose("cus_1", "deny", body_data_subject=subject, occurred_at=ago(10))
    locked = await offer(placed, "cus_1", "newsletter")
    assert (locked.status_code, kind_of(locked)) == (409, "ask_locked")
    remedy = (await placed.check("cus_1"))["remedies"][0]
    assert (remedy["type"], remedy["not_before"]) == ("ask_consent", locked.json()["not_before"])
    assert (await offer(placed, "cus_1", "analytics")).status_code == 201  # another purpose was not refused
    assert (await offer(placed, None, "newsletter")).status_code == 201  # nobody in particular


async def test_what_a_person_gives_of_their_own_accord_is_valid_under_a_lock(placed: Api) -> None:
    await placed.choose("cus_1", "deny", body_data_subject={"id": "cus_1", "jurisdiction": "DE"}, occurred_at=ago(10))
    shown = (await offer(placed, None, "newsletter")).json()["offer"]
    await asyncio.sleep(1.1)  # faster than a person can read it would stay at E1
    answer = await placed.choose("cus_1", "grant", body_evidence={"offer": shown})
    assert answer.status_code == 201, answer.text
    assert (await placed.check("cus_1"))["reason"] == "consent.granted"


async def test_a_question_that_was_put_is_recorded_and_counts_against_the_budget(api: Api) -> None:
    await publish(api, starter(policy={"asking": {"cooldown": "P14D", "per_quarter": 2}}))
    assert (await offer(api, "cus_1", "newsletter")).status_code == 201
    history = (await api.get("/v1/data-subjects/cus_1/history")).json()["data"]
    assert history[-1]["kind"] == "consent.asked"
    assert kind_of(await offer(api, "cus_1", "newsletter")) == "ask_locked"
    assert (await offer(api, "cus_1", "analytics")).status_code == 201
    assert kind_of(await offer(api, "cus_1", "personalisation")) == "ask_locked"  # two a quarter


async def test_questions_that_are_put_at_the_same_moment_keep_the_budget(api: Api) -> None:
    await publish(api, starter(policy={"asking": {"per_quarter": 1}}))
    answers = await asyncio.gather(*(offer(api, "cus_1", "newsletter") for _ in range(6)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 5}
    assert (await kinds(api, "cus_1")).count("consent.asked") == 1


async def test_a_repeated_key_gives_the_first_offer_again_and_asks_once(api: Api) -> None:
    await publish(api, starter(policy={"asking": {"cooldown": "P14D"}}))
    answers = [
        *await asyncio.gather(*(offer(api, "cus_1", "newsletter", idempotency_key="k") for _ in range(3))),
        await offer(api, "cus_1", "newsletter", idempotency_key="k"),
    ]
    assert [answer.status_code for answer in answers] == [201] * 4
    assert len({answer.content for answer in answers}) == 1
    assert [answer.headers.get("idempotency-replayed") for answer in answers].count(None) == 1
    assert (await kinds(api, "cus_1")).count("consent.asked") == 1
    assert kind_of(await offer(api, "cus_1", "newsletter", idempotency_key="another")) == "ask_locked"
    assert kind_of(await offer(api, "cus_1", "analytics", idempotency_key="k")) == "idempotency_key_reused"


async def test_a_repeated_key_gives_the_first_offer_with_its_texts_whatever_the_policy_is_by_then(api: Api) -> None:
    first = await offer(api, "cus_1", "newsletter", idempotency_key="k")
    assert first.status_code == 201
    document = starter(newsletter={"retired_at": "2026-01-01T00:00:00Z"})
    document["notices"]["newsletter"] |= {"version": 2, "change": "minor", "text": {
        language: text | {"body": "Other words."} for language, text in document["notices"]["newsletter"]["text"].items()
    }}  # fmt: skip
    await publish(api, document)
    again = await offer(api, "cus_1", "newsletter", idempotency_key="k")
    assert (again.status_code, again.content) == (201, first.content)


async def test_a_retired_purpose_is_not_put_before_anybody(api: Api) -> None:
    await publish(api, starter(newsletter={"retired_at": "2026-01-01T00:00:00Z"}))
    for person in ("cus_1", None):
        refused = await offer(api, person, "analytics", "newsletter")
        assert (refused.status_code, kind_of(refused)) == (409, "purpose_retired")
        assert refused.json()["errors"][0]["pointer"] == "#/purposes/1"
    assert (await api.get("/v1/data-subjects/cus_1/history")).status_code == 404


async def test_an_offer_that_is_too_long_asks_nobody(api: Api) -> None:
    body: dict[str, Any] = {"surface": "https://shop.example/" + "é" * 2000, "language": "en"}
    body |= {"purposes": ["newsletter"] * 50, "data_subject": {"id": "cus_1"}}
    refused = await api.post("/v1/offers", body)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "#/purposes")
    assert (await api.get("/v1/data-subjects/cus_1/history")).status_code == 404
