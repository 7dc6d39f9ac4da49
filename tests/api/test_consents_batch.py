"""POST /v1/consents/batch: each item is a write of its own, answered as alone, and a person's items keep their order."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import Api
from volenti.errors import Unavailable
from volenti.flows.manage_credentials import issue
from volenti.flows.record_consents import record
from volenti.store import ledger

Members = dict[str, Any]


def item(person: str, kind: str = "grant", purpose: str = "newsletter", **members: Any) -> Members:
    event = {"kind": kind, "purpose": purpose, **({"notice": f"{purpose}@1"} if kind == "grant" else {})}
    return {"data_subject": {"id": person}, "events": [event], "actor": {"type": "data_subject"}, "method": "web_form", "surface": "https://shop.example/signup", **members}  # fmt: skip


async def send(api: Api, *items: Any, **headers: str) -> Members:
    answer = await api.post("/v1/consents/batch", {"items": list(items)}, **headers)
    assert answer.status_code == 200, answer.text
    answered: Members = answer.json()
    return answered


async def size(api: Api) -> int:
    async with api.services.database.workspace("volenti_app", api.workspace) as connection:
        return (await ledger.head(connection, api.workspace)).size


async def test_each_item_is_recorded_and_answered_in_its_place(api: Api) -> None:
    before = await size(api)
    answer = await send(api, *(item(f"cus_{n}", key=str(n)) for n in range(40)))
    assert [(one["key"], one["status"], one["error"]) for one in answer["items"]] == [(str(n), 201, None) for n in range(40)]  # fmt: skip
    assert [one["recorded"]["data_subject"] for one in answer["items"]] == [f"cus_{n}" for n in range(40)]
    assert await size(api) == before + 80  # each person is new: an entry that registers them, one that grants
    for n in (0, 39):
        seen = await api.check(f"cus_{n}", consistency={"mode": "at_least", "revision": answer["revision"]})
        assert seen["evidence"][0]["entry"] == answer["items"][n]["recorded"]["entries"][-1]["entry"]


async def test_a_bad_item_is_answered_as_alone_and_stops_no_other(api: Api) -> None:
    bad: list[Any] = [
        item("cus_2", purpose="nope"),
        item("cus_3") | {"events": []},
        item("cus_4") | {"evnts": []},
        item("cus_5") | {"preferences": {"channels": {}}},
        item("cus_6", evidence={"offer": "x"}),
        "cus_7",
        item("cus_8", key=7),
        item("cus_9", key="k" * 129),
        item("/"),
    ]
    answer = await send(api, item("cus_1", key="first"), *bad, item("cus_10", key="last"))
    first, *refused, last = answer["items"]
    assert (first["status"], last["status"], last["key"]) == (201, 201, "last")
    for one, alone in zip(refused, bad, strict=True):
        assert (one["recorded"], one["error"]["status"]) == (None, one["status"])
        if isinstance(alone, dict) and "key" not in alone:
            expected = await api.post("/v1/consents", alone)
            assert (one["status"], one["error"]) == (expected.status_code, expected.json())
    assert [one["status"] for one in refused] == [422, 422, 422, 422, 409, 422, 422, 422, 422]


async def test_what_alone_would_be_refused_for_its_credential_is_refused_here_too(api: Api) -> None:
    issued = await issue(api.services, api.workspace, component="forms", scopes=("consents:write",), purposes=("analytics",))  # fmt: skip
    limited = Api(api.http, api.services, api.workspace, issued.secret)
    imported = item("cus_1", purpose="analytics", actor={"type": "import"})
    answer = await send(limited, item("cus_1", purpose="analytics"), item("cus_1"), imported)
    assert [one["status"] for one in answer["items"]] == [201, 403, 403]


async def test_the_items_of_one_person_keep_their_order(api: Api) -> None:
    ana = {"identifiers": [{"type": "email", "value": "ana@example.org"}]}
    known = {"id": "cus_ana", **ana}
    kinds = ["grant", "withdraw"] * 5
    items = [item("x", kind, data_subject=known if n % 2 else ana) for n, kind in enumerate(kinds)]
    items[0]["data_subject"] = known
    answer = await send(api, *items)
    indexes = [one["recorded"]["entries"][-1]["index"] for one in answer["items"] if one["recorded"]]
    assert indexes == sorted(indexes)
    assert answer["items"][-1]["status"] == 201
    assert (await api.check("cus_ana"))["reason"] == "consent.withdrawn"


async def test_a_repeated_batch_adds_nothing_and_is_answered_the_same(api: Api) -> None:
    items = [item("cus_1"), item("cus_2", "withdraw"), item("cus_3", purpose="nope")]
    first = await send(api, *items, idempotency_key="b-1")
    before = await size(api)
    again = await send(api, *items, idempotency_key="b-1")
    assert again["items"] == first["items"]
    assert await size(api) == before

    other = await send(api, item("cus_4"), *items[1:], idempotency_key="b-1")
    assert other["items"][0]["error"]["type"].endswith(":idempotency_key_reused")
    alone = await api.post("/v1/consents", items[0], idempotency_key="b-1")
    assert alone.status_code == 201


async def test_after_an_unknown_outcome_the_rest_of_a_person_is_not_tried(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(services: Any, workspace_id: Any, command: Any, who: Any, *more: Any) -> Any:
        if who[0].value == "cus_1" and command.choices[0].kind == "grant":
            raise Unavailable("the outcome is unknown")
        return await record(services, workspace_id, command, who, *more)

    monkeypatch.setattr("volenti.flows.record_batch.record", failing)
    items = [item("cus_1"), item("cus_2"), item("cus_1", "withdraw")]
    answer = await send(api, *items, idempotency_key="b-2")
    assert [one["status"] for one in answer["items"]] == [503, 201, 503]
    assert "earlier item" in answer["items"][2]["error"]["detail"]

    monkeypatch.undo()
    again = await send(api, *items, idempotency_key="b-2")
    assert [one["status"] for one in again["items"]] == [201, 201, 201]
    assert (await api.check("cus_1"))["reason"] == "consent.withdrawn"


@pytest.mark.parametrize("items", [[], [item("cus_1")] * 501], ids=["none", "too many"])
async def test_a_batch_has_one_to_five_hundred_items(api: Api, items: list[Members]) -> None:
    before = await size(api)
    answer = await api.post("/v1/consents/batch", {"items": items})
    assert answer.status_code == 422
    assert await size(api) == before


async def test_five_hundred_people_are_recorded_by_one_call(api: Api) -> None:
    answer = await send(api, *(item(f"cus_{n}") for n in range(500)))
    assert {one["status"] for one in answer["items"]} == {201}
