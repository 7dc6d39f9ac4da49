"""A compiled policy is used again only at instants for which it is right, and memory for them is bounded."""

from __future__ import annotations

from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volenti.core.policy.compile import CompiledPolicy, compile_policy
from volenti.core.policy.lint import lint
from volenti.core.policy.starter import starter_policy
from volenti.flows.compiled_policies import CompiledPolicies, Key
from volenti.flows.profiles import shipped

LINTED = lint(starter_policy("Acme GmbH"), shipped()).policy
assert LINTED is not None
COMPILED = compile_policy(LINTED, (), shipped()["2026.11"], 0)
KEY = Key(UUID(int=1), 1, 1, 1)


def compiled(at_ms: int, changes: list[int]) -> CompiledPolicy:
    """What compiling for an instant gives where the law changes at these instants."""
    return msgspec.structs.replace(COMPILED, changes_at_ms=min((one for one in changes if one > at_ms), default=None))


@given(
    changes=st.lists(st.integers(0, 20), max_size=4),
    asked=st.lists(st.integers(0, 20), min_size=1, max_size=20),
    kept=st.integers(1, 3),
)
def test_what_is_found_is_what_compiling_for_that_instant_would_give(
    changes: list[int], asked: list[int], kept: int
) -> None:
    memory = CompiledPolicies(kept)
    compilations = 0
    for at_ms in asked:
        found = memory.find(KEY, at_ms)
        if found is None:
            compilations += 1
            memory.keep(KEY, at_ms, compiled(at_ms, changes))
        else:
            assert found.changes_at_ms == compiled(at_ms, changes).changes_at_ms
    for at_ms in asked:
        assert memory.find(KEY, at_ms) is not None
    assert compilations <= len(set(asked))


@pytest.mark.parametrize("asked", [[5, 6, 19], [19, 5, 6], [6, 5, 6]])
def test_a_form_is_compiled_once_for_each_time_that_it_holds(asked: list[int]) -> None:
    memory = CompiledPolicies()
    for at_ms in asked:
        if memory.find(KEY, at_ms) is None:
            memory.keep(KEY, at_ms, compiled(at_ms, [20]))

    assert [memory.find(KEY, at_ms) is None for at_ms in (4, 5, 12, 19, 20)] == [True, False, False, False, True]


def test_another_workspace_version_activation_epoch_or_knowledge_finds_nothing() -> None:
    memory = CompiledPolicies()
    memory.keep(KEY, 5, COMPILED)
    others = (KEY._replace(workspace_id=UUID(int=2)), KEY._replace(version=2), KEY._replace(activation=2), KEY._replace(epoch=2), KEY._replace(known=1))  # fmt: skip

    assert [memory.find(other, 5) for other in others] == [None] * 5


def test_the_one_that_was_asked_for_least_lately_goes_first() -> None:
    memory = CompiledPolicies(2)
    keys = [KEY._replace(version=version) for version in (1, 2, 3)]
    memory.keep(keys[0], 0, COMPILED)
    memory.keep(keys[1], 0, COMPILED)
    assert memory.find(keys[0], 0) is not None
    memory.keep(keys[2], 0, COMPILED)

    assert [memory.find(key, 0) is not None for key in keys] == [True, False, True]
