"""Issue an offer: a signed statement of what is put before a person, which a grant may carry as proof."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias
from uuid import UUID

import msgspec

from volenti.core.admission import ShownOffer
from volenti.core.policy.document import Notice
from volenti.errors import Unavailable
from volenti.flows.find_data_subject import find
from volenti.flows.services import Services
from volenti.keys.tokens import Offer, OfferedNotice, OfferedPurpose, OfferRefused, sign_offer, verify_offer

LIFE_SECONDS = 3600


class OfferIssued(msgspec.Struct, frozen=True):
    """An offer and the texts that it states were shown. Used once, until `expires_at` (seconds)."""

    token: str
    notices: tuple[tuple[str, Notice, tuple[str, ...]], ...]
    """Each notice's key, the notice, and the purposes that it is for."""
    language: str
    expires_at: int


class OfferRejected(msgspec.Struct, frozen=True):
    """No offer: the purpose at this position is unknown or has no notice, or the policy has no text in the language."""

    pointer: str
    detail: str


async def issue(
    services: Services, workspace_id: UUID, purposes: Iterable[tuple[str, bool]], surface: str, language: str
) -> OfferIssued | OfferRejected:
    """Offer purposes, each with whether its toggle is on by default (then a grant by it is no consent)."""
    ground = (await find(services, workspace_id, ())).ground
    policy = await services.policy(workspace_id, ground)
    if policy is None:
        raise Unavailable("the workspace has no policy; publish one")
    if language not in policy.document.languages:
        return OfferRejected("/language", "the policy has no texts in this language")
    shown: dict[str, list[str]] = {}
    offered = []
    for position, (key, preset) in enumerate(purposes):
        purpose = policy.purposes.get(key)
        if purpose is None or purpose.notice is None:
            return OfferRejected(
                f"/purposes/{position}",
                "the policy has no such purpose" if purpose is None else "the purpose has no notice to show",
            )
        shown.setdefault(purpose.notice, []).append(key)
        offered.append(OfferedPurpose(key, "on" if preset else "off"))
    now = services.clock() // 1000
    offer = Offer(
        workspace=str(workspace_id),
        id=str(services.new_id()),
        notices=tuple(OfferedNotice(key, policy.notices[key].version, policy.notices[key].hash.hex()) for key in shown),
        purposes=tuple(offered),
        surface=surface,
        language=language,
        issued_at=now,
        expires_at=now + LIFE_SECONDS,
    )
    notices = tuple((key, policy.document.notices[key], tuple(keys)) for key, keys in shown.items())
    return OfferIssued(sign_offer(services.keyring, offer), notices, language, offer.expires_at)


Presented: TypeAlias = ShownOffer | OfferRefused


def present(services: Services, workspace_id: UUID, token: str) -> Presented:
    """What a token that a caller presents proves was shown, or why it proves nothing."""
    offer = verify_offer(services.keyring, str(workspace_id), token, services.clock() // 1000)
    if isinstance(offer, OfferRefused):
        return offer
    return ShownOffer(
        id=offer.id,
        issued_at=UUID(offer.id).int >> 80,  # of a UUIDv7: to the millisecond, where the claim has whole seconds
        notices=frozenset(f"{notice.key}@{notice.version}" for notice in offer.notices),
        purposes=frozenset(purpose.purpose for purpose in offer.purposes),
        preset=frozenset(purpose.purpose for purpose in offer.purposes if purpose.default == "on"),
    )
