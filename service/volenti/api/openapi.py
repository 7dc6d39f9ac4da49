"""The OpenAPI document, generated from the route table and the wire's types; `python -m volenti.api.openapi FOLDER` writes it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from volenti.api import wire
from volenti.api.endpoint import FORM, Route
from volenti.core.policy.schema import json_schema
from volenti.core.reason import REASONS

_STATUS = {
    200: "Done", 201: "Recorded", 400: "No JSON, or too deep", 401: "No live credential", 403: "Outside the credential's scope", 404: "Not in this workspace",
    409: "Contradicts what is stored; nothing was changed", 410: "Its time is over, or the person is erased", 413: "Body too large", 415: "Not application/json", 422: "Invalid; a pointer names the member",
    503: "Cannot be answered at the moment; retry", 500: "Unexpected",
}  # fmt: skip


def openapi(table: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a route table."""
    types = sorted(
        {kind for route in table for kind in (route.request, route.answer) if kind is not None} | {wire.Problem},
        key=lambda kind: kind.__name__,
    )
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    references = dict(zip(types, schemas, strict=True))
    _describe_reasons(components)
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        path = re.sub(r"\{(\w+):path\}", r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Volenti",
            "version": version("volenti"),
            "description": "Consent and preference management: a signed consent ledger, and a policy check that every component asks first.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"credential": {"type": "http", "scheme": "bearer", "bearerFormat": "vol_sk_…"}},
        },
    }


def _operation(route: Route, path: str, references: dict[type[Any], Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.handler.__name__,
        "tags": [_tag(path)],
        "x-listener": route.listener,
        "parameters": _parameters(route, path),
        "responses": _responses(route, references),
    }
    if route.scope is not None:
        operation["security"] = [{"credential": [route.scope]}]
        operation["x-scope"] = route.scope
    else:
        operation["security"] = []
    if route.request is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {FORM if route.form else "application/json": {"schema": references[route.request]}},
        }
        operation["x-limit-bytes"] = route.limit
    return operation


def _parameters(route: Route, path: str) -> list[dict[str, Any]]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    parameters += [
        {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in route.query.items()
    ]
    parameters += [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": text,
            "schema": {"type": "string", "maxLength": 255},
        }
        for name, text in route.headers.items()
    ]
    return parameters


def _responses(route: Route, references: dict[type[Any], Any]) -> dict[str, Any]:
    schema = references[route.answer] if route.answer is not None else {"type": "string"}
    content = {
        media.partition(";")[0]: {"schema": schema if media == "application/json" else {"type": "string"}}
        for media in route.media
    }
    responses: dict[str, Any] = {str(route.status): {"description": _STATUS[route.status], "content": content}}
    errors = set(route.errors)
    if route.scope is not None:
        errors |= {401, 403}
    if route.request is not None:
        errors |= {400, 413, 415, 422}
    page = route.media[0].startswith("text/html")
    for status in sorted(errors):
        problem = {"application/problem+json": {"schema": references[wire.Problem]}}
        told = page and status in (404, 410)  # a person reads it
        responses[str(status)] = {"description": _STATUS[status], "content": content if told else problem}
    if (
        route.answer in (wire.CheckAnswer, wire.Health) and "503" in responses
    ):  # an indeterminate decision has the same body
        responses["503"]["content"]["application/json"] = {"schema": references[route.answer]}
    return responses


def _describe_reasons(components: dict[str, Any]) -> None:
    codes = {"type": "string", "enum": [reason.code for reason in REASONS.values()]}
    codes["description"] = "; ".join(
        f"{reason.code} ({reason.number}, {reason.step}, {reason.effect}): {reason.text}" for reason in REASONS.values()
    )
    components["Reason"] = codes
    for name, member in (("CheckAnswer", "reason"), ("CheckItemAnswer", "reason"), ("CheckReason", "code")):
        if name in components:
            components[name]["properties"][member] = {"$ref": "#/components/schemas/Reason"}


def _tag(path: str) -> str:
    return next((part for part in path.split("/") if part and part != "v1"), "root")


def write(folder: Path) -> None:
    """Write openapi.json and policy.schema.json."""
    from volenti.api.routes import routes  # the table names handlers, which need this module for /schema

    documents = {
        "openapi.json": openapi(routes(public_log=False, test_clock=True)),
        "policy.schema.json": json_schema(),
    }
    for name, document in documents.items():
        (folder / name).write_bytes(
            msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"
        )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
