"""Compiled policies, kept in memory for the instants at which each is right."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias
from uuid import UUID

from volenti.core.policy.compile import CompiledPolicy

KEPT = 512
"""How many keys are kept; the one that was asked for least lately goes first."""

Key: TypeAlias = tuple[UUID, int, int]
"""Workspace, version, and how many activations were known: they say since when each notice may have been shown."""


class CompiledPolicies:
    """Each is right from the instant that it was compiled for until `changes_at_ms`: rules of law begin and end by date."""

    def __init__(self, kept: int = KEPT) -> None:
        self._size = kept
        self._kept: OrderedDict[Key, dict[int | None, tuple[int, CompiledPolicy]]] = OrderedDict()

    def find(self, key: Key, at_ms: int) -> CompiledPolicy | None:
        """The form that is right at the instant; None if it has to be compiled."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        for until, (since, policy) in self._kept[key].items():
            if since <= at_ms and (until is None or at_ms < until):
                return policy
        return None

    def keep(self, key: Key, at_ms: int, policy: CompiledPolicy) -> None:
        """Keep the form that was compiled for the instant. One that ends when it does is the same, from an earlier instant on."""
        forms = self._kept.setdefault(key, {})
        since, _ = forms.get(policy.changes_at_ms, (at_ms, policy))
        forms[policy.changes_at_ms] = min(since, at_ms), policy
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
