"""The pages that people open, in a real browser: readable for everybody, silent, and obeyed by the next check."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, Request, async_playwright

from fault.harness import Deployment, deployed
from policies import starter

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip
WCAG = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}
OURS = ("http://127.0.0.1:", "data:")
READING_MS = 1_500
"""An answer within a second was not read."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def running() -> Iterator[Deployment]:
    """A running service whose newsletter demands double opt-in."""
    with deployed() as deployment:
        policy = json.dumps(starter(newsletter={"consent": {"double_opt_in": True}}), ensure_ascii=False)
        call(deployment, "/v1/policies", {"document": policy})
        yield deployment


def call(deployment: Deployment, path: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {deployment.secret}"}
    answer = httpx.post(f"{deployment.replica.url}{path}", json=body, headers=headers, timeout=20, trust_env=False)
    assert answer.status_code in (200, 201), answer.text
    answered: dict[str, Any] = answer.json()
    return answered


def check(deployment: Deployment, person: str, purpose: str, action: str, channel: str | None = None) -> dict[str, Any]:
    question = {"data_subject": {"id": person}, "action": action, "purpose": purpose}
    return call(deployment, "/v1/check", question if channel is None else question | {"channel": channel})


@asynccontextmanager
async def browser(**options: Any) -> AsyncIterator[Page]:
    """A page of a new browser; whatever it says on its console, or asks of anybody else, fails the test."""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            context = await chromium.new_context(**options)
            page = await context.new_page()
            said: list[str] = []

            def asked(request: Request) -> None:
                if not request.url.startswith(OURS):
                    said.append(request.url)

            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", asked)
            yield page
            assert said == []
            assert await context.cookies() == []
        finally:
            await chromium.close()


async def is_accessible(page: Page) -> None:
    """No violation of WCAG 2.2 AA that a program can find, and no scrolling sideways."""
    found = (await Axe().run(page, options=WCAG)).response["violations"]
    assert [one["id"] for one in found] == []
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_denial_leads_to_a_page_where_a_person_agrees_and_takes_it_back(
    running: Deployment, scheme: str
) -> None:
    person = f"cus_asked_{scheme}"
    event = {"kind": "deny", "purpose": "analytics"}
    body = {"data_subject": {"id": person}, "events": [event], "actor": {"type": "data_subject"}}
    call(running, "/v1/consents", body)
    asked = (person, "personalisation", "profile")
    denied = check(running, *asked)
    async with browser(locale="de-DE", color_scheme=scheme, viewport={"width": 320, "height": 640}) as page:
        await page.goto(denied["access_request"]["form_url"])
        assert await page.title() == "Ihre Entscheidung"
        await is_accessible(page)
        await page.wait_for_timeout(READING_MS)
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await page.get_by_text("Sie haben am").wait_for()
        await is_accessible(page)
        assert check(running, *asked)["reason"] == "consent.granted"

        await page.get_by_role("button", name="Ich widerrufe").click()
        await page.get_by_text("Sie haben nicht zugestimmt").wait_for()
        assert check(running, *asked)["reason"] == "consent.withdrawn"


async def test_who_asked_for_the_newsletter_confirms_it_on_a_page(running: Deployment) -> None:
    event = {"kind": "grant", "purpose": "newsletter", "channels": ["email"], "notice": "newsletter@1"}
    body = {"data_subject": {"id": "cus_doubly"}, "events": [event], "actor": {"type": "data_subject"}}
    url = call(running, "/v1/consents", body)["confirmation"]["url"]
    async with browser(locale="en-GB", viewport={"width": 320, "height": 640}) as page:
        await page.goto(url)
        await is_accessible(page)
        assert check(running, "cus_doubly", "newsletter", "send", "email")["reason"] == "consent.pending_confirmation"
        await page.get_by_role("button", name="Yes, I confirm").click()
        await page.get_by_role("heading", name="Thank you").wait_for()
        await is_accessible(page)
    assert check(running, "cus_doubly", "newsletter", "send", "email")["reason"] == "consent.granted"


async def test_the_description_of_the_api_is_a_page_too(running: Deployment) -> None:
    async with browser() as page:
        await page.goto(f"{running.replica.url}/schema")
        await page.get_by_text("/v1/check/batch").first.wait_for()
        await is_accessible(page)
