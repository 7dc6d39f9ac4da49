"""The policy that a workspace begins with is sound, says what API.md promises, and takes any controller's name."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipped_profiles import PROFILES, SHIPPED
from volenti.core.policy.compile import CompiledPurpose, compile_policy, terms_for
from volenti.core.policy.document import LawfulBasis, Policy
from volenti.core.policy.lint import lint, lint_succession
from volenti.core.policy.notice import newly_published
from volenti.core.policy.starter import starter_policy
from volenti.core.policy.yaml import load

NOW = 1_795_478_400_000  # 2026-11-24


def basis_for(purpose: CompiledPurpose, jurisdictions: tuple[str, ...]) -> LawfulBasis:
    (action, *_) = sorted(purpose.actions)
    return terms_for(purpose, action, None, jurisdictions).basis


def starter() -> Policy:
    policy = lint(starter_policy("Acme GmbH"), SHIPPED).policy
    assert policy is not None
    return policy


def test_it_has_no_findings() -> None:
    assert lint(starter_policy("Acme GmbH"), SHIPPED).findings == ()


def test_it_may_follow_itself() -> None:
    published = newly_published(starter().notices, ())

    assert lint_succession(starter(), published, previous=starter()) == ()


@pytest.mark.parametrize(
    ("purpose", "message_class", "actions", "channels", "bases"),
    [
        ("newsletter", "marketing", {"send"}, {"email", "sms", "push"}, ("consent", "consent")),
        ("order_updates", "transactional", {"send"}, {"email", "sms"}, ("contract", "contract")),
        ("analytics", None, {"use"}, set(), ("consent", "consent")),
        ("personalisation", None, {"profile"}, set(), ("consent", "consent")),
        ("advertising", None, {"share", "sell"}, set(), ("consent", "opt_out")),
        ("ai_decisioning", None, {"automate"}, set(), ("consent", "consent")),
        ("model_training", None, {"train"}, set(), ("consent", "consent")),
        ("security", None, {"use"}, set(), ("legal_obligation", "legal_obligation")),
    ],
)
def test_its_purposes_are_those_of_the_contract(
    purpose: str, message_class: str | None, actions: set[str], channels: set[str], bases: tuple[str, str]
) -> None:
    compiled = compile_policy(starter(), (), PROFILES, NOW).purposes[purpose]

    assert message_class == compiled.message_class
    assert actions == compiled.actions
    assert channels == compiled.channels
    assert bases == (basis_for(compiled, ("DE",)), basis_for(compiled, ("US-CA",)))


def test_a_person_of_unknown_whereabouts_is_asked_for_consent() -> None:
    assert basis_for(compile_policy(starter(), (), PROFILES, NOW).purposes["advertising"], ()) == "consent"


@pytest.mark.parametrize("place", ["DE", "FR", "GB", "US", "US-CA", "CA", "IN", "JP"])
def test_the_law_of_no_place_forbids_what_its_purposes_are_for(place: str) -> None:
    """So that the demo answers permit for who agreed, wherever they are, and order updates always leave."""
    policy = compile_policy(starter(), (), PROFILES, NOW)

    assert basis_for(policy.purposes["newsletter"], (place,)) == "consent"
    assert basis_for(policy.purposes["order_updates"], (place,)) == "contract"
    assert basis_for(policy.purposes["security"], (place,)) == "legal_obligation"
    assert {basis_for(purpose, (place,)) for purpose in policy.purposes.values()} & {"prohibited"} == set()


def test_its_topics_and_notices_are_those_of_the_contract() -> None:
    policy = starter()

    assert {"weekly", "offers", "events"} == set(policy.topics) == set(policy.purposes["newsletter"].topics)
    assert {"newsletter", "analytics", "personalisation", "advertising", "ai_decisioning", "model_training"} == set(
        policy.notices
    )
    assert {(1, ("en", "de"))} == {(notice.version, tuple(notice.text)) for notice in policy.notices.values()}


def test_its_texts_have_no_line_break_that_yaml_folding_left_behind() -> None:
    bodies = [text.body for notice in starter().notices.values() for text in notice.text.values()]

    assert [body for body in bodies if "\n" in body or "  " in body] == []


@settings(deadline=None)
@given(st.text())
def test_any_name_stands_in_it_letter_by_letter(name: str) -> None:
    loaded = load(starter_policy(name))

    assert loaded.findings == ()
    assert isinstance(loaded.value, dict)
    assert name == loaded.value["controller"]["name"]


@pytest.mark.parametrize("name", ["", "two\nlines", "x" * 201, "\x00", "\ud800"])
def test_a_name_that_cannot_be_published_is_found_by_lint(name: str) -> None:
    assert [found.pointer for found in lint(starter_policy(name), SHIPPED).findings] == ["/controller/name"]


@pytest.mark.parametrize(
    "name", ["Müller & Söhne KG", 'The "Best" \\ Shop: #1', "- {a: *b} !x", "株式会社", "🦔", "NO"]
)
def test_a_real_name_is_sound_whatever_it_means_to_yaml(name: str) -> None:
    policy = lint(starter_policy(name), SHIPPED).policy

    assert policy is not None
    assert name == policy.controller.name
