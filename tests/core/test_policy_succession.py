"""What of other versions of the policy binds one: the notices before its own, and the day on which the next one begins."""

from __future__ import annotations

import hashlib

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from shipped_profiles import SHIPPED
from volenti.core.data_subject import EMPTY
from volenti.core.decision import SOUND, TTL_MS, Question, Situation, evaluate
from volenti.core.policy.compile import compile_policy
from volenti.core.policy.document import Action, Change, Channel, Notice
from volenti.core.policy.lint import lint
from volenti.core.policy.notice import PublishedNotice, required_version, stood_on
from volenti.core.policy.starter import starter_policy

STARTER = lint(starter_policy("Acme GmbH"), SHIPPED).policy
assert STARTER is not None
POLICY = compile_policy(STARTER, (), SHIPPED["2026.11"], 0)
NOW = 1_000_000_000_000


def notice(version: int, change: Change = Change.MATERIAL, name: str = "newsletter") -> PublishedNotice:
    digest = hashlib.sha256(f"{name}@{version}".encode()).digest()
    return PublishedNotice(notice=name, version=version, change=change, hash=digest)


def at_version(number: int) -> dict[str, Notice]:
    """The starter's notices with the newsletter's at a version."""
    assert STARTER is not None
    newsletter = msgspec.structs.replace(STARTER.notices["newsletter"], version=number)
    return {**STARTER.notices, "newsletter": newsletter}


def test_a_policy_stands_on_the_notices_up_to_its_own_and_on_those_that_it_no_longer_has() -> None:
    published = [notice(1), notice(2), notice(3), notice(7, name="gone")]

    assert stood_on(at_version(2), published) == (notice(1), notice(2), notice(7, name="gone"))


def test_a_material_change_that_waits_for_its_day_outdates_no_grant() -> None:
    published = [notice(1), notice(2, Change.MINOR), notice(3)]

    assert required_version(stood_on(at_version(2), published)) == 1
    assert required_version(stood_on(at_version(3), published)) == 3


@given(
    ahead=st.integers(-5_000, 400_000),
    action=st.sampled_from(list(Action)),
    purpose=st.sampled_from([*STARTER.purposes, "no such purpose"]),
    channel=st.sampled_from([None, *Channel]),
)
@example(ahead=0, action=Action.SEND, purpose="order_updates", channel=Channel.EMAIL)
def test_no_answer_is_valid_when_the_next_policy_is_in_force(
    ahead: int, action: Action, purpose: str, channel: Channel | None
) -> None:
    question = Question(action=action, purpose=purpose, channel=channel)
    alone = evaluate(POLICY, EMPTY, question, NOW, SOUND)
    bounded = evaluate(POLICY, EMPTY, question, NOW, Situation(policy_until=NOW + ahead))

    assert NOW < bounded.valid_until <= max(NOW + ahead, NOW + 1)
    assert bounded.valid_until == max(min(alone.valid_until, NOW + ahead), NOW + 1)
    assert alone.valid_until <= NOW + TTL_MS.get(action, 300_000)
    assert msgspec.structs.replace(bounded, valid_until=0) == msgspec.structs.replace(alone, valid_until=0)
