"""Compiled policies, kept in memory for the instants at which each is right."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import NamedTuple
from uuid import UUID
from weakref import WeakValueDictionary

from volenti.core.policy.compile import CompiledPolicy

KEPT = 256
"""How many keys are kept, some tens of MB at most; the one that was asked for least lately goes first."""


class Key(NamedTuple):
    """What a compiled form depends on beside the law of its time.

    The activation in force stands for all that came into force before it, which say since when each notice may have
    been shown: when another one comes into force, the key is another. For an instant that is not the present it does
    not, and `known` says how many activations are taken for known. Numbers are given out again after a backup was put
    back: the recovery begins another `epoch`.
    """

    workspace_id: UUID
    version: int
    activation: int
    epoch: int
    known: int | None = None


class CompiledPolicies:
    """Each is right from the instant that it was compiled for until `changes_at_ms`: rules of law begin and end by date."""

    def __init__(self, kept: int = KEPT) -> None:
        self._size = kept
        self._kept: OrderedDict[Key, dict[int | None, tuple[int, CompiledPolicy]]] = OrderedDict()
        self._turns: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    def turn(self, key: Key) -> asyncio.Lock:
        """What to hold while compiling: at the moment of a change everybody asks at once, and one of them compiles."""
        return self._turns.setdefault(key, asyncio.Lock())

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
