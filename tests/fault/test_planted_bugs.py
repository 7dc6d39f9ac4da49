"""The suite catches planted bugs: a test that stays green under the bug that it is there for proves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fault.harness import LONG
from fault.mutants import MUTANTS
from pooler import pgbouncer

pytestmark = [pytest.mark.fault, pytest.mark.slow]

ROOT = Path(__file__).parents[2]

MACHINE = "tests/scenario/test_machine.py"
SECONDS = 400.0
"""How long one may take on a busy machine."""

BAD_CONNECTION = "tests/fault/test_slow_database.py::test_under_a_bad_connection_every_request_is_answered_in_time_and_nothing_is_lost"
CAUGHT_BY = {
    "ack_before_commit": "tests/api/test_first_slice.py",
    "anchor_ignored": "tests/flows/test_recover.py::test_after_a_restore_everything_is_denied_until_it_is_recovered_and_then_every_withdrawal_holds",
    "cache_key_missing_field": "tests/api/test_policies.py::test_the_next_check_decides_by_the_new_version_and_names_it",
    "caller_waits": f"{BAD_CONNECTION}[black_hole]",
    "credential_never_reread": "tests/api/test_auth.py::test_a_revoked_credential_is_refused_within_a_second_on_every_replica",
    "dead_peer_unnoticed": "tests/fault/test_partition.py",
    "guard_off": "tests/core/test_consent.py",
    "journal_interleaved": "tests/store/test_journal.py::test_a_write_begins_only_when_the_one_before_has_ended_though_its_caller_has_gone",
    "journal_no_fsync": "tests/store/test_journal.py::test_a_line_is_synced_before_the_call_returns",
    "missing_tile_shortens": "tests/core/test_merkle.py",
    "nextval_index": "tests/fault/test_unknown_commit.py::test_appends_that_are_cut_have_exactly_one_effect_and_one_answer[cut_before_sync]",
    "permissive_wins_ties": "tests/core/test_consent.py",
    "repeat_not_journaled": "tests/flows/test_recover.py::test_a_withdrawal_is_not_acknowledged_while_a_required_journal_cannot_be_written",
    "revision_unchecked": "tests/store/test_append.py",
    "rls_off": "tests/store/test_roles.py",
    "rollback_waits": "tests/fault/test_unknown_commit.py::test_a_transaction_on_a_silent_connection_ends_with_its_callers_deadline",
    "session_set_config": "tests/store/test_roles.py",
    "sign_in_the_past": "tests/flows/test_sign_checkpoint.py::test_nothing_is_signed_while_the_clock_stands_before_the_newest_checkpoint",
    "sign_in_transaction": "tests/flows/test_sign_checkpoint.py::test_no_head_is_signed_before_its_entry_is_committed",
}

ALSO_CAUGHT_BY = {"session_set_config": "tests/store/test_pooler.py"}
"""Behind a pooler, where another client gets the session."""


def test_every_planted_bug_has_a_test_that_is_there_for_it() -> None:
    assert CAUGHT_BY.keys() == MUTANTS.keys()


SLOW = {"caller_waits", "dead_peer_unnoticed"}
"""They take a whole deployment."""
IN_TURN = [(name, tests) for name, tests in sorted(CAUGHT_BY.items()) if LONG or name not in SLOW]


@pytest.mark.parametrize(("name", "tests"), [*IN_TURN, *ALSO_CAUGHT_BY.items()])
def test_a_planted_bug_is_caught(name: str, tests: str) -> None:
    if tests in ALSO_CAUGHT_BY.values():
        pgbouncer()
    assert_caught(name, tests, VOLENTI_FAULT_APPENDS="3")


@pytest.mark.parametrize("name", ["cache_key_missing_field", "guard_off", "permissive_wins_ties", "revision_unchecked"])
def test_the_stateful_machine_finds_a_planted_bug_with_the_examples_of_ci(name: str) -> None:
    assert_caught(name, MACHINE)


def assert_caught(name: str, test: str, **environment: str) -> None:
    """Run a test under a bug, with the examples of CI; it must fail, and not for want of something."""
    told = {**os.environ, "VOLENTI_TEST_BREAK": name, "VOLENTI_MACHINE": "ci", **environment}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", test]
    done = subprocess.run(
        command, cwd=ROOT, env=told, capture_output=True, text=True, timeout=600 if LONG else SECONDS, check=False
    )

    if "1 skipped" in done.stdout and os.geteuid() != 0:
        pytest.skip("what catches it needs root")
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert "FAILED" in done.stdout, done.stdout[-2000:]
