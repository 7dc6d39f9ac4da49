"""/v1/policies: a published version decides from the next check on, and never changes."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
import rfc8785

from conftest import Api
from volenti.core.policy.starter import starter_policy
from volenti.flows.clock import rfc3339
from volenti.flows.rebuild_states import rebuild
from volenti.flows.verify_ledger import verify

STARTER = starter_policy("Acme GmbH")


ASKS = STARTER.replace("basis: {default: contract}", "basis: {default: consent}\n    notice: newsletter")
"""Order updates need consent."""


async def publish(api: Api, text: str, at: int | None = None, **headers: str) -> httpx.Response:
    """Publish a document, in force at once or from so many seconds ahead on."""
    ahead = {} if at is None else {"activate_at": in_seconds(api, at)}
    return await api.post("/v1/policies", {"document": text, **ahead}, **headers)


async def activate(api: Api, version: int, at: int | None = None, **headers: str) -> httpx.Response:
    body = {} if at is None else {"at": in_seconds(api, at)}
    return await api.post(f"/v1/policies/{version}/activate", body, **headers)


def in_seconds(api: Api, seconds: int) -> str:
    return rfc3339(api.services.clock() // 1000 * 1000 + seconds * 1000)


async def versions(api: Api) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = (await api.get("/v1/policies")).json()["data"]
    return listed


async def test_a_version_is_read_as_it_was_hashed_and_as_it_was_written(api: Api) -> None:
    answer = await publish(api, STARTER)
    assert answer.status_code == 201, answer.text
    assert answer.json()["version"] == 2
    shown = (await api.get("/v1/policies/2")).json()
    assert shown["source"] == STARTER
    assert f"sha256:{hashlib.sha256(rfc8785.dumps(shown['document'])).hexdigest()}" == shown["hash"]
    assert shown["hash"] == answer.json()["hash"] == (await versions(api))[-1]["hash"]


async def test_publishing_is_a_ledger_entry_with_the_hash_of_the_document(api: Api) -> None:
    answer = (await publish(api, STARTER)).json()
    content = (await api.get(f"/v1/ledger/entries/{answer['entry']}")).json()["content"]
    assert content["k"] == "policy.published"
    assert answer["hash"].removeprefix("sha256:") in str(content)


async def test_the_next_check_decides_by_the_new_version_and_names_it(api: Api) -> None:
    before = await api.check("cus_1", "order_updates")
    assert (before["decision"], before["policy"]["version"]) == ("permit", 1)
    published = (await publish(api, ASKS)).json()
    after = await api.check("cus_1", "order_updates")
    assert (after["decision"], after["policy"]) == ("deny", {"version": 2, "hash": published["hash"]})
    token = {"mode": "at_least", "revision": published["revision"]}
    assert (await api.check("cus_1", "order_updates", consistency=token))["decision"] == "deny"


async def test_the_document_that_is_in_force_is_not_published_again(api: Api) -> None:
    first = await publish(api, STARTER)
    again = await publish(api, "# another comment\n" + STARTER)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["entry"] == first.json()["entry"]
    assert len(await versions(api)) == 2


async def test_versions_published_at_the_same_moment_get_numbers_of_their_own(api: Api) -> None:
    answers = await asyncio.gather(*(publish(api, starter_policy(f"Acme {number} GmbH")) for number in range(5)))
    assert sorted(answer.json()["version"] for answer in answers if answer.status_code == 201) == [2, 3, 4, 5, 6]
    assert [version["version"] for version in await versions(api)] == [1, 2, 3, 4, 5, 6]


async def test_a_version_waits_for_its_day_and_answers_are_valid_until_then(api: Api) -> None:
    answer = await publish(api, ASKS, at=30)
    assert answer.status_code == 201, answer.text
    (activation,) = answer.json()["activations"]
    assert (answer.json()["in_force"], activation["number"]) == (False, 2)
    assert activation["entry"] == answer.json()["entry"]
    checked = await api.check("cus_1", "order_updates")
    assert (checked["decision"], checked["policy"]["version"]) == ("permit", 1)
    assert checked["valid_until"] == activation["active_from"]


async def test_a_version_begins_to_decide_at_its_instant(api: Api) -> None:
    """On the wall clock, with nothing that has to notice it."""
    answer = (await publish(api, ASKS, at=3)).json()
    begins = datetime.fromisoformat(answer["activations"][0]["active_from"])
    while True:
        checked = await api.check("cus_1", "order_updates")
        if checked["decision"] == "deny":
            break
        assert datetime.fromisoformat(checked["evaluated_at"]) < begins + timedelta(seconds=1)
        await asyncio.sleep(0.05)
    assert datetime.fromisoformat(checked["evaluated_at"]) >= begins
    assert checked["policy"]["version"] == 2


async def test_an_older_version_is_put_in_force_again_by_an_entry_of_its_own(api: Api) -> None:
    await publish(api, ASKS)
    assert (await api.check("cus_1", "order_updates"))["decision"] == "deny"
    answer = await activate(api, 1)
    assert answer.status_code == 201, answer.text
    assert answer.json()["in_force"]
    back = await api.check("cus_1", "order_updates", consistency={"mode": "at_least", "revision": answer.json()["revision"]})  # fmt: skip
    assert (back["decision"], back["policy"]["version"]) == ("permit", 1)
    entry = answer.json()["activations"][-1]["entry"]
    content = (await api.get(f"/v1/ledger/entries/{entry}")).json()["content"]
    assert content["k"] == "policy.activated"
    assert content["n"] == answer.json()["hash"].removeprefix("sha256:")
    assert [one["in_force"] for one in await versions(api)] == [True, False]


async def test_the_list_says_from_when_on_each_version_is_in_force(api: Api) -> None:
    first = (await publish(api, ASKS, at=3600)).json()["activations"]
    second = (await activate(api, 1, at=7200)).json()["activations"]
    listed = await versions(api)
    assert [one["activations"] for one in listed] == [second, first]
    assert [one["in_force"] for one in listed] == [True, False]
    assert [one["number"] for one in second] == [1, 3]
    assert (await api.get("/v1/policies/1")).json()["activations"] == second


async def test_what_is_in_force_then_already_is_not_recorded_again(api: Api) -> None:
    await publish(api, ASKS)
    before = await versions(api)
    answer = await activate(api, 2, at=60)
    assert (answer.status_code, answer.json()["version"]) == (200, 2)
    assert await versions(api) == before


async def test_an_instant_that_has_passed_is_refused_with_its_pointer(api: Api) -> None:
    before = await versions(api)
    for answer, pointer in (
        (await publish(api, ASKS, at=-60), "#/activate_at"),
        (await activate(api, 1, at=-60), "#/at"),
    ):
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:volenti:problem:instant_passed")
        assert answer.json()["errors"][0]["pointer"] == pointer
    assert await versions(api) == before


@pytest.mark.parametrize("at", ["tomorrow", "2027-01-01T00:00:00", 1, "0001-01-01T00:00:00+12:00"])
async def test_an_instant_is_rfc_3339_with_a_time_zone(api: Api, at: Any) -> None:
    assert (await api.post("/v1/policies", {"document": ASKS, "activate_at": at})).status_code == 422
    assert (await api.post("/v1/policies/1/activate", {"at": at})).status_code == 422


async def test_a_repeated_key_gives_the_first_answer_whatever_happened_since(api: Api) -> None:
    published = await publish(api, ASKS, idempotency_key="k-1")
    activated = await activate(api, 1, idempotency_key="k-2")
    assert (published.status_code, activated.status_code) == (201, 201)
    before = await versions(api)
    again = await publish(api, ASKS, idempotency_key="k-1")
    back = await activate(api, 1, idempotency_key="k-2")
    assert (again.status_code, back.status_code) == (201, 201)
    assert [answer.headers.get("idempotency-replayed") for answer in (published, again, back)] == [None, "true", "true"]
    assert {**again.json(), "in_force": True} == published.json()
    assert back.json() == activated.json()
    assert await versions(api) == before


async def test_a_key_is_for_one_request(api: Api) -> None:
    assert (await publish(api, ASKS, idempotency_key="k-1")).status_code == 201
    before = await versions(api)
    for answer in (
        await publish(api, STARTER, idempotency_key="k-1"),
        await publish(api, ASKS, at=60, idempotency_key="k-1"),
        await activate(api, 1, idempotency_key="k-1"),
    ):
        assert answer.json()["type"] == "urn:volenti:problem:idempotency_key_reused"
    assert await versions(api) == before


async def test_activations_and_their_stored_answers_pass_the_audit(api: Api) -> None:
    await publish(api, ASKS, at=3600, idempotency_key="k-1")
    await activate(api, 2, idempotency_key="k-2")
    await activate(api, 1)
    (report,) = await verify(api.services, workspaces=[api.workspace])
    (rebuilt,) = await rebuild(api.services, workspaces_only=[api.workspace])
    assert (report.findings, rebuilt.findings) == ((), ())


@pytest.mark.parametrize(
    "text",
    [
        STARTER.replace("basis: {default: contract}", "basis: {default: perhaps}"),
        STARTER.replace("notice: analytics", "notice: nothing"),
        STARTER.replace("    actions: [train]", "    actions: [train]\n    caps: []"),
        STARTER.replace("I can stop at any time.", "I can never stop."),
        STARTER.replace("  security:\n", "  safety:\n"),
        STARTER.replace("version: 1", "version: 0"),
    ],
    ids=[
        "no such basis",
        "no such notice",
        "a member of later",
        "new words, old version",
        "a purpose gone",
        "version 0",
    ],
)
async def test_a_document_with_errors_is_refused_with_their_lines_and_changes_nothing(api: Api, text: str) -> None:
    before = await versions(api)
    answer = await publish(api, text)
    assert answer.status_code == 422, answer.text
    assert answer.json()["type"] == "urn:volenti:problem:policy_invalid"
    for error in answer.json()["errors"]:
        assert error["pointer"] == "#/document"
        assert error["detail"].startswith("line ")
    assert await versions(api) == before


async def test_new_words_with_a_new_version_ask_those_again_who_agreed_to_the_old_ones(api: Api) -> None:
    await api.choose("cus_1", "grant")
    head, notice, rest = STARTER.partition("  newsletter:\n    version: 1\n")
    assert notice
    text = f"{head}  newsletter:\n    version: 2\n{rest}".replace("I can stop at any time.", "I stop when I want.")
    assert (await publish(api, text)).status_code == 201
    denied = await api.check("cus_1")
    assert denied["reason"] == "consent.notice_outdated"
    assert denied["remedies"][0]["type"] == "ask_consent"
    assert (await api.choose("cus_1", "grant", notice="newsletter@2")).status_code == 201
    assert (await api.check("cus_1"))["decision"] == "permit"


@pytest.mark.parametrize("version", ["0", "99", "-1", "1.0", "01x", "9" * 20])
async def test_a_version_that_does_not_exist_is_404(api: Api, version: str) -> None:
    assert (await api.get(f"/v1/policies/{version}")).status_code == 404
    assert (await api.post(f"/v1/policies/{version}/activate", {})).status_code == 404
