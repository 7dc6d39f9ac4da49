"""Compiled policies for tests of the core, with a made-up law where a test needs one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from volenti.core.policy.cell import CellValue
from volenti.core.policy.compile import CompiledPolicy, compile_policy
from volenti.core.policy.document import Policy
from volenti.core.policy.lint import lint
from volenti.core.policy.notice import PublishedNotice, newly_published
from volenti.core.policy.profile import Confidence, ProfileRow, Profiles

LAW = "2026.11"


def policy_of(text: str) -> Policy:
    """The policy of a YAML text, which has no errors."""
    linted = lint(text)
    assert linted.policy is not None, linted.findings
    return linted.policy


def row(jurisdiction: str, key: str, value: CellValue) -> ProfileRow:
    return ProfileRow(jurisdiction=jurisdiction, key=key, value=value, source="made up", confidence=Confidence.POLICY)


def compiled(
    text: str, *, law: Sequence[ProfileRow] = (), earlier: Iterable[PublishedNotice] = (), published_at: int = 0
) -> CompiledPolicy:
    """The policy of a YAML text as published at an instant (milliseconds UTC), under these rows and no others."""
    policy = policy_of(text)
    profiles = Profiles(version=LAW, rows=tuple(law)) if law else None
    if profiles is not None:
        policy = msgspec.structs.replace(policy, jurisdictions=LAW)
    history = [*earlier]
    return compile_policy(policy, [*history, *stamped(policy, history, published_at)], profiles, published_at)


def stamped(policy: Policy, history: Sequence[PublishedNotice], published_at: int) -> list[PublishedNotice]:
    """The notice versions that publishing a policy adds to those before it."""
    moment = datetime.fromtimestamp(published_at / 1000, tz=UTC)
    return [msgspec.structs.replace(notice, published_at=moment) for notice in newly_published(policy.notices, history)]
