"""What binds for a purpose in a place, and how the values of several places become one: the strictest of each.

Every value has its order of strictness here and nowhere else. Merging is commutative, associative and idempotent, and
its result is never laxer than any of what it merges.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import TypeVar

import msgspec

from volenti.core.policy.document import LawfulBasis, RelationType
from volenti.core.policy.duration import Duration

STRICTEST_FIRST = (
    LawfulBasis.PROHIBITED,
    LawfulBasis.CONSENT,
    LawfulBasis.SOFT_OPT_IN,
    LawfulBasis.LEGITIMATE_INTEREST,
    LawfulBasis.PUBLIC_TASK,
    LawfulBasis.OPT_OUT,
    LawfulBasis.CONTRACT,
    LawfulBasis.LEGAL_OBLIGATION,
    LawfulBasis.VITAL_INTEREST,
)
"""Of several bases the first one here binds. The last three bind alike; their order only makes the answer stable."""

_RANK = {basis: rank for rank, basis in enumerate(STRICTEST_FIRST)}
_MONTH_SECONDS = 2_629_800  # a twelfth of 365.25 days: which of two durations is the longer must not depend on the date

Value = TypeVar("Value")


class Qualifying(msgspec.Struct, frozen=True, kw_only=True):
    """When a tie qualifies for a soft opt-in: not older than `max_age`, and the details collected from an instant on."""

    max_age: Duration | None = None
    collected_since_ms: int | None = None


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What the law and the policy ask of one purpose, action and channel in one place.

    `None` sets no limit. `consent_expiry`: how long a grant lasts at most. `relations`: the ties that qualify for a
    soft opt-in. `age_of_consent`: who is younger needs a guardian's grant; `age_of_sale`: who is younger must have
    consented to sale and sharing; `minors_prohibited_below`: for who is younger nothing permits. `reask_lock`: after a
    refusal nobody asks again for that long; `minor_lock_age`: who refused as a minor is not asked before that age.
    `human_review` and `show_notice` are duties that come with a permit; `signal_exception`: a consent recorded after
    the conflict was shown stands against a signal that refuses.
    """

    basis: LawfulBasis
    consent_expiry: Duration | None = None
    relations: dict[RelationType, Qualifying] = {}
    age_of_consent: int | None = None
    age_of_sale: int | None = None
    minors_prohibited_below: int | None = None
    reask_lock: Duration | None = None
    minor_lock_age: int | None = None
    human_review: bool = False
    show_notice: bool = False
    signal_exception: bool = False


def strictest(bases: Iterable[LawfulBasis]) -> LawfulBasis:
    """Give the basis that asks most of the controller, in the order of `STRICTEST_FIRST`."""
    return min(bases, key=_RANK.__getitem__)


def is_stricter(basis: LawfulBasis, than: LawfulBasis) -> bool:
    """Whether a basis asks more of the controller than another one."""
    return _RANK[basis] < _RANK[than]


def merged(terms: Iterable[Terms]) -> Terms:
    """Give the terms that hold in all of these places at once; there is at least one."""
    distinct: list[Terms] = []
    for one in terms:
        if one not in distinct:  # most places of a group ask the same
            distinct.append(one)
    return reduce(_both, distinct)


def shorter(one: Duration | None, other: Duration | None) -> Duration | None:
    """Give the shorter of two durations; `None` is no limit."""
    return _limit(one, other, lambda a, b: min(a, b, key=_length))


def longer(one: Duration | None, other: Duration | None) -> Duration | None:
    """Give the longer of two durations; `None` is none at all."""
    return _limit(one, other, lambda a, b: max(a, b, key=_length))


def higher(one: int | None, other: int | None) -> int | None:
    """Give the higher of two ages or instants; `None` is the lowest."""
    return _limit(one, other, max)


def qualifying_in_both(
    one: Mapping[RelationType, Qualifying], other: Mapping[RelationType, Qualifying]
) -> dict[RelationType, Qualifying]:
    """Give the ties that qualify here and there, on the conditions of both."""
    return {
        relation: Qualifying(
            max_age=shorter(one[relation].max_age, other[relation].max_age),
            collected_since_ms=higher(one[relation].collected_since_ms, other[relation].collected_since_ms),
        )
        for relation in sorted(one.keys() & other.keys())
    }


def _both(one: Terms, other: Terms) -> Terms:
    return Terms(
        basis=strictest((one.basis, other.basis)),
        consent_expiry=shorter(one.consent_expiry, other.consent_expiry),
        relations=qualifying_in_both(one.relations, other.relations),
        age_of_consent=higher(one.age_of_consent, other.age_of_consent),
        age_of_sale=higher(one.age_of_sale, other.age_of_sale),
        minors_prohibited_below=higher(one.minors_prohibited_below, other.minors_prohibited_below),
        reask_lock=longer(one.reask_lock, other.reask_lock),
        minor_lock_age=higher(one.minor_lock_age, other.minor_lock_age),
        human_review=one.human_review or other.human_review,
        show_notice=one.show_notice or other.show_notice,
        signal_exception=one.signal_exception and other.signal_exception,
    )


def _limit(one: Value | None, other: Value | None, choose: Callable[[Value, Value], Value]) -> Value | None:
    if one is None:
        return other
    return one if other is None else choose(one, other)


def _length(duration: Duration) -> tuple[int, int, int]:
    seconds = duration.months * _MONTH_SECONDS + duration.days * 86_400 + duration.seconds
    return seconds, duration.months, duration.days
