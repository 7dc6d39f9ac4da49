"""The page that asks: a denial leads to it, it shows what is asked, takes a yes that was read, and always a no."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import msgspec
import pytest

from conftest import Api
from policies import publish, starter
from volenti.api.app import application
from volenti.flows.clock import wall_clock
from volenti.flows.manage_credentials import issue
from volenti.keys.links import read_asking, sign_asking
from volenti.store import ledger

HOUR, DAY = 3_600_000, 86_400_000


@asynccontextmanager
async def later(api: Api, milliseconds: int) -> AsyncIterator[Api]:
    """The same service with its clock so much ahead: a person who reads takes some seconds."""
    running = application(replace(api.services, clock=lambda: wall_clock() + milliseconds))
    async with running.started():
        transport = httpx.ASGITransport(app=running)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://volenti.test") as http:
            yield replace(api, http=http)


@pytest.fixture
async def known(api: Api) -> Api:
    """A person whom the service knows, who was never asked for the newsletter."""
    answer = await api.choose("cus_1", "acknowledge", "analytics", notice="analytics@1")
    assert answer.status_code == 201, answer.text
    return api


async def size(api: Api) -> int:
    async with api.services.database.workspace("volenti_app", api.workspace) as connection:
        return (await ledger.head(connection, api.workspace)).size


async def path_of(api: Api, purpose: str = "newsletter", channel: str | None = "email", action: str = "send") -> str:
    answer = await api.check("cus_1", purpose, action, channel)
    assert answer["access_request"] is not None, answer
    return str(urlsplit(answer["access_request"]["form_url"]).path)


async def open_page(api: Api, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """Open a page as a browser does: without a credential."""
    return await api.http.request(
        method, path, headers={name.replace("_", "-"): text for name, text in headers.items()}
    )


async def press(api: Api, path: str, answer: str, page: httpx.Response | None = None, **members: str) -> httpx.Response:
    """Press a button of the page that was opened before."""
    offer = re.search(r'name="offer" value="([^"]+)"', page.text if page is not None else "")
    form = {"answer": answer, **({"offer": offer[1]} if offer else {}), **members}
    return await api.http.post(
        path, content=urlencode(form), headers={"content-type": "application/x-www-form-urlencoded"}
    )


async def agree(api: Api, path: str) -> httpx.Response:
    """Open the page, read it for two seconds, agree."""
    page = await open_page(api, path)
    assert page.status_code == 200, page.text
    async with later(api, 2_000) as reading:
        return await press(reading, path, "yes", page)


# ---- the way to the page


async def test_a_denial_leads_to_a_page_on_which_the_person_agrees_to_exactly_that(known: Api) -> None:
    denied = await known.check("cus_1")
    access = denied["access_request"]
    assert (denied["decision"], denied["reason"]) == ("deny", "consent.missing")
    assert access["form_url"] == f"http://127.0.0.1:8080/p/{access['binding_token']}"
    assert denied["remedies"] == [{"type": "ask_consent", "purpose": "newsletter", "notice": "newsletter", "form_url": access["form_url"]}]  # fmt: skip

    path = urlsplit(access["form_url"]).path
    page = await open_page(known, path)
    assert page.status_code == 200
    assert "asks for your consent" in page.text
    assert "Yes, write to me about news" in page.text
    assert "By: e-mail" in page.text

    done = await agree(known, path)
    assert (done.status_code, "You agreed on" in done.text) == (200, True)
    allowed = await known.check("cus_1")
    assert (allowed["reason"], allowed["access_request"]) == ("consent.granted", None)
    assert (allowed["evidence"][0]["kind"], allowed["evidence"][0]["notice"]) == ("consent.granted", "newsletter@1")
    assert (await known.check("cus_1", channel="sms"))["reason"] == "consent.scope_mismatch"
    granted = (await known.get("/v1/data-subjects/cus_1/history")).json()["data"][-1]
    assert (granted["actor"], granted["component"]) == ("data_subject", "preference_page")
    assert (granted["detail"]["evidence_grade"], granted["detail"]["method"]) == ("E2", "preference_link")


async def clear_of_midnight() -> None:
    """Wait until the day is not about to end: a link names the end of its day."""
    if (left := DAY - wall_clock() % DAY) < 30_000:
        await asyncio.sleep(left / 1000 + 0.1)


async def test_the_link_of_equal_questions_of_a_day_is_the_same(known: Api) -> None:
    await clear_of_midnight()
    first, again = [(await known.check("cus_1"))["access_request"] for _ in range(2)]
    assert first == again
    assert first["expires_at"].endswith("T00:00:00.000Z")
    assert (await known.check("cus_1", channel="sms"))["access_request"] != first


async def test_each_item_of_a_batch_has_its_page_as_alone(known: Api) -> None:
    await clear_of_midnight()
    item = {"data_subject": {"id": "cus_1"}, "action": "send", "purpose": "newsletter", "channel": "email"}
    answer = (await known.post("/v1/check/batch", {"items": [item, item | {"data_subject": {"id": "nobody"}}]})).json()
    alone = (await known.check("cus_1"))["access_request"]
    assert [one["access_request"] for one in answer["items"]] == [alone, None]


async def test_who_may_not_make_links_gets_none(known: Api) -> None:
    issued = await issue(known.services, known.workspace, component="mailer", scopes=("check", "consents:read"))
    denied = await replace(known, secret=issued.secret).check("cus_1")
    assert (denied["reason"], denied["access_request"]) == ("consent.missing", None)
    assert "form_url" not in denied["remedies"][0]


@pytest.mark.parametrize(
    ("policy", "members"),
    [
        ({}, {"as_of": "2026-01-01T00:00:00Z"}),
        ({"newsletter": {"consent": {"double_opt_in": True}}}, {}),
        ({"newsletter": {"consent": {"minimum_evidence": "E3"}}}, {}),
        ({"policy": {"suspend": {"channels": ["email"]}}}, {}),
    ],
    ids=["another instant", "double opt-in", "more proof than a page gives", "switched off"],
)
async def test_there_is_no_page_for_what_a_page_cannot_lift(
    known: Api, policy: dict[str, Any], members: dict[str, Any]
) -> None:
    await publish(known, starter(**policy))
    denied = await known.check("cus_1", **members)
    assert (denied["decision"], denied["access_request"]) == ("deny", None)


async def test_whom_nobody_knows_and_who_must_not_be_asked_has_no_page(known: Api) -> None:
    assert (await known.check("nobody"))["access_request"] is None
    await known.choose("cus_1", "deny")
    denied = await known.check("cus_1", jurisdiction="DE")
    assert denied["access_request"] is None
    assert denied["remedies"][0]["not_before"] > denied["evaluated_at"]


# ---- the page


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_opening_the_page_in_any_way_changes_nothing(known: Api, method: str) -> None:
    path, before = await path_of(known), await size(known)
    for _ in range(3):
        await open_page(known, path, method)
    assert await size(known) == before
    assert (await known.check("cus_1"))["reason"] == "consent.missing"


async def test_a_no_is_recorded_once_and_can_be_changed_on_the_same_page(known: Api) -> None:
    path = await path_of(known)
    refused = await press(known, path, "no")
    assert (refused.status_code, "You have not agreed" in refused.text) == (200, True)
    assert (await known.check("cus_1"))["reason"] == "consent.denied"
    before = await size(known)
    assert (await press(known, path, "no")).status_code == 200
    assert await size(known) == before

    assert "You agreed on" in (await agree(known, path)).text
    assert (await known.check("cus_1"))["reason"] == "consent.granted"


async def test_what_was_agreed_to_is_taken_back_by_one_press(known: Api) -> None:
    path = await path_of(known)
    done = await agree(known, path)
    assert 'value="yes"' not in done.text
    async with later(known, 4_000) as after:
        assert "You have not agreed" in (await press(after, path, "no", done)).text
    assert (await known.check("cus_1"))["reason"] == "consent.withdrawn"


async def test_a_no_to_all_channels_counts_where_one_was_granted(known: Api) -> None:
    path = await path_of(known, "personalisation", None, "profile")
    assert (await press(known, path, "no")).status_code == 200
    assert (await known.check("cus_1", "personalisation", "profile", None))["reason"] == "consent.denied"


async def test_a_yes_that_was_not_read_records_nothing_after_a_no_and_proves_little_otherwise(known: Api) -> None:
    path = await path_of(known)
    await press(known, path, "no")
    before = await size(known)
    hasty = await press(known, path, "yes", await open_page(known, path))
    assert (hasty.status_code, "choose once more" in hasty.text) == (409, True)
    assert await size(known) == before


@pytest.mark.parametrize("offer", [None, "", "x", "eyJhbGciOiJFZERTQSJ9.e30.AAAA"])
async def test_a_yes_without_the_page_records_nothing(known: Api, offer: str | None) -> None:
    path, before = await path_of(known), await size(known)
    answer = await press(known, path, "yes", None, **({} if offer is None else {"offer": offer}))
    assert (answer.status_code, "choose once more" in answer.text) == (409, True)
    assert await size(known) == before


async def test_the_offer_of_another_purpose_or_of_a_used_page_proves_nothing(known: Api) -> None:
    path, other = await path_of(known), await path_of(known, "personalisation", None, "profile")
    elsewhere, page = await open_page(known, other), await open_page(known, path)
    async with later(known, 2_000) as reading:
        assert (await press(reading, path, "yes", elsewhere)).status_code == 409
        assert (await press(reading, path, "yes", page)).status_code == 200
        before = await size(known)
        assert (await press(reading, path, "yes", page)).status_code == 409
    assert await size(known) == before


async def test_a_page_that_was_open_for_too_long_asks_once_more(known: Api) -> None:
    path = await path_of(known)
    page = await open_page(known, path)
    async with later(known, HOUR + 1_000) as after:
        again = await press(after, path, "yes", page)
        assert (again.status_code, "choose once more" in again.text) == (409, True)
    assert (await known.check("cus_1"))["reason"] == "consent.missing"


async def test_past_its_time_a_link_takes_no_yes_and_still_a_no(known: Api) -> None:
    link = read_asking(known.services.keyring, (await path_of(known)).removeprefix("/p/"))
    assert link is not None
    old = msgspec.structs.replace(link, expires_at=wall_clock() // 1000)
    path = f"/p/{sign_asking(known.services.keyring, old)}"
    page = await open_page(known, path)
    assert (page.status_code, 'value="yes"' in page.text, "still refuse" in page.text) == (200, False, True)

    fresh = await open_page(known, await path_of(known))
    async with later(known, 2_000) as reading:
        assert (await press(reading, path, "yes", fresh)).status_code == 200
    assert (await known.check("cus_1"))["reason"] == "consent.missing"
    assert (await press(known, path, "no")).status_code == 200
    assert (await known.check("cus_1"))["reason"] == "consent.denied"


async def test_what_the_policy_came_to_demand_more_proof_for_takes_a_no_only(known: Api) -> None:
    path = await path_of(known)
    await publish(known, starter(newsletter={"consent": {"double_opt_in": True}}))
    assert 'value="yes"' not in (await open_page(known, path)).text
    assert (await press(known, path, "no")).status_code == 200
    assert (await known.check("cus_1"))["reason"] == "consent.denied"


async def test_who_turns_out_to_be_too_young_cannot_agree_alone(known: Api) -> None:
    path = await path_of(known)
    page = await open_page(known, path)
    facts = {"birth_date": "2019-05-01", "jurisdiction": "DE", "actor": {"type": "operator"}}
    assert (await known.request("PATCH", "/v1/data-subjects/cus_1", facts)).status_code == 200
    assert 'value="yes"' not in (await open_page(known, path)).text
    async with later(known, 2_000) as reading:
        answer = await press(reading, path, "yes", page)
    assert (answer.status_code, "can no longer be used to agree" in answer.text) == (200, True)
    denied = await known.check("cus_1")
    assert (denied["reason"], denied["access_request"]) == ("data_subject.minor_no_guardian", None)


async def test_the_page_asks_for_the_notice_in_force_and_records_the_one_that_was_shown(known: Api) -> None:
    path = await path_of(known)
    old = await open_page(known, path)
    changed = starter()
    changed["notices"]["newsletter"] |= {"version": 2, "change": "material"}
    for language in ("en", "de"):
        changed["notices"]["newsletter"]["text"][language]["body"] = "Other words."
    await publish(known, changed)
    assert "Other words." in (await open_page(known, path)).text
    async with later(known, 2_000) as reading:
        answer = await press(reading, path, "yes", old)
        assert (answer.status_code, "You agreed on" in answer.text) == (200, False)
    assert (await known.check("cus_1"))["reason"] == "consent.notice_outdated"


@pytest.mark.parametrize(
    ("content", "media", "status"),
    [
        (b'{"answer":"yes"}', "application/json", 415),
        (b"answer=maybe", None, 422),
        (b"answer=yes&answer=no", None, 400),
        (b"", None, 422),
        (b"offer=x", None, 422),
        (b"answer", None, 400),
        (b"answer=no%ff", None, 400),
        (b"answer=no\xff", None, 400),
        (b"answer=no&more=1", None, 422),
        (b"&".join(b"%d=1" % n for n in range(20)), None, 400),
        (b"answer=no&offer=" + b"x" * 20_000, None, 413),
    ],
)
async def test_what_no_button_sends_is_refused_and_changes_nothing(
    known: Api, content: bytes, media: str | None, status: int
) -> None:
    path, before = await path_of(known), await size(known)
    headers = {"content-type": media or "application/x-www-form-urlencoded"}
    answer = await known.http.post(path, content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["type"].startswith("urn:volenti:problem:")
    assert await size(known) == before


async def test_whatever_is_wrong_with_a_link_is_one_and_the_same_404(known: Api) -> None:
    token = (await path_of(known)).removeprefix("/p/")
    turned = token[:50] + ("A" if token[50] != "A" else "B") + token[51:]
    confirming = await known.choose("cus_1", "request", notice="newsletter@1")
    other = urlsplit(confirming.json()["confirmation"]["url"]).path.removeprefix("/c/")
    texts = [turned, token[:-4], "x", "A" * 100, other]
    pages = [await open_page(known, f"/p/{text}") for text in texts]
    pages += [await press(known, f"/p/{text}", "no") for text in texts]
    assert {page.status_code for page in pages} == {404}
    assert len({page.text for page in pages}) == 1
    assert (await open_page(known, f"/c/{token}", "POST")).status_code == 404


async def test_a_purpose_that_the_policy_suspends_or_retires_takes_no_yes(known: Api) -> None:
    path = await path_of(known)
    await publish(known, starter(newsletter={"retired_at": "2026-01-01T00:00:00Z"}))
    page = await open_page(known, path)
    assert (page.status_code, 'value="yes"' in page.text, 'value="no"' in page.text) == (200, False, True)


async def test_the_page_speaks_the_language_of_its_reader_and_loads_nothing(known: Api) -> None:
    page = await open_page(known, await path_of(known), accept_language="de-AT, en;q=0.5")
    assert "Ihre Entscheidung" in page.text
    assert "Ja, schreibt mir über Neuigkeiten" in page.text
    assert not re.search(r"""(src|href)=["'](?!data:)""", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"
    assert "set-cookie" not in page.headers


async def test_to_refuse_is_offered_as_plainly_as_to_agree(known: Api) -> None:
    page = (await open_page(known, await path_of(known))).text
    assert re.findall(r"<button ([^>]*)>", page) == ['name="answer" value="yes"', 'name="answer" value="no"']
