"""POST /v1/check/batch: many questions on one revision, each answered as it would be alone."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

import msgspec
import pytest

from conftest import Api
from volenti.api.check import DEFAULTS_BYTES, TURN_ITEMS, check_batch
from volenti.api.endpoint import Call, Caller, Context
from volenti.api.wire import CheckBatchRequest
from volenti.flows.check_policy import UnknownRevision

ASKED: list[dict[str, Any]] = [
    {"data_subject": {"id": "yes"}, "action": "send", "purpose": "newsletter", "channel": "email"},
    {"data_subject": {"id": "yes"}, "action": "send", "purpose": "newsletter", "channel": "sms"},
    {"data_subject": {"id": "yes"}, "action": "send", "purpose": "newsletter", "channel": "email", "topic": "weekly"},
    {"data_subject": {"id": "yes"}, "action": "send", "purpose": "newsletter", "channel": "email", "topic": "nope"},
    {"data_subject": {"id": "yes"}, "action": "send", "purpose": "newsletter", "channel": "email", "jurisdiction": "US-CA"},
    {"data_subject": {"id": "yes"}, "action": "send", "purpose": "newsletter", "channel": "email", "detail": "all"},
    {"data_subject": {"id": "yes"}, "action": "send", "purpose": "newsletter", "channel": "email", "supported_obligations": []},
    {"data_subject": {"id": "yes"}, "action": "send", "purpose": "newsletter", "channel": "email", "message": {"class": "service"}},
    {"data_subject": {"id": "yes"}, "action": "send", "purpose": "newsletter", "channel": "email", "data": {"recipient": "acme"}},
    {"data_subject": {"id": "yes"}, "action": "use", "purpose": "analytics"},
    {"data_subject": {"id": "no"}, "action": "send", "purpose": "newsletter", "channel": "email"},
    {"data_subject": {"id": "nobody"}, "action": "send", "purpose": "newsletter", "channel": "email"},
    {"data_subject": {"id": "yes"}, "action": "send", "purpose": "unknown", "channel": "email"},
    {"data_subject": {"id": "yes"}, "action": "use", "purpose": "security"},
]  # fmt: skip
VOLATILE = {"decision_id", "evaluated_at", "valid_until", "staleness_ms", "key", "error"}


async def people(api: Api) -> None:
    await api.choose("yes", "grant")
    await api.choose("no", "withdraw")


def stable(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in VOLATILE}


async def batch(api: Api, items: list[Any], **members: Any) -> list[dict[str, Any]]:
    answer = await api.post("/v1/check/batch", {"items": items, **members})
    assert answer.status_code == 200, answer.text
    answers: list[dict[str, Any]] = answer.json()["items"]
    return answers


async def test_each_item_is_answered_as_alone_in_order_duplicates_included(api: Api) -> None:
    """Questions that differ in one member each: nothing is merged by a key that leaves a member out."""
    await people(api)
    alone = [stable((await api.post("/v1/check", one)).json()) for one in ASKED]
    items = [{"key": str(number), **one} for number, one in enumerate([*ASKED, *reversed(ASKED)])]
    together = await batch(api, items)
    assert [one["key"] for one in together] == [item["key"] for item in items]
    assert [stable(one) for one in together] == [*alone, *reversed(alone)]
    assert len({one["revision"] for one in together}) == 1
    assert all(one["error"] is None for one in together)


async def test_a_bad_item_is_a_deny_with_its_error_and_fails_no_other(api: Api) -> None:
    await people(api)
    good = ASKED[0]
    bad: list[tuple[Any, int, str | None]] = [
        ({"key": "b", **good, "action": "sned"}, 422, "#/action"),
        ({**good, "witdraw": 1}, 422, "#/witdraw"),
        ({**good, "channel": None}, 422, "#/channel"),
        ({**good, "reserve": {"mode": "peek"}}, 422, "#/reserve"),
        ({**good, "consistency": {"mode": "at_least", "revision": "vr1.AAF_____________"}}, 422, "#/consistency/revision"),
        ({**good, "key": 7}, 422, "#/key"),
        ([good], 422, None),
        ("nothing", 422, None),
    ]  # fmt: skip
    answers = await batch(api, [good, *(item for item, *_ in bad), good])
    assert answers[0]["decision"] == answers[-1]["decision"] == "permit"
    for (_, status, pointer), answer in zip(bad, answers[1:-1], strict=True):
        assert (answer["decision"], answer["reason"], answer["determinate"]) == ("deny", "request.invalid", True)
        assert answer["error"]["status"] == status
        assert answer["error"]["type"].startswith("urn:volenti:problem:")
        if pointer is not None:
            assert answer["error"]["errors"][0]["pointer"] == pointer
        assert answer["evidence"] == []
        assert answer["decision_id"] is None  # it is not logged
    assert answers[1]["key"] == "b"


async def test_defaults_are_replaced_member_by_member(api: Api) -> None:
    await people(api)
    defaults = {"data_subject": {"id": "yes"}, "action": "send", "purpose": "newsletter", "channel": "email"}
    items = [{}, {"data_subject": {"id": "no"}}, {"purpose": "security", "action": "use", "channel": None}]
    answers = await batch(api, items, defaults=defaults)
    assert [one["reason"] for one in answers] == ["consent.granted", "consent.withdrawn", "basis.legal_obligation"]


@pytest.mark.parametrize(
    ("semantic", "decisions"),
    [("all", "pdpd"), ("stop_on_deny", "pd"), ("stop_on_permit", "p")],
)
async def test_a_batch_is_cut_after_the_item_that_decides(api: Api, semantic: str, decisions: str) -> None:
    await people(api)
    items = [ASKED[0], ASKED[10], ASKED[0], ASKED[10]]
    answers = await batch(api, items, semantic=semantic)
    assert "".join(one["decision"][0] for one in answers) == decisions


@pytest.mark.parametrize(
    ("semantic", "items", "logged"),
    [
        ("all", [ASKED[0], ASKED[10], ASKED[0]], "pdp"),
        ("stop_on_deny", [ASKED[0], ASKED[10], ASKED[0]], "pd"),
        ("stop_on_deny", [ASKED[0], {"action": "sned"}, ASKED[0]], "p"),
        ("stop_on_permit", [ASKED[10], {"action": "sned"}, ASKED[0], ASKED[0]], "dp"),
    ],
)
async def test_what_a_cut_batch_does_not_answer_is_not_logged(
    api: Api, semantic: str, items: list[Any], logged: str
) -> None:
    await people(api)
    answers = await batch(api, items, semantic=semantic)
    await api.services.decisions.flush()
    pages = [(await api.get(f"/v1/data-subjects/{person}/decisions")).json() for person in ("yes", "no")]

    rows = {row["decision_id"]: row["decision"] for page in pages for row in page["data"]}
    assert "".join(rows[one["decision_id"]][0] for one in answers if one["error"] is None) == logged
    assert len(rows) == len(logged)


async def test_a_question_outside_the_credential_is_out_of_scope_and_no_problem(api: Api) -> None:
    await people(api)
    from volenti.flows.manage_credentials import issue

    narrow = await issue(api.services, api.workspace, component="narrow", scopes=["check"], purposes=["analytics"])
    answer = await api.post("/v1/check/batch", {"items": ASKED[:1]}, authorization=f"Bearer {narrow.secret}")
    (item,) = answer.json()["items"]
    assert (item["decision"], item["reason"], item["error"]["status"]) == ("deny", "request.out_of_scope", 403)
    assert item["decision_id"] is None


async def test_at_most_a_thousand_items_are_taken(api: Api) -> None:
    assert len(await batch(api, [ASKED[13]] * 1000)) == 1000
    answer = await api.post("/v1/check/batch", {"items": [ASKED[13]] * 1001})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/items")
    assert (await api.post("/v1/check/batch", {"items": []})).status_code == 422


@pytest.mark.parametrize(
    ("defaults", "pointer"),
    [
        ({"witdraw": 1}, "#/defaults/witdraw"),
        ({"action": "sned"}, "#/defaults/action"),
        ({"jurisdiction": "ZZ"}, "#/defaults/jurisdiction"),
        ({"data": {"categories": ["a"] * 33}}, "#/defaults/data/categories"),
        ({"supported_obligations": ["a"] * 65}, "#/defaults/supported_obligations"),
        ({"key": "1"}, "#/defaults/key"),
        ({"supported_obligations": ["a" * 64] * (DEFAULTS_BYTES // 64)}, "#/defaults"),
    ],
)
async def test_defaults_that_no_question_takes_are_refused_once_for_all_items(
    api: Api, defaults: dict[str, Any], pointer: str
) -> None:
    """Whatever the items say: a thousand of them must not each read what is wrong, or long, again."""
    answer = await api.post("/v1/check/batch", {"defaults": defaults, "items": [ASKED[13]]})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


async def test_a_long_batch_lets_others_have_their_turn(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unread(services: Any, workspace: UUID, asked: list[Any], **_: Any) -> list[UnknownRevision]:
        return [UnknownRevision()] * len(asked)  # at once: every turn that is given up is the batch's own

    monkeypatch.setattr("volenti.api.check.check", unread)
    caller = Caller(api.workspace, UUID(int=0), "c", frozenset({"check"}), None, None)
    body = CheckBatchRequest(items=(msgspec.Raw(msgspec.json.encode(ASKED[13])),) * 1000)
    asking = cast(Any, check_batch(Call(Context(api.services, cast(Any, None), lambda: None), caller, body)))
    turns = sum(1 for _ in asking.__await__())
    assert turns >= 2 * 1000 // TURN_ITEMS  # when they are read, and when they are answered
