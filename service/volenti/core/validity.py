"""Who may consent for a person where they live, and until when a consent lasts."""

from __future__ import annotations

from volenti.core.consent import ConsentEvent
from volenti.core.data_subject import DataSubjectState, comes_of_age
from volenti.core.policy.compile import CompiledPurpose, lives_of, terms_for
from volenti.core.policy.duration import Duration, expires_at
from volenti.core.policy.terms import Terms, merged


def places_of(state: DataSubjectState, stated: str | None = None) -> tuple[str, ...]:
    """The jurisdictions that bind at once: the person's own and the one that the caller states; empty: not known."""
    if state.jurisdiction and stated:
        return (state.jurisdiction, stated)
    place = state.jurisdiction or stated
    return (place,) if place else ()


def terms_of(purpose: CompiledPurpose, state: DataSubjectState, stated: str | None = None) -> Terms:
    """The terms of a choice where the person lives, and in the place that is stated, if one is.

    A choice is on all that a purpose does: the strictest of it binds.
    """
    places = places_of(state, stated)
    return merged(terms_for(purpose, action, None, places) for action in sorted(purpose.actions))


def adult_at(state: DataSubjectState, age_of_consent: int | None) -> int | None:
    """When the person may consent alone; None where nobody knows their age, or no age is set."""
    return comes_of_age(state.birth_date, age_of_consent) if state.birth_date and age_of_consent is not None else None


def end_of(grant: ConsentEvent, purpose: CompiledPurpose, state: DataSubjectState) -> int | None:
    """When a grant ends where the person lives, for whatever the purpose does; None if it does not."""
    terms = terms_of(purpose, state)
    return ends_at(grant, lives_of(purpose, terms), adult_at(state, terms.age_of_consent))


def of_age(purpose: CompiledPurpose, state: DataSubjectState, at: int) -> bool | None:
    """Whether the person may consent alone where they live; None where nobody knows their age, or no age is set."""
    adult = adult_at(state, terms_of(purpose, state).age_of_consent)
    return None if adult is None else at >= adult


def ends_at(grant: ConsentEvent, lives: tuple[Duration, ...], adult: int | None) -> int | None:
    """When a grant ends: by its own end, by those of `lives_of`, and a guardian's when the person is of age."""
    end = grant.valid_until
    for life in lives:
        expiry = expires_at(grant.occurred_at, life)
        if end is None or expiry < end:
            end = expiry
    if grant.actor == "guardian" and adult is not None and (end is None or adult < end):
        return adult
    return end
