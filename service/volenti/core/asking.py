"""May the person be asked? Asking is an action on a person too, and has its own limits.

A lock forbids asking, never answering: a grant that a person gives of their own accord is valid at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from volenti.core.consent import E2
from volenti.core.data_subject import ASKS_KEPT, DataSubjectState, comes_of_age
from volenti.core.policy.compile import CompiledPolicy, CompiledPurpose
from volenti.core.policy.document import grade_number
from volenti.core.policy.duration import expires_at
from volenti.core.validity import of_age, terms_of


def a_page_suffices(purpose: CompiledPurpose, state: DataSubjectState, now: int) -> bool:
    """True if a page that shows the notice may take the person's consent alone.

    Not where the purpose has no notice to show, and not where the consent must be confirmed through the address
    (double opt-in) or proved better than by an act against a text: who opens a link has shown neither. Nor of a person
    who is known to be too young to consent alone.
    """
    if purpose.notice is None or purpose.double_opt_in or grade_number(purpose.minimum_evidence) > E2:
        return False
    return of_age(purpose, state, now) is not False


def locked_until(
    policy: CompiledPolicy, state: DataSubjectState, purposes: Iterable[str], now: int, stated: str | None = None
) -> int | None:
    """The instant (milliseconds UTC) until which these purposes must not be asked for; None if they may be asked now.

    `stated` is a jurisdiction that binds beside the person's own.

    Four limits, the latest binds: the jurisdiction's lock after a refusal (of several places, or of an unknown one, the
    longest), a minor's refusal until the age that the jurisdiction names, the policy's cooldown after a question that
    was left unanswered, and its number of questions in a calendar quarter (UTC). A purpose that the policy does not
    know is not locked.
    """
    named = [policy.purposes[key] for key in purposes if key in policy.purposes]
    locks = [
        *_crowded(policy, state, now),
        *(lock for purpose in named for lock in _locks(policy, purpose, state, stated)),
    ]
    latest = max(locks, default=now)
    return latest if latest > now else None


def _locks(
    policy: CompiledPolicy, purpose: CompiledPurpose, state: DataSubjectState, stated: str | None
) -> Iterator[int]:
    standings = state.choices(purpose.key).standings.values()
    refusals = [standing.refusal for standing in standings if standing.refusal is not None]
    terms = terms_of(purpose, state, stated)
    for refusal in refusals:
        if terms.reask_lock is not None:
            yield expires_at(refusal.occurred_at, terms.reask_lock)
        if state.birth_date and terms.minor_lock_age is not None:
            adult = comes_of_age(state.birth_date, terms.minor_lock_age)
            if refusal.occurred_at < adult:
                yield adult
    if policy.asking.cooldown is not None:
        asked = max((prompt.at for prompt in state.asked if purpose.key in prompt.purposes), default=None)
        answers = (
            event.occurred_at for event in state.on(purpose.key) if event.kind not in ("acknowledge", "invalidate")
        )
        if asked is not None and not any(answered >= asked for answered in answers):
            yield expires_at(asked, policy.asking.cooldown)


def _crowded(policy: CompiledPolicy, state: DataSubjectState, now: int) -> Iterator[int]:
    limit = policy.asking.per_quarter
    if limit is None:
        return
    begins, ends = _quarter(now)
    if sum(begins <= prompt.at < ends for prompt in state.asked) >= min(limit, ASKS_KEPT):  # more are not remembered
        yield ends


def _quarter(now: int) -> tuple[int, int]:
    """The calendar quarter (UTC) that an instant lies in, as [first, last)."""
    then = datetime.fromtimestamp(now / 1000, UTC)
    first = datetime(then.year, 3 * ((then.month - 1) // 3) + 1, 1, tzinfo=UTC)
    following = (
        first.replace(year=first.year + 1, month=1) if first.month == 10 else first.replace(month=first.month + 3)
    )
    return round(first.timestamp() * 1000), round(following.timestamp() * 1000)
