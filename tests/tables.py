"""The tables of decision cases, as every runner plays them: what happens when, what is asked, what is expected.

The form is described at the top of `vectors/decisions.yaml`. A runner plays the steps of a case in the order of their
instants; at one instant events come before questions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from shipped_profiles import SHIPPED
from volenti.core.policy.document import Policy
from volenti.core.policy.lint import lint

VECTORS = Path(__file__).parent / "vectors"
Members = dict[str, Any]


def at(text: str) -> int:
    """The milliseconds of an RFC 3339 instant."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def patched(document: Members, patch: Members) -> Members:
    """The document after a JSON merge patch (RFC 7396)."""
    result = dict(document)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            result[name] = patched(result.get(name) or {}, value)
        else:
            result[name] = value
    return result


class Table:
    """A file of cases with the policy under which they are played."""

    def __init__(self, name: str) -> None:
        self.content: Members = yaml.safe_load((VECTORS / name).read_text(encoding="utf-8"))
        self.defaults: Members = self.content["defaults"]
        self.cases: list[Members] = self.content["cases"]
        self._publications: dict[str, list[tuple[str, Policy]]] = {}

    def policy_of(self, case: Members) -> str:
        """What tells the policies of a case from those of others: cases with the same may share them."""
        return json.dumps([case.get(name) for name in ("policy", "earlier", "published_at")])

    def publications(self, case: Members) -> list[tuple[str, Policy]]:
        """The policies that are published for a case, with their instants, oldest first: the last is what it is about."""
        key = self.policy_of(case)
        if key not in self._publications:
            self._publications[key] = self._published(case)
        return self._publications[key]

    def _published(self, case: Members) -> list[tuple[str, Policy]]:
        document = patched(self.content["policy"], case.get("policy", {}))
        earlier = [*self.content.get("earlier", []), *case.get("earlier", [])]
        published = [(one["at"], parsed(_with_notice(document, one))) for one in earlier]
        return [*published, (case.get("published_at", self.content["published_at"]), parsed(document))]

    def events(self, case: Members) -> Iterator[Members]:
        """What happens, in order, with the defaults filled in; the first is what is known about the person."""
        person = case.get("person", self.defaults["person"])
        if person is not None:
            yield {"facts": person, "at": case.get("person_at", self.defaults["person_at"]), "actor": "operator"}
        for event in case.get("events", []):
            filled = self.defaults["event"] | event
            if "kind" in event or not {"facts", "restrict", "ask"} & event.keys():
                filled["notice"] = event.get("notice", self._notice(filled))
            yield filled

    def _notice(self, event: Members) -> str | None:
        shown = event["kind"] in ("grant", "request", "acknowledge")
        return self.defaults["notices"].get(event["purpose"]) if shown else None

    def questions(self, case: Members) -> Iterator[Members]:
        for ask in case["asks"]:
            yield self.defaults["question"] | ask


def parsed(document: Members) -> Policy:
    linted = lint(json.dumps(document), SHIPPED)
    assert linted.policy is not None, linted.findings
    return linted.policy


def _with_notice(document: Members, one: Members) -> Members:
    changed: Members = json.loads(json.dumps(document))
    notice = changed["notices"][one["notice"]]
    notice.pop("adds", None)
    notice |= {"version": one["version"], "change": one["change"]} | ({"adds": one["adds"]} if "adds" in one else {})
    notice["text"]["en"]["body"] = one["body"]
    return changed


def expectation(expect: Members) -> Members:
    """What a question expects, with instants in milliseconds: in `valid_until`, `retry_at` and inside remedies."""
    return {name: _milliseconds(name, value) for name, value in expect.items()}


_INSTANTS = ("valid_until", "retry_at", "at", "not_before")


def _milliseconds(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_milliseconds(name, one) for one in value]
    if isinstance(value, dict):
        return {inner: _milliseconds(inner, one) for inner, one in value.items()}
    return at(value) if name in _INSTANTS and isinstance(value, str) else value
