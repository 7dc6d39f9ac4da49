"""Merging the terms of several places gives the strictest of each, whatever the order, and never loosens anything."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volenti.core.policy.document import LawfulBasis, RelationType
from volenti.core.policy.duration import Duration
from volenti.core.policy.terms import (
    STRICTEST_FIRST,
    Qualifying,
    Terms,
    higher,
    is_stricter,
    longer,
    merged,
    shorter,
    strictest,
)

durations = st.none() | st.builds(
    Duration, months=st.integers(0, 3), days=st.sampled_from([0, 30, 31, 61]), seconds=st.sampled_from([0, 2_629_800])
)
ages = st.none() | st.integers(1, 30)
qualifying = st.builds(Qualifying, max_age=durations, collected_since_ms=st.none() | st.integers(0, 3))
terms = st.builds(
    Terms,
    basis=st.sampled_from(LawfulBasis),
    consent_expiry=durations,
    relations=st.dictionaries(st.sampled_from(RelationType), qualifying, max_size=3),
    age_of_consent=ages,
    age_of_sale=ages,
    minors_prohibited_below=ages,
    reask_lock=durations,
    minor_lock_age=ages,
    human_review=st.booleans(),
    show_notice=st.booleans(),
    signal_exception=st.booleans(),
)


def no_laxer(one: Terms, than: Terms) -> bool:
    """Whether whatever `than` forbids or demands, `one` forbids and demands as well."""
    return all(
        (
            not is_stricter(than.basis, one.basis),
            one.consent_expiry == shorter(one.consent_expiry, than.consent_expiry),
            set(one.relations) <= set(than.relations),
            all(
                rule.max_age == shorter(rule.max_age, than.relations[kind].max_age)
                and rule.collected_since_ms == higher(rule.collected_since_ms, than.relations[kind].collected_since_ms)
                for kind, rule in one.relations.items()
            ),
            (one.age_of_consent or 0) >= (than.age_of_consent or 0),
            (one.age_of_sale or 0) >= (than.age_of_sale or 0),
            (one.minors_prohibited_below or 0) >= (than.minors_prohibited_below or 0),
            one.reask_lock == longer(one.reask_lock, than.reask_lock),
            (one.minor_lock_age or 0) >= (than.minor_lock_age or 0),
            one.human_review >= than.human_review,
            one.show_notice >= than.show_notice,
            one.signal_exception <= than.signal_exception,
        )
    )


@settings(deadline=None)
@given(terms, terms)
def test_two_places_ask_together_what_the_stricter_asks_and_their_order_does_not_matter(one: Terms, two: Terms) -> None:
    both = merged((one, two))

    assert both == merged((two, one))
    assert no_laxer(both, one)
    assert no_laxer(both, two)


@settings(deadline=None)
@given(terms, terms, terms)
def test_merging_is_associative_and_idempotent(one: Terms, two: Terms, three: Terms) -> None:
    assert merged((merged((one, two)), three)) == merged((one, merged((two, three)))) == merged((one, two, three))
    assert merged((one, one)) == merged((one,)) == one


def test_the_order_of_strictness_is_that_of_the_contract() -> None:
    """prohibited > consent > soft_opt_in > legitimate_interest > opt_out > contract and the rest."""
    contract = ["prohibited", "consent", "soft_opt_in", "legitimate_interest", "opt_out", "contract"]

    assert [basis for basis in STRICTEST_FIRST if basis in contract] == contract
    assert {*STRICTEST_FIRST} == {*LawfulBasis}
    assert is_stricter(LawfulBasis.PUBLIC_TASK, LawfulBasis.OPT_OUT)
    assert is_stricter(LawfulBasis.CONTRACT, LawfulBasis.VITAL_INTEREST)


@settings(deadline=None)
@given(st.permutations(list(LawfulBasis)), st.integers(1, 8))
def test_the_strictest_of_several_bases_does_not_depend_on_their_order(order: list[LawfulBasis], count: int) -> None:
    some = order[:count]

    assert strictest(some) == strictest(reversed(some))
    assert not any(is_stricter(basis, strictest(some)) for basis in some)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (Duration(days=30), Duration(months=1)),
        (Duration(months=1), Duration(days=31)),
        (Duration(months=12), Duration(days=366)),
        (Duration(days=365), Duration(months=12)),
        (Duration(months=6), Duration(months=24)),
        (Duration(seconds=86_399), Duration(days=1)),
    ],
)
def test_which_of_two_durations_is_the_longer_does_not_depend_on_the_calendar(short: Duration, long: Duration) -> None:
    assert short == shorter(short, long) == shorter(long, short)
    assert long == longer(short, long) == longer(long, short)
    assert long == shorter(long, None) == longer(None, long)
