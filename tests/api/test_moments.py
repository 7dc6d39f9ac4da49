"""Questions for another instant: `at` plans, `as_of` looks back, `/diff` compares, `explain` tells each step."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conftest import Api
from policies import publish, starter
from volenti.flows.clock import rfc3339, wall_clock
from volenti.flows.manage_credentials import issue

DAY = 86_400_000


async def now() -> str:
    """The present instant, a few milliseconds apart from what happens before and after it."""
    await asyncio.sleep(0.005)
    instant = rfc3339(wall_clock())
    await asyncio.sleep(0.005)
    return instant


def ahead(milliseconds: int) -> str:
    return rfc3339(wall_clock() + milliseconds)


async def test_as_of_answers_what_was_answered_then(api: Api) -> None:
    before = await now()
    await api.choose("cus_1", "grant")
    granted, said = await now(), await api.check("cus_1")
    await api.choose("cus_1", "withdraw")
    withdrawn = await now()
    await api.choose("cus_1", "grant", occurred_at=granted)

    then = await api.check("cus_1", as_of=granted)
    assert [then[name] for name in ("decision", "reason", "evidence")] == [said[name] for name in ("decision", "reason", "evidence")]  # fmt: skip
    assert then["evaluated_at"] == granted
    assert (await api.check("cus_1", as_of=withdrawn))["reason"] == "consent.withdrawn"
    unknown = await api.check("cus_1", as_of=before)
    assert (unknown["reason"], unknown["data_subject"]["known"]) == ("consent.missing", False)


async def test_as_of_answers_by_the_policy_of_that_time(api: Api) -> None:
    await api.choose("cus_1", "grant")
    earlier = await now()
    await publish(api, starter(newsletter={"retired_at": "2026-01-01T00:00:00Z"}))
    assert (await api.check("cus_1"))["reason"] == "purpose.retired"
    then = await api.check("cus_1", as_of=earlier)
    assert (then["reason"], then["policy"]["version"]) == ("consent.granted", 1)


async def test_a_late_entry_does_not_change_what_was_answered_before_it_came(api: Api) -> None:
    await api.choose("cus_1", "grant")
    earlier = await now()
    late = rfc3339(wall_clock() - 1)
    await api.choose("cus_1", "withdraw", occurred_at=late)
    assert (await api.check("cus_1", as_of=earlier))["reason"] == "consent.granted"
    assert (await api.check("cus_1"))["reason"] == "consent.withdrawn"


async def test_at_plans_with_the_present_state(api: Api) -> None:
    await api.choose("cus_1", "grant", valid_until=ahead(DAY))
    assert (await api.check("cus_1", at=ahead(DAY // 2)))["reason"] == "consent.granted"
    later = await api.check("cus_1", at=ahead(2 * DAY))
    assert later["reason"] == "consent.expired"
    assert (await api.check("cus_1"))["reason"] == "consent.granted"


async def test_at_plans_with_the_policy_that_is_scheduled(api: Api) -> None:
    await api.choose("cus_1", "grant")
    document = starter(newsletter={"retired_at": "2026-01-01T00:00:00Z"})
    await publish(api, document, activate_at=ahead(DAY))
    assert (await api.check("cus_1", at=ahead(DAY // 2)))["reason"] == "consent.granted"
    assert (await api.check("cus_1", at=ahead(2 * DAY)))["reason"] == "purpose.retired"


async def test_what_is_asked_for_another_instant_is_not_logged(api: Api) -> None:
    await api.choose("cus_1", "grant")
    now_logged = await api.check("cus_1")
    await api.check("cus_1", at=ahead(DAY))
    await api.check("cus_1", as_of=await now())
    await api.services.decisions.flush()
    logged = (await api.get("/v1/data-subjects/cus_1/decisions")).json()["data"]
    assert [one["decision_id"] for one in logged] == [now_logged["decision_id"]]


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"at": rfc3339(wall_clock() - DAY)}, "/at"),
        ({"at": rfc3339(wall_clock() + 31 * DAY)}, "/at"),
        ({"as_of": rfc3339(wall_clock() + DAY)}, "/as_of"),
        ({"at": rfc3339(wall_clock() + DAY), "as_of": rfc3339(wall_clock() - DAY)}, "/as_of"),
        ({"at": "0001-01-01T00:00:00+12:00"}, "/at"),
    ],
)
async def test_an_instant_that_cannot_be_asked_for_is_refused(api: Api, members: dict[str, Any], pointer: str) -> None:
    answer = await api.check("cus_1", **members)
    assert (answer["status"], answer["errors"][0]["pointer"]) == (422, f"#{pointer}")


async def test_as_of_is_not_answered_about_whoever_has_an_identifier_now(api: Api) -> None:
    email = {"type": "email", "value": "ana@example.org"}
    await api.choose("cus_1", "grant", body_data_subject={"id": "cus_1", "identifiers": [email]})
    then = await now()
    removed = {"identifiers": {"remove": [email]}, "actor": {"type": "operator"}}
    assert (await api.request("PATCH", "/v1/data-subjects/cus_1", removed)).status_code == 200
    await api.choose("cus_2", "withdraw", body_data_subject={"id": "cus_2", "identifiers": [email]})

    refused = await api.check("", data_subject={"identifier": email}, as_of=then)
    assert (refused["status"], refused["errors"][0]["pointer"]) == (422, "#/data_subject/identifier")
    assert "ana" not in str(refused)
    assert (await api.check("cus_1", as_of=then))["reason"] == "consent.granted"


@pytest.mark.parametrize(("member", "scope"), [("as_of", "consents:read"), ("detail", "decisions:read")])
async def test_to_look_back_or_to_be_explained_needs_a_scope_of_its_own(api: Api, member: str, scope: str) -> None:
    value = {"as_of": await now(), "detail": "explain"}[member]
    question = {"data_subject": {"id": "a"}, "action": "use", "purpose": "security", member: value}
    for scopes, status in ((["check"], 403), (["check", scope], 200)):
        secret = (await issue(api.services, api.workspace, component="c", scopes=scopes)).secret
        answer = await api.post("/v1/check", question, authorization=f"Bearer {secret}")
        assert answer.status_code == status, answer.text


async def test_explain_tells_every_step_without_an_identifier(api: Api) -> None:
    subject = {"id": "cus_1", "identifiers": [{"type": "email", "value": "ana@example.org"}], "jurisdiction": "DE"}
    await api.choose("cus_1", "withdraw", body_data_subject=subject)
    answer = await api.check("cus_1", detail="explain", message={"class": "transactional"})
    steps = {step["step"]: step for step in answer["trace"]}
    assert list(steps) == [
        "system",
        "request",
        "data_subject",
        "scope",
        "objections",
        "basis",
        "address",
        "obligations",
    ]
    assert steps["request"]["reasons"] == ["request.class_relaxation"]
    assert (steps["basis"]["outcome"], steps["basis"]["inputs"]["standing"]) == ("denied", "withdrawn")
    assert steps["basis"]["ref"] == answer["evidence"][0]["entry"]
    assert {step["ref"] for name, step in steps.items() if name != "basis"} == {None}
    await api.choose("cus_2", "grant")
    permitted = await api.check("cus_2", detail="explain")
    assert [step["ref"] for step in permitted["trace"] if step["ref"]] == [permitted["evidence"][0]["entry"]]
    assert steps["scope"]["inputs"]["jurisdictions"] == ["DE"]
    assert [reason["code"] for reason in answer["reasons"]] == ["request.class_relaxation", "consent.withdrawn"]
    assert "ana@example.org" not in str(answer)
    assert "trace" not in await api.check("cus_1")


async def test_diff_names_what_changed_between_two_instants_and_nothing_else(api: Api) -> None:
    await api.choose("cus_1", "grant")
    await api.choose("cus_1", "grant", purpose="analytics")
    earlier = await now()
    await api.choose("cus_1", "withdraw", channels=["sms"])
    await api.choose("cus_1", "deny", purpose="personalisation")
    later = await now()
    await api.choose("cus_1", "withdraw", purpose="analytics")

    answer = (await api.get(f"/v1/data-subjects/cus_1/diff?from={earlier}&to={later}")).json()
    changed = [
        (one["purpose"], one["channel"], *(side and side["state"] for side in (one["before"], one["after"])))
        for one in answer["consents"]
    ]
    assert changed == [("newsletter", "sms", "granted", "withdrawn"), ("personalisation", "*", None, "denied")]
    assert answer["consents"][0]["before"]["channel"] == "sms"
    assert answer["facts"] == []
    assert (await api.get(f"/v1/data-subjects/cus_1/diff?from={later}&to={earlier}")).status_code == 422
    assert (await api.get("/v1/data-subjects/cus_1/diff")).status_code == 422
    assert (await api.get(f"/v1/data-subjects/nobody/diff?from={earlier}")).status_code == 404


async def test_diff_tells_a_restriction_and_the_facts_that_bind_a_decision(api: Api) -> None:
    await api.choose("cus_1", "grant", body_data_subject={"id": "cus_1", "jurisdiction": "DE", "locale": "de"})
    earlier = await now()
    restricted = await api.post("/v1/data-subjects/cus_1/restriction", {"restricted": True})
    assert restricted.status_code == 200, restricted.text
    facts = {"birth_date": "2000-02-29", "jurisdiction": "FR", "actor": {"type": "operator"}}
    assert (await api.request("PATCH", "/v1/data-subjects/cus_1", facts)).status_code == 200

    answer = (await api.get(f"/v1/data-subjects/cus_1/diff?from={earlier}")).json()
    told = {one["fact"]: (one["before"], one["after"]) for one in answer["facts"]}
    since = (await api.get("/v1/data-subjects/cus_1")).json()["restricted_since"]
    assert told == {"jurisdiction": ("DE", "FR"), "birth_date": (None, "2000-02-29"), "restricted_since": (None, since)}
    (moved,) = answer["consents"]  # consent lasts as long as the law of the place lets it
    assert moved["before"] | {"valid_until": moved["after"]["valid_until"]} == moved["after"]


async def test_diff_tells_no_change_of_a_channel_that_a_general_choice_decides_on_both_sides(api: Api) -> None:
    await api.choose("cus_1", "grant", channels=["sms"])
    await api.choose("cus_1", "withdraw")
    earlier = await now()
    await api.choose("cus_1", "grant", channels=["sms"], occurred_at="2026-01-01T00:00:00Z")

    assert (await api.get(f"/v1/data-subjects/cus_1/diff?from={earlier}")).json()["consents"] == []


async def test_what_was_in_force_at_an_earlier_instant_is_shown(api: Api) -> None:
    before = await now()
    await api.choose("cus_1", "grant")
    granted = await now()
    await api.choose("cus_1", "withdraw")

    def states(answer: Any) -> list[str]:
        return [one["state"] for one in answer.json()["consents"]]

    assert states(await api.get(f"/v1/data-subjects/cus_1?as_of={granted}")) == ["granted"]
    assert states(await api.get("/v1/data-subjects/cus_1")) == ["withdrawn"]
    assert (await api.get(f"/v1/data-subjects/cus_1?as_of={before}")).status_code == 404
    assert (await api.get("/v1/data-subjects/cus_1?as_of=yesterday")).status_code == 422
    then = (await api.get(f"/v1/data-subjects/cus_1/history?as_of={granted}")).json()["data"]
    assert [(one["kind"], one["effect"]) for one in then][-1] == ("consent.granted", "in_force")
