"""May the person be asked? The budget for questions; the locks of the law are in the tables of cases."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_policies import compiled, row
from tables import at
from volenti.core.asking import a_page_suffices, locked_until
from volenti.core.consent import ConsentEvent
from volenti.core.data_subject import ASKS_KEPT, EMPTY, DataSubjectState, Prompt
from volenti.core.policy.duration import Duration

POLICY = compiled(
    """\
controller: {name: Acme GmbH}
purposes:
  nl: {actions: [use], basis: {default: legitimate_interest}}
  ads: {actions: [use], basis: {default: legitimate_interest}}
asking: {per_quarter: 1}
"""
)
NOW = at("2026-07-01T12:00:00Z")


@pytest.fixture(params=["UTC", "Pacific/Kiritimati", "Etc/GMT+12"])
def elsewhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose local time is another one: up to fourteen hours ahead, twelve behind."""
    with monkeypatch.context() as changed:
        changed.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("month", range(1, 13))
@pytest.mark.parametrize("clock", ["01T00:00:00.000Z", "15T12:00:00.000Z", "28T23:59:59.999Z"])
def test_a_quarter_is_one_of_the_calendar_in_utc(month: int, clock: str) -> None:
    now = at(f"2026-{month:02}-{clock}")
    begins = 3 * ((month - 1) // 3) + 1
    first, after = at(f"2026-{begins:02}-01T00:00:00Z"), at(f"{2026 + (begins == 10)}-{begins % 12 + 3 if begins < 10 else 1:02}-01T00:00:00Z")  # fmt: skip

    for asked, locked in ((first - 1, None), (first, after), (after - 1, after), (after, None)):
        assert locked == locked_until(POLICY, DataSubjectState(asked=(Prompt(asked, ("ads",)),)), ("nl",), now)


@pytest.mark.parametrize(("limit", "asked", "locked"), [(1, 0, False), (1, 1, True), (3, 2, False), (3, 3, True)])
def test_so_many_questions_a_quarter_and_no_more(limit: int, asked: int, locked: bool) -> None:
    policy = msgspec.structs.replace(POLICY, asking=msgspec.structs.replace(POLICY.asking, per_quarter=limit))
    state = DataSubjectState(asked=(Prompt(NOW, ("ads",)),) * asked)

    assert locked is (locked_until(policy, state, ("nl",), NOW) is not None)


def test_a_budget_beyond_what_is_remembered_ends_where_memory_does() -> None:
    generous = msgspec.structs.replace(POLICY.asking, per_quarter=1000)
    policy = msgspec.structs.replace(POLICY, asking=generous)

    for asked, locked in ((ASKS_KEPT - 1, False), (ASKS_KEPT, True)):
        state = DataSubjectState(asked=(Prompt(NOW, ("ads",)),) * asked)
        assert locked is (locked_until(policy, state, ("nl",), NOW) is not None)


def event(kind: str, occurred_at: int) -> ConsentEvent:
    return msgspec.convert([f"{kind}@{occurred_at}", kind, occurred_at, NOW, "data_subject"], ConsentEvent)


@pytest.mark.parametrize(
    ("kind", "answers"),
    [("grant", True), ("deny", True), ("withdraw", True), ("object", True), ("request", True), ("renew", True), ("acknowledge", False), ("invalidate", False)],
)  # fmt: skip
def test_a_question_is_answered_by_a_choice_and_not_by_what_others_record(kind: str, answers: bool) -> None:
    day = 86_400_000
    policy = compiled(
        """\
controller: {name: Acme GmbH}
purposes: {nl: {actions: [use], basis: {default: legitimate_interest}}}
asking: {cooldown: P14D}
"""
    )
    asked = Prompt(NOW - day, ("nl",))
    for when, locked in ((NOW - day - 1, True), (NOW - day, not answers), (NOW, not answers)):
        state = DataSubjectState(asked=(asked,), consents={"nl": (event(kind, when),)})
        until = locked_until(policy, state, ("nl",), NOW)
        assert until == (NOW + 13 * day if locked else None)


def test_what_the_policy_does_not_know_is_not_locked() -> None:
    assert locked_until(POLICY, EMPTY, ("nope",), NOW) is None
    assert locked_until(POLICY, EMPTY, (), NOW) is None


@given(st.integers(NOW - 10**11, NOW + 10**11), st.lists(st.integers(NOW - 10**11, NOW + 10**11), max_size=3))
def test_a_lock_lies_ahead_and_is_over_at_its_instant(now: int, asked: list[int]) -> None:
    state = DataSubjectState(asked=tuple(Prompt(when, ("nl",)) for when in asked))
    until = locked_until(POLICY, state, ("nl",), now)

    assert until is None or until > now
    later = msgspec.structs.replace(
        state, asked=tuple(one for one in state.asked if until is not None and one.at < until)
    )
    assert until is None or locked_until(POLICY, later, ("nl",), until) is None


@pytest.mark.parametrize(("refused", "locked"), [("2028-01-01T11:59:59.999Z", True), ("2028-01-01T12:00:00Z", False)])
def test_who_refused_on_the_day_of_age_refused_as_an_adult(refused: str, locked: bool) -> None:
    policy = compiled(
        """\
controller: {name: Acme GmbH}
purposes: {nl: {actions: [use], basis: {default: legitimate_interest}}}
""",
        law=[row("DE", "minor_lock_age", 16)],
    )
    state = DataSubjectState(jurisdiction="DE", birth_date="2012-01-01", consents={"nl": (event("deny", at(refused)),)})

    assert locked is (locked_until(policy, state, ("nl",), at("2028-01-01T11:00:00Z")) is not None)


def test_the_longest_of_several_locks_binds() -> None:
    policy = compiled(
        """\
controller: {name: Acme GmbH}
purposes:
  nl: {actions: [use], basis: {default: legitimate_interest}}
  ads: {actions: [use], basis: {default: legitimate_interest}, activity: analytics}
""",
        law=[row("DE", "minor_lock_age", 16), row("DE", "minor_lock_age.analytics", 18)],
    )
    refused = (event("deny", NOW),)
    state = DataSubjectState(jurisdiction="DE", birth_date="2012-01-01", consents={"nl": refused, "ads": refused})

    assert locked_until(policy, state, ("nl",), NOW) == at("2028-01-01T12:00:00Z")
    assert locked_until(policy, state, ("ads", "nl"), NOW) == at("2030-01-01T12:00:00Z")
    assert locked_until(policy, msgspec.structs.replace(state, birth_date="2000-01-01"), ("ads", "nl"), NOW) is None


@pytest.mark.parametrize(
    ("purpose", "suffices"),
    [
        ("notice: nl", True),
        ("notice: nl, consent: {minimum_evidence: E2}", True),
        ("notice: nl, consent: {minimum_evidence: E3}", False),
        ("notice: nl, consent: {double_opt_in: true}", False),
    ],
)
def test_a_page_takes_a_consent_alone_that_needs_no_more_proof_than_an_act_against_a_text(
    purpose: str, suffices: bool
) -> None:
    policy = compiled(
        f"""\
controller: {{name: Acme GmbH}}
notices: {{nl: {{version: 1, text: {{en: {{title: Newsletter, body: "Yes."}}}}}}}}
purposes: {{nl: {{actions: [use], basis: {{default: consent}}, {purpose}}}}}
"""
    )
    assert a_page_suffices(policy.purposes["nl"], EMPTY, NOW) is suffices


def test_a_page_that_has_nothing_to_show_takes_no_consent() -> None:
    assert POLICY.purposes["nl"].notice is None
    assert not a_page_suffices(POLICY.purposes["nl"], EMPTY, NOW)


@pytest.mark.parametrize(("born", "suffices"), [("2010-07-01", True), ("2010-07-02", False), ("", True)])
def test_a_page_takes_no_consent_of_who_is_known_to_be_too_young(born: str, suffices: bool) -> None:
    policy = compiled(
        """\
controller: {name: Acme GmbH}
notices: {nl: {version: 1, text: {en: {title: Newsletter, body: "Yes."}}}}
purposes: {nl: {actions: [use], basis: {default: consent}, notice: nl}}
""",
        law=[row("DE", "age_of_consent", 16)],
    )
    state = DataSubjectState(jurisdiction="DE", birth_date=born)

    assert a_page_suffices(policy.purposes["nl"], state, NOW) is suffices


def test_a_lock_of_the_place_that_is_stated_binds_too() -> None:
    policy = compiled(
        """\
controller: {name: Acme GmbH}
purposes: {ads: {actions: [use], basis: {default: opt_out}}}
""",
        law=[row("US-CA", "reask_lock", Duration(months=12))],
    )
    refusal = ConsentEvent("e", "deny", NOW, NOW, "data_subject")
    state = DataSubjectState(jurisdiction="US", consents={"ads": (refusal,)})

    assert locked_until(policy, state, ["ads"], NOW) is None
    assert locked_until(policy, state, ["ads"], NOW, "US-CA") == at("2027-07-01T12:00:00Z")
