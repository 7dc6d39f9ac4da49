"""What the author of a policy reads: every finding of faulty documents, word for word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from shipped_profiles import SHIPPED
from volenti.core.policy.lint import lint

CASES: list[dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[1] / "vectors" / "findings.yaml").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["title"])
def test_the_linter_says_all_of_it_and_where(case: dict[str, Any]) -> None:
    linted = lint(case["document"], SHIPPED)
    said = [f"{one.line} {one.pointer or '-'} {one.severity}: {one.message}" for one in linted.findings]
    assert said == case["findings"]
    assert (linted.policy is None) is any(one.severity == "error" for one in linted.findings)
