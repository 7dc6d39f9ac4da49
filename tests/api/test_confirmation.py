"""Double opt-in: a request waits, its page shows what is asked, one POST confirms, and opening it changes nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from conftest import Api
from policies import publish, starter
from volenti.api.app import application
from volenti.flows.clock import wall_clock
from volenti.flows.sign_checkpoint import sign
from volenti.store import ledger

DAY = 86_400_000


async def size(api: Api) -> int:
    async with api.services.database.workspace("volenti_app", api.workspace) as connection:
        return (await ledger.head(connection, api.workspace)).size


@pytest.fixture
async def doubly(api: Api) -> Api:
    """A workspace whose newsletter and analytics demand double opt-in."""
    doubly = {"consent": {"double_opt_in": True}}
    await publish(api, starter(newsletter=doubly, analytics=doubly))
    return api


async def requested(api: Api, person: str = "cus_1", **members: Any) -> dict[str, Any]:
    answer = await api.choose(person, "grant", **members)
    assert answer.status_code == 201, answer.text
    recorded: dict[str, Any] = answer.json()
    return recorded


def path_of(recorded: dict[str, Any]) -> str:
    return str(urlsplit(recorded["confirmation"]["url"]).path)


async def open_page(api: Api, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """Open a page as a browser does: without a credential."""
    return await api.http.request(method, path, headers=headers)


async def test_a_grant_without_confirmation_waits_and_its_page_confirms_it(doubly: Api) -> None:
    recorded = await requested(doubly)
    assert [entry["kind"] for entry in recorded["entries"]][-1] == "consent.requested"
    assert recorded["confirmation"]["url"].startswith("http://127.0.0.1:8080/c/")
    assert (await doubly.check("cus_1"))["reason"] == "consent.pending_confirmation"

    page = await open_page(doubly, path_of(recorded))
    assert page.status_code == 200
    assert "Acme GmbH asks for your consent" in page.text
    assert "Yes, write to me about news" in page.text
    assert '<form method="post">' in page.text

    done = await open_page(doubly, path_of(recorded), "POST")
    assert (done.status_code, "confirmed" in done.text) == (200, True)
    answer = await doubly.check("cus_1")
    assert (answer["reason"], answer["evidence"][0]["kind"]) == ("consent.granted", "consent.confirmed")
    assert answer["evidence"][0]["notice"] == "newsletter@1"


async def test_what_a_guardian_asked_for_the_guardian_confirms(doubly: Api) -> None:
    mother = {"id": "cus_2", "method": "id_check", "since": "2026-01-01T00:00:00.000Z"}
    child = {"birth_date": "2015-05-01", "jurisdiction": "DE", "guardian": mother, "actor": {"type": "operator"}}
    await doubly.choose("cus_1", "acknowledge", notice="newsletter@1")
    assert (await doubly.request("PATCH", "/v1/data-subjects/cus_1", child)).status_code == 200
    recorded = await requested(doubly, body_actor={"type": "guardian", "id": "cus_2"})

    done = await open_page(doubly, path_of(recorded), "POST")
    assert (done.status_code, "confirmed" in done.text) == (200, True)
    assert (await doubly.check("cus_1"))["reason"] == "consent.granted"
    confirmed = (await doubly.get("/v1/data-subjects/cus_1/history")).json()["data"][-1]
    assert (confirmed["kind"], confirmed["actor"]) == ("consent.confirmed", "guardian")
    assert confirmed["detail"]["guardian"] == "cus_2"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_opening_a_page_in_any_way_confirms_nothing(doubly: Api, method: str) -> None:
    recorded = await requested(doubly)
    before = await size(doubly)
    for _ in range(3):
        await open_page(doubly, path_of(recorded), method)
    assert await size(doubly) == before
    assert (await doubly.check("cus_1"))["reason"] == "consent.pending_confirmation"


async def test_a_second_post_adds_nothing_and_says_the_same(doubly: Api) -> None:
    path = path_of(await requested(doubly))
    first = await open_page(doubly, path, "POST")
    after = await size(doubly)
    second = await open_page(doubly, path, "POST")
    assert (second.status_code, second.text) == (first.status_code, first.text)
    assert await size(doubly) == after
    assert "confirmed" in (await open_page(doubly, path)).text


async def test_one_page_confirms_every_request_of_a_write(doubly: Api) -> None:
    events = [
        {"kind": "request", "purpose": purpose, "notice": f"{purpose}@1"} for purpose in ("newsletter", "analytics")
    ]
    body = {"data_subject": {"id": "cus_1"}, "events": events, "actor": {"type": "data_subject"}}
    recorded = (await doubly.post("/v1/consents", body)).json()
    page = (await open_page(doubly, path_of(recorded))).text
    assert "Newsletter" in page
    assert "Analytics" in page
    await open_page(doubly, path_of(recorded), "POST")
    for purpose, action, channel in (("newsletter", "send", "email"), ("analytics", "use", None)):
        assert (await doubly.check("cus_1", purpose, action, channel))["reason"] == "consent.granted"


async def test_a_new_request_voids_the_link_of_the_old_one(doubly: Api) -> None:
    old, new = path_of(await requested(doubly)), path_of(await requested(doubly))
    assert (await open_page(doubly, old, "POST")).status_code == 410
    assert (await doubly.check("cus_1"))["reason"] == "consent.pending_confirmation"
    assert (await open_page(doubly, new, "POST")).status_code == 200
    assert (await doubly.check("cus_1"))["reason"] == "consent.granted"


async def test_a_withdrawal_before_the_confirmation_stands(doubly: Api) -> None:
    path = path_of(await requested(doubly))
    await doubly.choose("cus_1", "withdraw")
    assert (await open_page(doubly, path, "POST")).status_code == 410
    assert (await doubly.check("cus_1"))["reason"] == "consent.withdrawn"


async def test_a_page_whose_consent_was_taken_back_does_not_say_that_it_is_confirmed(doubly: Api) -> None:
    path = path_of(await requested(doubly))
    await open_page(doubly, path, "POST")
    await doubly.choose("cus_1", "withdraw")
    for method in ("GET", "POST"):
        page = await open_page(doubly, path, method)
        assert (page.status_code, "no longer open" in page.text) == (410, True)
    assert (await doubly.check("cus_1"))["reason"] == "consent.withdrawn"


async def test_after_a_withdrawal_the_person_comes_back_by_a_new_confirmation(doubly: Api) -> None:
    await open_page(doubly, path_of(await requested(doubly)), "POST")
    await doubly.choose("cus_1", "withdraw")
    await open_page(doubly, path_of(await requested(doubly)), "POST")
    assert (await doubly.check("cus_1"))["reason"] == "consent.granted"


async def test_past_its_time_a_link_confirms_nothing_and_the_request_still_waits(doubly: Api) -> None:
    path = path_of(await requested(doubly))
    later = replace(doubly.services, clock=lambda: wall_clock() + 8 * DAY)
    running = application(later)
    async with running.started():
        transport = httpx.ASGITransport(app=running)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://volenti.test") as http:
            for method in ("GET", "POST"):
                answer = await http.request(method, path)
                assert (answer.status_code, "expired" in answer.text) == (410, True)
    assert (await doubly.check("cus_1"))["reason"] == "consent.pending_confirmation"


async def test_whatever_is_wrong_with_a_link_is_one_and_the_same_404(doubly: Api) -> None:
    token = path_of(await requested(doubly)).removeprefix("/c/")
    turned = token[:50] + ("A" if token[50] != "A" else "B") + token[51:]
    pages = [
        await open_page(doubly, f"/c/{one}", method)
        for one in (turned, token[:-4], "x", "A" * 100)
        for method in ("GET", "POST")
    ]
    assert {page.status_code for page in pages} == {404}
    assert len({page.text for page in pages}) == 1
    assert (await doubly.check("cus_1"))["reason"] == "consent.pending_confirmation"


async def test_a_repeated_request_is_answered_with_the_same_link(doubly: Api) -> None:
    body = {
        "data_subject": {"id": "cus_1"},
        "events": [{"kind": "request", "purpose": "newsletter", "notice": "newsletter@1"}],
        "actor": {"type": "data_subject"},
    }
    first, again = [await doubly.post("/v1/consents", body, idempotency_key="k-1") for _ in range(2)]
    assert (first.content, again.headers["idempotency-replayed"]) == (again.content, "true")


async def test_a_component_may_relay_a_confirmation_with_the_token(doubly: Api) -> None:
    token = path_of(await requested(doubly)).removeprefix("/c/")
    answer = await doubly.choose("cus_1", "confirm", token=token)
    assert answer.status_code == 201, answer.text
    assert (await doubly.check("cus_1"))["reason"] == "consent.granted"
    assert (await doubly.choose("cus_2", "confirm", token=token)).json()["type"].endswith(":nothing_to_confirm")


async def test_a_grant_that_was_confirmed_elsewhere_needs_no_page(doubly: Api) -> None:
    evidence = {"confirmation": {"method": "email_link", "at": "2026-07-01T00:00:00Z"}}
    assert "confirmation" not in await requested(doubly, body_evidence=evidence)
    assert (await doubly.check("cus_1"))["reason"] == "consent.granted"


async def test_the_page_speaks_the_language_of_its_reader_and_loads_nothing(doubly: Api) -> None:
    page = await open_page(doubly, path_of(await requested(doubly)), **{"accept-language": "de-AT, en;q=0.5"})
    assert "Bitte bestätigen" in page.text
    assert "Ja, schreibt mir über Neuigkeiten" in page.text
    assert not re.search(r"""(src|href)=["'](?!data:)""", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "img-src data:" in page.headers["content-security-policy"]  # the empty icon, else browsers report an error
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"
    assert "set-cookie" not in page.headers


async def test_the_page_shows_the_words_that_the_request_named_though_they_have_changed(doubly: Api) -> None:
    path = path_of(await requested(doubly))
    changed = starter(newsletter={"consent": {"double_opt_in": True}})
    changed["notices"]["newsletter"] |= {"version": 2, "change": "minor"}
    for language in ("en", "de"):
        changed["notices"]["newsletter"]["text"][language]["body"] = "Other words."
    await publish(doubly, changed)
    page = (await open_page(doubly, path)).text
    assert "Yes, write to me about news" in page
    assert "Other words." not in page


async def test_a_confirmation_is_in_the_signed_log(doubly: Api) -> None:
    await open_page(doubly, path_of(await requested(doubly)), "POST")
    await sign(doubly.services, doubly.workspace)
    newest = await size(doubly) - 1
    assert (await doubly.get(f"/v1/ledger/entries/{newest}")).json()["content"]["k"] == "consent.confirmed"
    assert (await doubly.get(f"/v1/ledger/entries/{newest}/proof")).status_code == 200
