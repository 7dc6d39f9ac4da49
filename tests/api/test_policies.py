"""/v1/policies: a published version decides from the next check on, and never changes."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import httpx
import pytest
import rfc8785

from conftest import Api
from volenti.core.policy.starter import starter_policy

STARTER = starter_policy("Acme GmbH")


async def publish(api: Api, text: str) -> httpx.Response:
    return await api.post("/v1/policies", {"document": text})


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
    text = STARTER.replace("basis: {default: contract}", "basis: {default: consent}\n    notice: newsletter")
    published = (await publish(api, text)).json()
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
