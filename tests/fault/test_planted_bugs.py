"""The suite catches planted bugs: a test that stays green under the bug that it is there for proves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fault.mutants import MUTANTS
from pooler import pgbouncer

pytestmark = [pytest.mark.fault, pytest.mark.slow]

ROOT = Path(__file__).parents[2]

MACHINE = "tests/scenario/test_machine.py"
SECONDS = 400.0
"""How long one may take on a busy machine."""

CAUGHT_BY = {
    "ack_before_commit": "tests/api/test_first_slice.py",
    "guard_off": "tests/core/test_consent.py",
    "journal_no_fsync": "tests/store/test_journal.py::test_a_line_is_synced_before_the_call_returns",
    "missing_tile_shortens": "tests/core/test_merkle.py",
    "nextval_index": "tests/fault/test_unknown_commit.py::test_appends_that_are_cut_have_exactly_one_effect_and_one_answer[cut_before_sync]",
    "permissive_wins_ties": "tests/core/test_consent.py",
    "policy_remembered": MACHINE,
    "revision_unchecked": "tests/store/test_append.py",
    "rls_off": "tests/store/test_roles.py",
    "session_set_config": "tests/store/test_roles.py",
}

ALSO_CAUGHT_BY = {"session_set_config": "tests/store/test_pooler.py"}
"""Behind a pooler, where another client gets the session."""


def test_every_planted_bug_has_a_test_that_is_there_for_it() -> None:
    assert CAUGHT_BY.keys() == MUTANTS.keys()


@pytest.mark.parametrize(("name", "tests"), [*sorted(CAUGHT_BY.items()), *ALSO_CAUGHT_BY.items()])
def test_a_planted_bug_is_caught(name: str, tests: str) -> None:
    if tests in ALSO_CAUGHT_BY.values():
        pgbouncer()
    assert_caught(name, tests, VOLENTI_FAULT_APPENDS="3")


@pytest.mark.parametrize("name", ["guard_off", "permissive_wins_ties", "revision_unchecked"])
def test_the_stateful_machine_finds_a_planted_bug_with_the_examples_of_ci(name: str) -> None:
    assert_caught(name, MACHINE)


def assert_caught(name: str, test: str, **environment: str) -> None:
    """Run a test under a bug, with the examples of CI; it must fail, and not for want of something."""
    told = {**os.environ, "VOLENTI_TEST_BREAK": name, "VOLENTI_MACHINE": "ci", **environment}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True, timeout=SECONDS, check=False)

    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert "FAILED" in done.stdout, done.stdout[-2000:]
