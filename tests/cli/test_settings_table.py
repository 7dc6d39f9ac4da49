"""The settings table of docs/operations.md is what the code says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import inspect

from volenti.settings import PREFIX, Settings

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
BEGIN, END = "<!-- settings: from volenti.settings.Settings -->\n", "<!-- end of settings -->"


def test_the_documented_settings_are_those_of_the_code() -> None:
    _, begun, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    documented, ended, _ = rest.partition(END)
    assert begun, f"{PAGE.name} lacks the line {BEGIN}"
    assert ended, f"{PAGE.name} lacks the line {END}"

    expected = rendered()
    if documented.strip() != expected:
        pytest.fail(f"put this between the two markers of docs/operations.md:\n\n{expected}\n", pytrace=False)


def rendered() -> str:
    """The table: one row a setting, in the order of the struct."""
    kind = inspect.type_info(Settings)
    assert isinstance(kind, inspect.StructType)
    rows = [_row(field) for field in kind.fields]
    return "\n".join(["| setting | environment | default | meaning |", "|---|---|---|---|", *rows])


def _row(field: inspect.Field) -> str:
    description, kind = "", field.type
    while isinstance(kind, inspect.Metadata):
        description = (kind.extra_json_schema or {}).get("description", description)
        kind = kind.type
    assert description, f"the setting {field.name} has no description"
    if isinstance(kind, inspect.LiteralType):
        description += f" ({' or '.join(f'`{value}`' for value in sorted(kind.values, key=str))})"
    cells = (f"`{field.name}`", f"`{PREFIX}{field.name.upper()}`", _default(field.default), description)
    return f"| {' | '.join(_cell(text) for text in cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "&#124;").replace("<", "&lt;")


def _default(value: Any) -> str:
    if value is None:
        return "–"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
