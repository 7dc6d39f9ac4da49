"""POST /v1/check: never a silent yes, never older than the caller has seen, never a permit from what cannot be read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from conftest import Api
from policies import publish, starter
from volenti.api.app import Application, application
from volenti.core.reason import REASONS
from volenti.flows.clock import wall_clock
from volenti.flows.manage_credentials import Authenticator
from volenti.flows.record_consents import parse_revision_token, revision_token
from volenti.flows.services import Services
from volenti.store.appender import Appender
from volenti.store.database import Database

SCHEMA: dict[str, Any] = msgspec.json.decode((Path(__file__).parents[2] / "openapi" / "openapi.json").read_bytes())
QUESTION: dict[str, Any] = {
    "data_subject": {"id": "cus_1"},
    "action": "send",
    "purpose": "newsletter",
    "channel": "email",
}


def is_problem(answer: httpx.Response, status: int, kind: str, pointer: str | None = None) -> None:
    assert answer.status_code == status, answer.text
    document = answer.json()
    assert document["type"] == f"urn:volenti:problem:{kind}"
    if pointer is not None:
        assert document["errors"][0]["pointer"] == f"#{pointer}"


async def ask(api: Api, **members: Any) -> httpx.Response:
    return await api.post(
        "/v1/check", {name: value for name, value in (QUESTION | members).items() if value is not ...}
    )


# ---- the address that a message goes to


async def test_where_addresses_must_be_verified_the_one_that_the_question_names_is_judged(api: Api) -> None:
    emails = ("ana@example.org", "ana@example.net", "ana@example.com")
    await publish(api, starter(policy={"addresses": "verified"}))
    given = [{"type": "email", "value": email} for email in emails]
    await api.choose("cus_1", "grant", body_data_subject={"id": "cus_1", "identifiers": given})
    verified = {"type": "email", "value": emails[1], "verified_at": "2026-01-01T00:00:00Z"}
    facts = {"identifiers": {"add": [verified]}, "actor": {"type": "operator"}}
    assert (await api.request("PATCH", "/v1/data-subjects/cus_1", facts)).status_code == 200

    async def asked(email: str, **members: Any) -> dict[str, Any]:
        subject = {"identifier": {"type": "email", "value": email}}
        answer: dict[str, Any] = (await ask(api, purpose="order_updates", data_subject=subject, **members)).json()
        return answer

    answers = [await asked(email) for email in (*emails, "ANA@example.net")]
    reasons = [answer["reason"] for answer in answers]
    assert reasons == ["address.unverified", "basis.contract", "address.unverified", "basis.contract"]
    assert [answer["obligations"] for answer in answers] == [[]] * 4
    other = await asked(emails[0], include=["alternatives"])
    assert other["alternatives"] == []  # a phone number is not registered at all

    (obliged,) = (await api.check("cus_1", "order_updates"))["obligations"]
    assert (obliged["type"], obliged["mandatory"]) == ("use_address", True)
    person = (await api.get("/v1/data-subjects/cus_1")).json()
    _, members, place = obliged["properties"]["address_ref"].split("/")
    assert person[members][int(place)]["value"] == emails[1]

    await api.services.decisions.flush()
    for answer in answers:
        explained = (await api.get(f"/v1/decisions/{answer['decision_id']}/explain")).json()
        assert (explained["reproduced"], explained["replayed"]["reason"]) == (True, answer["reason"])
        assert "example" not in str(explained)


# ---- never a silent yes

NOT_IMPLEMENTED: list[tuple[dict[str, Any], str]] = [
    ({"message": {"expires_at": "2030-01-01T00:00:00Z"}}, "/message/expires_at"),
    ({"signals": {"gpc": True}}, "/signals"),
    ({"signals": {"tcf": ""}}, "/signals"),
    ({"signals": {"gpp": "DBAA"}}, "/signals"),
    ({"reserve": {"mode": "peek"}}, "/reserve"),
    ({"reserve": {"mode": "hold", "key": "k"}}, "/reserve"),
    ({"reserve": {"mode": "consume", "ttl_seconds": 60}}, "/reserve"),
    *(({"include": ["evidence", part]}, "/include/1") for part in ("caps", "permit")),
]


@pytest.mark.parametrize(("members", "pointer"), NOT_IMPLEMENTED)
async def test_a_member_that_is_not_implemented_is_refused(api: Api, members: dict[str, Any], pointer: str) -> None:
    await api.choose("cus_1", "grant")
    is_problem(await ask(api, **members), 422, "not_implemented", pointer)


@pytest.mark.parametrize("members", [{"message": {}}, {"message": {"class": "marketing", "campaign": "spring"}}, {"data": {}}, {"data": None}, {"data": {"categories": []}}, {"signals": {}}, {"signals": {"gpc": False}}, {"reserve": None}, {"at": None}, {"as_of": None}, {"consistency": {}}, {"consistency": {"mode": "strong"}}, {"consistency": {"max_staleness_ms": 0}}, {"include": ["evidence"]}, {"detail": "primary"}, {"topic": "weekly"}, {"supported_obligations": None}, {"jurisdiction": None}])  # fmt: skip
async def test_a_member_at_its_default_changes_nothing(api: Api, members: dict[str, Any]) -> None:
    await api.choose("cus_1", "grant")
    assert (await ask(api, **members)).json()["decision"] == "permit"


async def test_a_send_names_its_channel(api: Api) -> None:
    is_problem(await ask(api, channel=...), 422, "missing_member", "/channel")
    is_problem(await ask(api, channel=None), 422, "missing_member", "/channel")


@pytest.mark.parametrize("subject", [{}, {"id": None}, {"id": "a", "identifier": {"type": "email", "value": "a@example.org"}}])  # fmt: skip
async def test_a_person_is_named_by_exactly_one_of_id_and_identifier(api: Api, subject: dict[str, Any]) -> None:
    is_problem(await ask(api, data_subject=subject), 422, "data_subject", "/data_subject")


# ---- the answer


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"purpose": "nothing"}, "request.purpose_unknown"),
        ({"action": "sell"}, "request.action_not_in_purpose"),
        ({"channel": "post"}, "request.channel_unknown"),
        ({"topic": "nothing"}, "request.topic_unknown"),
        ({"message": {"class": "transactional"}}, "request.class_relaxation"),
        ({"supported_obligations": []}, "obligation.unsupported"),
        ({"supported_obligations": ["something_else"]}, "obligation.unsupported"),
        ({"data_subject": {"id": "cus_nobody"}}, "consent.missing"),
    ],
)
async def test_a_question_that_cannot_be_permitted_is_a_200_deny(
    api: Api, members: dict[str, Any], reason: str
) -> None:
    await api.choose("cus_1", "grant")
    answer = await ask(api, **members)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["decision"], body["allowed"], body["determinate"], body["reason"]) == ("deny", False, True, reason)
    assert REASONS[reason].step == body["reasons"][0]["step"]


async def test_a_caller_that_supports_the_obligations_gets_the_permit(api: Api) -> None:
    await api.choose("cus_1", "grant")
    body = (await ask(api, supported_obligations=["include_unsubscribe", "other"])).json()
    assert body["decision"] == "permit"
    assert [(one["id"], one["type"], one["mandatory"]) for one in body["obligations"]] == [("o1", "include_unsubscribe", True)]  # fmt: skip


@pytest.mark.parametrize("subject", [{"id": "cus_nobody"}, {"identifier": {"type": "email", "value": "nobody@example.org"}}])  # fmt: skip
async def test_an_unknown_person_is_a_valid_question(api: Api, subject: dict[str, Any]) -> None:
    body = (await ask(api, data_subject=subject)).json()
    assert body["data_subject"] == {"id": subject.get("id"), "known": False}
    assert (await ask(api, data_subject=subject, purpose="order_updates")).json()["reason"] == "basis.contract"


async def test_detail_all_names_every_obstacle_and_primary_the_first_step(api: Api) -> None:
    await api.choose("cus_1", "withdraw")
    members = {"action": "sell", "channel": "post", "topic": "nothing"}
    primary = (await ask(api, **members)).json()
    everything = (await ask(api, **members, detail="all")).json()
    steps = ["request.action_not_in_purpose", "request.channel_unknown", "request.topic_unknown"]
    assert [reason["code"] for reason in primary["reasons"]] == steps
    assert [reason["code"] for reason in everything["reasons"]] == [*steps, "consent.withdrawn"]
    assert everything["reason"] == primary["reason"]


async def test_evidence_can_be_left_out(api: Api) -> None:
    await api.choose("cus_1", "grant")
    assert (await ask(api, include=[])).json()["evidence"] == []
    assert len((await ask(api)).json()["evidence"]) == 1


@pytest.mark.parametrize("kind", ["grant", "withdraw", None])
async def test_every_answer_has_the_members_of_the_schema(api: Api, kind: str | None) -> None:
    if kind is not None:
        await api.choose("cus_1", kind)
    fits((await ask(api)).json(), {"$ref": "#/components/schemas/CheckAnswer"})
    fits((await ask(api, detail="all", supported_obligations=[])).json(), {"$ref": "#/components/schemas/CheckAnswer"})


def fits(value: Any, schema: dict[str, Any]) -> None:
    """Assert that a value has the shape that the OpenAPI document gives it, and no member more."""
    if "$ref" in schema:
        schema = SCHEMA["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        options = [one for one in schema["anyOf"] if (one.get("type") == "null") == (value is None)]
        assert options, (value, schema)
        return fits(value, options[0])
    if "enum" in schema:
        assert value in schema["enum"]
    match schema.get("type"):
        case "object" if "properties" in schema:
            assert set(schema["required"]) <= set(value) <= set(schema["properties"]), schema["title"]
            for name, member in value.items():
                fits(member, schema["properties"][name])
        case "array":
            for element in value:
                fits(element, schema["items"])
        case "string":
            assert isinstance(value, str)
        case "boolean":
            assert isinstance(value, bool)
        case "integer":
            assert isinstance(value, int)
        case _:
            pass
    return None


async def test_an_answer_holds_nothing_of_the_person_but_what_the_caller_knows(api: Api) -> None:
    subject = {"id": "cus_1", "identifiers": [{"type": "email", "value": "ana@example.org"}, {"type": "phone", "value": "+4915112345678"}], "jurisdiction": "DE", "time_zone": "Europe/Berlin", "locale": "de"}  # fmt: skip
    await api.choose("cus_1", "grant", body_data_subject=subject)
    text = (await ask(api)).text
    assert (await ask(api)).json()["decision"] == "permit"
    for known in ("ana@", "example.org", "4915112345678", "Berlin", '"de"'):
        assert known not in text


# ---- what the caller has seen


async def test_a_check_with_the_token_of_a_write_knows_of_the_write(api: Api) -> None:
    token = (await api.choose("cus_1", "grant")).json()["revision"]
    body = (await ask(api, consistency={"mode": "at_least", "revision": token})).json()
    assert body["decision"] == "permit"
    assert parse_revision_token(body["revision"]) >= parse_revision_token(token)  # type: ignore[operator]
    assert (await ask(api, consistency={"mode": "at_least", "revision": body["revision"]})).status_code == 200


@pytest.mark.parametrize("ahead", [1, 1000, 1_000_000])
async def test_a_token_beyond_the_log_is_an_indeterminate_deny_with_503(api: Api, ahead: int) -> None:
    epoch, size = parse_revision_token((await api.choose("cus_1", "grant")).json()["revision"]) or (0, 0)
    answer = await ask(api, consistency={"mode": "at_least", "revision": revision_token(epoch, size + ahead)})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert (body["decision"], body["determinate"], body["reason"]) == ("deny", False, "system.state_stale")
    fits(body, {"$ref": "#/components/schemas/CheckAnswer"})


async def test_a_token_far_beyond_the_log_was_never_given_out(api: Api) -> None:
    epoch, size = parse_revision_token((await api.choose("cus_1", "grant")).json()["revision"]) or (0, 0)
    for far in (size + 1_000_001, 2**63 - 1, 2**64 - 1):
        token = revision_token(epoch, far)
        answer = await ask(api, consistency={"mode": "at_least", "revision": token})
        is_problem(answer, 422, "revision", "/consistency/revision")


async def test_a_token_of_a_log_before_a_recovery_is_read_afresh(api: Api) -> None:
    await api.choose("cus_1", "grant")
    answer = await ask(api, consistency={"mode": "at_least", "revision": revision_token(0, 2**40)})
    assert answer.json()["decision"] == "permit"


async def test_a_token_of_a_recovery_that_this_database_has_not_seen_is_indeterminate(api: Api) -> None:
    epoch, _ = parse_revision_token((await api.choose("cus_1", "grant")).json()["revision"]) or (0, 0)
    answer = await ask(api, consistency={"mode": "at_least", "revision": revision_token(epoch + 1, 1)})
    assert (answer.status_code, answer.json()["reason"]) == (503, "system.state_stale")


@pytest.mark.parametrize("token", [None, "", "vr1.", "vr1.AAAAAAAAAAAAA", "vr2.AAAAAAAAAAAAAA", "vr1.AAAAAAAAAAAAAA\n", "AAAAAAAAAAAAAAAAAA"])  # fmt: skip
async def test_at_least_without_a_token_of_ours_is_refused(api: Api, token: str | None) -> None:
    answer = await ask(api, consistency={"mode": "at_least", "revision": token})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/consistency/revision"


@pytest.mark.parametrize("deadline", ["4", "5001", "0", "-1", "abc", "1e3", "", "9" * 5000])
async def test_a_deadline_that_says_nothing_usable_is_refused(api: Api, deadline: str) -> None:
    is_problem(await api.post("/v1/check", QUESTION, volenti_deadline_ms=deadline), 400, "deadline")


# ---- what cannot be read denies


@pytest.fixture
async def lost(services: Services) -> AsyncIterator[Services]:
    """The services, with a database that nobody answers at."""
    database = Database(lambda role: "postgresql://nobody@127.0.0.1:1/nowhere")
    appender = Appender(database)
    yield replace(services, database=database, appender=appender)
    await appender.close()
    await database.close()


async def test_without_a_database_a_check_denies_with_503_and_nothing_is_acknowledged(
    api: Api, app: Application, lost: Services
) -> None:
    """A credential that was seen less than a second ago still opens; the answer is the system's deny."""
    await api.choose("cus_1", "grant")
    assert (await ask(api)).json()["decision"] == "permit"
    context = app._context
    assert context is not None
    app._context = replace(context, services=lost)
    for question in (QUESTION, QUESTION | {"purpose": "order_updates"}, QUESTION | {"data_subject": {"id": "x"}}):
        answer = await api.post("/v1/check", question)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        body = answer.json()
        assert (body["decision"], body["allowed"], body["determinate"]) == ("deny", False, False)
        assert {reason["step"] for reason in body["reasons"]} == {"system"}
        fits(body, {"$ref": "#/components/schemas/CheckAnswer"})
    for answer in (
        await api.choose("cus_1", "withdraw"),
        await api.get("/v1/data-subjects/cus_1"),
        await api.get("/v1/ledger/checkpoint"),
    ):
        is_problem(answer, 503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    app._context = context
    assert (await ask(api)).json()["decision"] == "permit"


async def test_without_a_database_nobody_is_let_in_and_readiness_says_so(services: Services, lost: Services) -> None:
    running = application(services)
    transport = httpx.ASGITransport(app=running)  # type: ignore[arg-type]
    async with running.started(), httpx.AsyncClient(transport=transport, base_url="http://volenti.test") as http:
        context = running._context
        assert context is not None
        running._context = replace(context, services=lost, authenticator=Authenticator(lost))
        secret = "vol_sk_" + "0" * 32 + "_" + "0" * 43
        answer = await http.post("/v1/check", json=QUESTION, headers={"authorization": f"Bearer {secret}"})
        is_problem(answer, 401, "unauthenticated")  # the checksum is wrong: that is known without a database
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
        assert (await http.get("/healthz")).status_code == 200


async def test_a_process_of_which_a_part_has_ended_is_not_ready(services: Services) -> None:
    running = application(services)
    transport = httpx.ASGITransport(app=running)  # type: ignore[arg-type]
    async with running.started(), httpx.AsyncClient(transport=transport, base_url="http://volenti.test") as http:
        assert (await http.get("/readyz")).status_code == 200
        running._tasks[0].cancel()
        await asyncio.gather(running._tasks[0], return_exceptions=True)
        assert (await http.get("/readyz")).status_code == 503


async def test_a_clock_that_is_off_denies_instead_of_deciding_by_a_wrong_time(api: Api, app: Application) -> None:
    await api.choose("cus_1", "grant")
    context = app._context
    assert context is not None
    skewed = replace(api.services, clock=lambda: wall_clock() + 5000)
    app._context = replace(context, services=skewed)
    answer = await ask(api)
    app._context = context
    assert (answer.status_code, answer.json()["reason"]) == (503, "system.clock_skew")
