"""Policies for tests: the starter policy with a few members changed, published over the API."""

from __future__ import annotations

import json
from typing import Any

import yaml

from conftest import Api
from volenti.core.policy.starter import starter_policy


def starter(**purposes: dict[str, Any]) -> dict[str, Any]:
    """The starter policy as a document; what is given for a purpose is added to it, `policy` to the whole."""
    document: dict[str, Any] = yaml.safe_load(starter_policy("Acme GmbH"))
    document.update(purposes.pop("policy", {}))
    for key, members in purposes.items():
        document["purposes"].setdefault(key, {}).update(members)
    return document


async def publish(api: Api, document: dict[str, Any], **members: Any) -> dict[str, Any]:
    """Publish a document; what it is answered."""
    text = json.dumps(document, ensure_ascii=False)  # JSON is YAML, and has no aliases
    answer = await api.post("/v1/policies", {"document": text, **members})
    assert answer.status_code == 201, answer.text
    published: dict[str, Any] = answer.json()
    return published
