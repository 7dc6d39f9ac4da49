"""What a person or a caller says is in the sealed payload and in the answer, and nowhere else."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from conftest import Api
from volenti.store.embedded import Embedded
from volenti.telemetry import ALLOWED, configure

EMAIL, PHONE, CALLER_ID, EXTERNAL = "canary.kj7q@example.org", "+4915199887766", "cus_CanaryKj7q", "crm-CanaryKj7q"
AGENT, SURFACE, KEY, IP = "CanaryBrowser/7.5", "https://shop.example/canary-kj7q", "CanaryKey-kj7q", "198.51.100.231"
NOTICE = "Yes, write to me about news"
WORD = "CanaryValueKj7q"
KEY_LIKE = "canary.kj7q"
"""What a caller may type where a key of the policy belongs."""
PERSONAL = (EMAIL, KEY_LIKE, PHONE, PHONE[1:], CALLER_ID, EXTERNAL, AGENT, "canary-kj7q", KEY, IP, WORD)

SUBJECT = {
    "id": CALLER_ID,
    "identifiers": [
        {"type": "email", "value": EMAIL},
        {"type": "phone", "value": PHONE},
        {"type": "external", "value": EXTERNAL},
    ],
    "jurisdiction": "DE",
}


@pytest.fixture
def logged(api: Api) -> Iterator[io.StringIO]:
    """Everything that is logged, at the most talkative level."""
    written = io.StringIO()
    configure("debug", to=written)
    yield written
    configure("error")


async def everything(api: Api) -> tuple[list[str], list[str]]:
    """Use every route, well and badly; returns the problem documents, and the secrets that were used."""
    offer = (await api.post("/v1/offers", {"purposes": ["newsletter"], "surface": SURFACE, "language": "en"})).json()
    evidence = {"ip": IP, "user_agent": AGENT, "offer": offer["offer"]}
    good: dict[str, Any] = {
        "data_subject": SUBJECT,
        "events": [{"kind": "grant", "purpose": "newsletter", "notice": "newsletter@1"}],
        "actor": {"type": "data_subject"},
        "method": "web_form",
        "surface": SURFACE,
        "evidence": evidence,
    }
    assert (await api.post("/v1/consents", good, idempotency_key=KEY)).status_code == 201
    lookup = {"identifier": {"type": "email", "value": EMAIL}}
    question = {"action": "send", "purpose": "newsletter", "channel": "email"}
    answers = [
        await api.post("/v1/consents", good, idempotency_key=KEY),
        await api.post("/v1/data-subjects/lookup", lookup),
        await api.post("/v1/check", {"data_subject": {"id": CALLER_ID}, **question}),
        await api.post("/v1/check", {"data_subject": lookup, **question}),
        await api.post("/v1/check", {"data_subject": lookup, **question, "message": {"campaign": f"{WORD} {EMAIL}"}}),
        await api.post("/v1/check", {"data_subject": {"id": CALLER_ID}, **question, "purpose": KEY_LIKE}),
        await api.post("/v1/check", {"data_subject": {"id": CALLER_ID}, **question, "topic": PHONE[1:]}),
        await api.post(
            "/v1/check", {"data_subject": {"id": CALLER_ID}, **question, "supported_obligations": [KEY_LIKE, PHONE[1:]]}
        ),
        await api.get(f"/v1/data-subjects/{CALLER_ID}"),
        await api.get(f"/v1/data-subjects/{CALLER_ID}/history"),
        await api.request("PATCH", f"/v1/data-subjects/{CALLER_ID}", {"locale": "de"}),
        # and what is refused
        await api.post(
            "/v1/consents", {**good, "events": [{**good["events"][0], "purpose": "x"}]}, idempotency_key=KEY
        ),
        await api.post("/v1/consents", good),
        await api.post("/v1/consents", {**good, "data_subject": {**SUBJECT, "id": f"{CALLER_ID}2"}, "evidence": None}),
        await api.post("/v1/consents", {**good, "evidence": {**evidence, "offer": WORD}}),
        await api.post("/v1/consents", {**good, "evidence": {"ip": WORD}}),
        await api.post("/v1/consents", {**good, WORD: WORD}),
        await api.post("/v1/consents", {**good, "method": f"{EMAIL} {WORD}"}),
        await api.post("/v1/consents", f'{{"data_subject": "{EMAIL}'.encode()),
        await api.post("/v1/check", {"data_subject": {"id": f"{CALLER_ID}/{WORD}"}, **question}),
        await api.post("/v1/check", {"data_subject": {"identifier": {"type": "email", "value": WORD}}, **question}),
        await api.post("/v1/check", {"data_subject": {"id": CALLER_ID}, **question, "action": EMAIL}),
        await api.post("/v1/data-subjects/lookup", {"identifier": {"type": "phone", "value": f"{PHONE}{WORD}"}}),
        await api.get(f"/v1/data-subjects/{EMAIL}"),
        await api.get(f"/v1/{WORD}/{EMAIL}?email={EMAIL}"),
        await api.get(f"/v1/data-subjects/{CALLER_ID}/history?limit={WORD}"),
        await api.get(f"/v1/policies/{EMAIL}"),
        await api.get(f"/v1/ledger/entries/{EMAIL}"),
        await api.request("DELETE", f"/v1/data-subjects/{CALLER_ID}"),
        await api.get("/v1/policies", authorization=f"Bearer {WORD}"),
        await api.get("/v1/policies", authorization=f"Basic {api.secret}"),
    ]
    problems = [answer.text for answer in answers if answer.status_code >= 400]
    assert len(problems) >= 19
    await api.services.decisions.flush()
    return problems, [api.secret, offer["offer"]]


def hits(text: str, secrets: list[str]) -> list[str]:
    return [canary for canary in (*PERSONAL, *secrets) if canary.lower() in text.lower()]


async def test_no_log_line_holds_what_a_person_or_a_caller_said(api: Api, logged: io.StringIO) -> None:
    _, secrets = await everything(api)
    lines = [msgspec.json.decode(line) for line in logged.getvalue().splitlines()]
    assert len([line for line in lines if line["event"] == "request"]) > 20
    assert hits(logged.getvalue(), secrets) == []
    assert NOTICE not in logged.getvalue()
    assert all(set(line) <= ALLOWED for line in lines)


async def test_no_problem_document_holds_what_a_person_or_a_caller_said(api: Api) -> None:
    problems, secrets = await everything(api)
    for problem in problems:
        assert hits(problem, secrets) == []
        assert NOTICE not in problem


async def test_nothing_that_a_person_said_stands_open_in_the_database(api: Api, superuser: Any) -> None:
    """Every row of every table of ours, as a dump would write it: text as it is, and bytes in hex."""
    _, secrets = await everything(api)
    tables = [row[0] for row in await superuser.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'volenti'")]
    assert {"data_subject_state", "entry_payload", "ledger_entry", "idempotency", "credential", "decision_log"} <= set(
        tables
    )
    logged = await superuser.fetchval("SELECT count(*) FROM decision_log WHERE workspace_id = $1", api.workspace)
    assert logged >= 6
    for table in tables:
        rows = await superuser.fetch(f'SELECT t::text FROM volenti."{table}" t')
        dump = "\n".join(row[0] for row in rows)
        assert hits(dump, secrets) == [], table
        for canary in (*PERSONAL, *secrets):
            assert canary.encode().hex() not in dump, (table, canary)


async def test_postgresql_says_nothing_of_it_in_its_own_log(api: Api, server: Embedded) -> None:
    _, secrets = await everything(api)
    said = await asyncio.to_thread((server.data_dir / "postgresql.log").read_text)
    assert said
    assert hits(said, secrets) == []


async def test_the_ledgers_open_part_holds_nothing_of_the_person(api: Api) -> None:
    await everything(api)
    entries = (await api.get(f"/v1/data-subjects/{CALLER_ID}/history")).json()["data"]
    for entry in entries:
        assert hits((await api.get(f"/v1/ledger/entries/{entry['index']}")).text, []) == []


async def test_an_unexpected_error_is_logged_by_its_class_alone(api: Api, logged: io.StringIO) -> None:
    def broken() -> int:
        raise RuntimeError(f"{EMAIL} {WORD}")

    object.__setattr__(api.services, "clock", broken)
    answer = await api.get(f"/v1/data-subjects/{CALLER_ID}")
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:volenti:problem:internal")
    assert hits(answer.text, [api.secret]) == []
    failed = [line for line in logged.getvalue().splitlines() if "request.failed" in line]
    assert len(failed) == 1
    assert msgspec.json.decode(failed[0])["error"] == "RuntimeError"
    assert hits(logged.getvalue(), [api.secret]) == []
