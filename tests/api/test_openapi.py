"""The documents about the API are what the code says, and whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from conftest import Api
from volenti.api.endpoint import Route
from volenti.api.openapi import openapi, write
from volenti.api.routes import routes
from volenti.core.reason import REASONS

FOLDER = Path(__file__).parents[2] / "openapi"
TABLE = routes(public_log=False, test_clock=True)
DOCUMENT: dict[str, Any] = msgspec.json.decode((FOLDER / "openapi.json").read_bytes())


@pytest.mark.parametrize("name", ["openapi.json", "policy.schema.json"])
def test_a_checked_in_document_is_what_the_code_generates(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    if (tmp_path / name).read_bytes() != (FOLDER / name).read_bytes():
        pytest.fail(f"openapi/{name} is not what the code says; run: make openapi", pytrace=False)


@pytest.mark.parametrize("route", TABLE, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_of_the_table_is_described(route: Route) -> None:
    path = re.sub(r"\{(\w+):path\}", r"{\1}", route.path)
    operation = DOCUMENT["paths"][path][route.method.lower()]
    assert operation["x-listener"] == route.listener
    assert operation.get("x-scope") == route.scope
    assert {one["name"] for one in operation["parameters"] if one["in"] == "path"} == set(re.findall(r"\{(\w+)\}", path))  # fmt: skip
    assert str(route.status) in operation["responses"]
    if route.scope is not None:
        assert {"401", "403"} <= set(operation["responses"])
    if route.request is not None:
        assert operation["x-limit-bytes"] == route.limit
        assert {"400", "413", "415", "422"} <= set(operation["responses"])


def test_nothing_is_described_that_is_not_served() -> None:
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == {(route.method, re.sub(r"\{(\w+):path\}", r"{\1}", route.path)) for route in TABLE}


def test_every_reason_is_in_the_enumeration_with_its_number_and_text() -> None:
    reason = DOCUMENT["components"]["schemas"]["Reason"]
    assert reason["enum"] == [one.code for one in REASONS.values()]
    for one in REASONS.values():
        assert f"{one.code} ({one.number}, {one.step}, {one.effect}): {one.text}" in reason["description"]


def test_a_deployment_with_public_logs_describes_them_as_open() -> None:
    described = openapi(routes(public_log=True, test_clock=False))
    assert described["paths"]["/log/{log}/checkpoint"]["get"]["security"] == []
    assert "/v1/test/clock" not in described["paths"]


# ---- structure: what OpenAPI 3.1 demands of the parts that are used


def test_the_document_has_the_structure_of_openapi() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["title"]
    assert DOCUMENT["info"]["version"]
    names = [one["operationId"] for methods in DOCUMENT["paths"].values() for one in methods.values()]
    assert len(set(names)) == len(names)
    for path, methods in DOCUMENT["paths"].items():
        assert path.startswith("/")
        assert not re.search(r"\{\w*[^\w}]", path)
        for method, operation in methods.items():
            assert method in {"get", "post", "put", "patch", "delete"}
            assert operation["summary"]
            assert operation["responses"]
            for parameter in operation["parameters"]:
                assert parameter["in"] in {"path", "query", "header"}
                assert parameter["required"] or parameter["in"] != "path"
                assert parameter["schema"]
            for status, response in operation["responses"].items():
                assert re.fullmatch(r"[1-5]\d\d", status)
                assert response["description"]
            for requirement in operation["security"]:
                assert set(requirement) <= set(DOCUMENT["components"]["securitySchemes"])


def test_every_reference_leads_to_a_schema_and_every_schema_is_referred_to() -> None:
    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            inner = [references(one) for one in value.values()]
            return set().union(*inner) | ({value["$ref"]} if isinstance(value.get("$ref"), str) else set())
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    schemas = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert references(DOCUMENT) == schemas


def test_every_request_shape_refuses_unknown_members() -> None:
    for route in TABLE:
        if route.request is not None:
            assert DOCUMENT["components"]["schemas"][route.request.__name__]["additionalProperties"] is False


# ---- as served


async def test_the_served_document_is_the_checked_in_one(api: Api) -> None:
    answer = await api.http.get("/schema/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == (FOLDER / "openapi.json").read_bytes()


async def test_the_page_needs_nothing_from_elsewhere_and_may_run_nothing(api: Api) -> None:
    answer = await api.http.get("/schema")
    assert answer.headers["content-type"].startswith("text/html")
    assert "http://" not in answer.text
    assert "https://" not in answer.text
    assert "<script" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for path in DOCUMENT["paths"]:
        assert path in answer.text
    for name in DOCUMENT["components"]["schemas"]:
        assert f"id='{name}'" in answer.text
