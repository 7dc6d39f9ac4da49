"""/schema: the OpenAPI document, and a page of it that needs nothing from elsewhere."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import Any

import msgspec

from volenti.api.endpoint import Call, Reply
from volenti.api.page import HTML

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def _stored() -> bytes:
    return (files("volenti") / "_data" / "openapi" / "openapi.json").read_bytes()


async def document(_: Call) -> Reply:
    """The OpenAPI document, as it was generated and checked in."""
    return Reply(_stored())


async def page(_: Call) -> Reply:
    """The routes as a page: method, path, scope, shapes."""
    described: dict[str, Any] = msgspec.json.decode(_stored())
    rows = [
        _operation(path, method, operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = [
        f"<details id='{escape(name)}'><summary><code>{escape(name)}</code></summary><pre>{_pretty(schema)}</pre></details>"
        for name, schema in sorted(described["components"]["schemas"].items())
    ]
    html = _PAGE.format(
        version=escape(described["info"]["version"]), routes="\n".join(rows), schemas="\n".join(schemas)
    )
    return Reply(html, media=HTML, headers={"content-security-policy": _POLICY})


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    scope = operation.get("x-scope", "")
    shapes = sorted({text.rpartition("/")[2] for text in _references(operation)} - {"Problem"})
    links = " ".join(f"<a href='#{escape(name)}'>{escape(name)}</a>" for name in shapes)
    return f"<tr><td><b>{method.upper()}</b></td><td><code>{escape(path)}</code></td><td>{escape(operation['summary'])}</td><td><code>{escape(scope)}</code></td><td>{links}</td></tr>"


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [found for key, child in value.items() for found in ([child] if key == "$ref" else _references(child))]
    if isinstance(value, list):
        return [found for child in value for found in _references(child)]
    return []


def _pretty(schema: Any) -> str:
    return escape(msgspec.json.format(msgspec.json.encode(schema), indent=2).decode())


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Volenti API {version}</title><link rel="icon" href="data:,">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c2430; }}
table {{ border-collapse: collapse; width: 100%; }} td, th {{ border-bottom: 1px solid #d8dee6; padding: .4rem .6rem; text-align: left; vertical-align: top; }}
pre {{ background: #f5f7fa; overflow: auto; padding: 1rem; }} code {{ font-size: .95em; }} summary {{ cursor: pointer; padding: .2rem 0; }}
</style></head><body>
<h1>Volenti API {version}</h1>
<p>The document behind this page: <a href="/schema/openapi.json">openapi.json</a> (OpenAPI 3.1).</p>
<table><thead><tr><th>Method</th><th>Path</th><th></th><th>Scope</th><th>Shapes</th></tr></thead><tbody>
{routes}
</tbody></table>
<h2>Shapes</h2>
{schemas}
</body></html>
"""
