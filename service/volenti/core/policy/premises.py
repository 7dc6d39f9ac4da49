"""What a policy and the law say to a question before anything is known of the person but the place.

It is the same for everybody who is asked about there, at every instant, so it is worked out once and remembered with the
compiled policy. No answer is: who the person is and when it is asked decide anew each time. What callers write freely (a
topic, a recipient, categories of data) is no part of it, so that callers cannot fill the memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeAlias

import msgspec

from volenti.core.policy.compile import CompiledPolicy, CompiledPurpose, lives_of, terms_for
from volenti.core.policy.document import Action, Addresses, Channel, Exemption, MessageClass, grade_number
from volenti.core.policy.duration import Duration
from volenti.core.policy.terms import Terms
from volenti.core.reason import Reason, reason

MOST_PREMISES = 2048
"""So many a policy remembers. When there are more they are all forgotten: those that are asked for come back at once."""
LONGEST_PLACE = 8
"""Premises of places with longer names than any (US-CA) are not remembered."""

_CLASS_ORDER = {
    cls: rank
    for rank, cls in enumerate(
        (MessageClass.EMERGENCY, MessageClass.TRANSACTIONAL, MessageClass.SERVICE, MessageClass.MARKETING)
    )
}
"""From what passes most to what is bound most: a message may only be stricter than its purpose."""
_ADDRESS_OF = {
    Channel.EMAIL: "email",
    Channel.SMS: "phone",
    Channel.VOICE: "phone",
    Channel.WHATSAPP: "phone",
    Channel.PUSH: "device",
}
"""The type of identifier that a channel reaches; the others need no registered address."""

Asked: TypeAlias = tuple[str, Action, Channel | None, MessageClass | None, str, str | None]
"""What premises follow from: a purpose of the policy, action, channel, class of message; the jurisdiction of the person
(empty: not known) and the one that the caller states."""


class Premises(msgspec.Struct, frozen=True, kw_only=True):
    """What binds whomever such a question is about.

    `served`: the purposes that this one serves, and those that they serve. `message_class` is the one that binds. `unfit`: the obstacles that lie in the question itself, by number. `topics`:
    those that it may name. `address`: the type of identifier that the person must have, if any. `objections_absolute`: an
    objection is heard whatever the basis and the exemptions, as against marketing and what serves it (GDPR Art. 21(2) and
    (3)); `objections_count`: False where the purpose is exempt from them. `minimum_grade`: of a grant's evidence. `lives`: how long a grant lasts
    at most. `guardian_until`: the age that ends a guardian's power, the lowest of the places; elsewhere the person may
    still be a minor. `ages`: those at which the person's rights change. `changes`: the instants at which the
    purpose does.
    """

    purpose: CompiledPurpose
    served: tuple[CompiledPurpose, ...]
    message_class: MessageClass | None
    places: tuple[str, ...]
    terms: Terms
    unfit: tuple[Reason, ...]
    topics: Collection[str]
    address: str | None
    objections_absolute: bool
    objections_count: bool
    minimum_grade: int
    lives: tuple[Duration, ...]
    guardian_until: int | None
    ages: tuple[int, ...]
    changes: tuple[int, ...]


def remember(policy: CompiledPolicy, asked: Asked) -> Premises:
    """Work out what binds a question; from now on it stands in `policy.premises`. The policy MUST know the purpose."""
    premises = _premises(policy, *asked)
    if len(policy.premises) >= MOST_PREMISES:
        policy.premises.clear()
    if all(len(place) <= LONGEST_PLACE for place in premises.places):
        policy.premises[asked] = premises
    return premises


def _premises(
    policy: CompiledPolicy,
    key: str,
    action: Action,
    channel: Channel | None,
    message_class: MessageClass | None,
    own: str,
    stated: str | None,
) -> Premises:
    purpose = policy.purposes[key]
    served = _served(policy, purpose)
    places = tuple(place for place in (own, stated) if place)
    terms = terms_for(purpose, action, channel, places, as_marketing=message_class is MessageClass.MARKETING)
    in_each = [terms_for(purpose, action, channel, (place,)) for place in places] or [terms]
    ages = (terms.age_of_consent, terms.age_of_sale, terms.minors_prohibited_below)
    instants = (purpose.active_from_ms, purpose.retired_at_ms)
    binding = message_class or purpose.message_class
    absolute = MessageClass.MARKETING in (binding, *(one.message_class for one in (purpose, *served)))
    return Premises(
        purpose=purpose,
        served=served,
        message_class=binding,
        places=places,
        terms=terms,
        unfit=tuple(_unfit(purpose, action, channel, message_class)),
        topics=purpose.topics or policy.document.topics,
        address=_address(policy, action, channel),
        objections_absolute=absolute,
        objections_count=absolute or Exemption.OBJECTION not in purpose.exempt,
        minimum_grade=grade_number(purpose.minimum_evidence),
        lives=lives_of(purpose, terms),
        guardian_until=min((one.age_of_consent for one in in_each if one.age_of_consent is not None), default=None),
        ages=tuple(age for age in ages if age is not None),
        changes=tuple(instant for instant in instants if instant is not None),
    )


def _served(policy: CompiledPolicy, purpose: CompiledPurpose) -> tuple[CompiledPurpose, ...]:
    found: tuple[CompiledPurpose, ...] = ()
    while purpose.serves in policy.purposes and policy.purposes[purpose.serves] not in found:
        purpose = policy.purposes[purpose.serves]
        found += (purpose,)
    return found


def _unfit(
    purpose: CompiledPurpose, action: Action, channel: Channel | None, message_class: MessageClass | None
) -> Iterator[Reason]:
    if action not in purpose.actions:
        yield reason("request.action_not_in_purpose")
    if channel is not None and channel not in purpose.channels:
        yield reason("request.channel_unknown")
    own = purpose.message_class
    if message_class is not None and own is not None and _CLASS_ORDER[message_class] < _CLASS_ORDER[own]:
        yield reason("request.class_relaxation")


def _address(policy: CompiledPolicy, action: Action, channel: Channel | None) -> str | None:
    if channel is None or action is not Action.SEND or policy.addresses is Addresses.OPEN:
        return None
    return _ADDRESS_OF.get(channel)
