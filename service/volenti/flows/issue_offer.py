"""Issue an offer: a signed statement of what is put before a person, which a grant may carry as proof."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias
from uuid import UUID

import msgspec

from volenti.core.admission import Command, Refusal, ShownOffer
from volenti.core.data_subject import Identifier
from volenti.core.policy.canonical import parse_document
from volenti.core.policy.compile import CompiledPolicy
from volenti.core.policy.document import Notice
from volenti.errors import Invalid, Unavailable
from volenti.flows.find_data_subject import find
from volenti.flows.record_consents import KeyMisused, Recorded, Retry, first_answer, record
from volenti.flows.services import Services
from volenti.keys.tokens import Offer, OfferedNotice, OfferedPurpose, OfferRefused, sign_offer, verify_offer
from volenti.store import policies

LIFE_SECONDS = 3600


class OfferIssued(msgspec.Struct, frozen=True):
    """An offer and the texts that it states were shown. Used once, until `expires_at` (seconds)."""

    token: str
    notices: tuple[tuple[str, Notice, tuple[str, ...]], ...]
    """Each notice's key, the notice, and the purposes that it is for."""
    language: str
    expires_at: int
    replayed: bool = False


class OfferRejected(msgspec.Struct, frozen=True):
    """No offer: a purpose is unknown or has no notice, the policy has no text in the language, or it is all too much."""

    pointer: str
    detail: str


class AskLocked(msgspec.Struct, frozen=True):
    """The person must not be asked for one of the purposes before this instant (milliseconds UTC). Nothing was recorded."""

    until: int


Issued: TypeAlias = OfferIssued | OfferRejected | Refusal | AskLocked | KeyMisused


async def issue(
    services: Services,
    workspace_id: UUID,
    purposes: Sequence[tuple[str, bool]],
    surface: str,
    language: str,
    *,
    component: str,
    who: Identifier | None = None,
    retry: Retry | None = None,
) -> Issued:
    """Offer purposes, each with whether its toggle is on by default (then a grant by it is no consent).

    Where it is said to whom (`who`), the budget for asking is kept, that the person was asked is recorded, and a
    repeated key gives the first offer again.
    """
    found = await find(services, workspace_id, ())
    policy = await services.policy(workspace_id, found.ground)
    if policy is None:
        raise Unavailable("the workspace has no policy; publish one")
    offered = _offer(services, workspace_id, policy, purposes, surface, language)
    if who is None:
        return _first(policy, offered) if isinstance(offered, _Offered) else offered
    if isinstance(offered, _Offered):
        asked = tuple(sorted({key for key, _ in purposes}))
        command = Command(actor="system", component=component, asked=asked, method="offer", surface=surface)
        if retry is not None:
            retry = msgspec.structs.replace(retry, beside=msgspec.msgpack.encode(offered))
        answer = await record(services, workspace_id, command, (who,), retry)
    else:
        before = None if retry is None else await first_answer(services, workspace_id, retry)
        if before is None:
            return offered
        answer = before
    match answer:
        case Recorded(replayed=True):
            return await _again(services, workspace_id, msgspec.msgpack.decode(answer.beside, type=_Offered))
        case Recorded():
            assert isinstance(offered, _Offered), "nothing else is recorded"
            return _first(policy, offered)
        case KeyMisused():
            return answer
        case Refusal(code="ask_locked", until=int() as until):
            return AskLocked(until)
        case _:
            raise AssertionError("to have asked is refused for nothing else")


class _Offered(msgspec.Struct, frozen=True, array_like=True):
    """An offer without the texts, which stand in the policy: each notice's key, version, and the purposes it is for."""

    token: str
    notices: tuple[tuple[str, int, tuple[str, ...]], ...]
    language: str
    expires_at: int


def _offer(
    services: Services,
    workspace_id: UUID,
    policy: CompiledPolicy,
    purposes: Sequence[tuple[str, bool]],
    surface: str,
    language: str,
) -> _Offered | OfferRejected | Refusal:
    now = services.clock()
    if language not in policy.document.languages:
        return OfferRejected("/language", "the policy has no texts in this language")
    shown: dict[str, list[str]] = {}
    offered = []
    for position, (key, preset) in enumerate(purposes):
        purpose = policy.purposes.get(key)
        pointer = f"/purposes/{position}"
        if purpose is None or purpose.notice is None:
            detail = "the policy has no such purpose" if purpose is None else "the purpose has no notice to show"
            return OfferRejected(pointer, detail)
        if purpose.retired_at_ms is not None and now >= purpose.retired_at_ms:
            return Refusal("purpose_retired", "the purpose is retired and takes no new consent", pointer)
        shown.setdefault(purpose.notice, []).append(key)
        offered.append(OfferedPurpose(key, "on" if preset else "off"))
    offer = Offer(
        workspace=str(workspace_id),
        id=str(services.new_id()),
        notices=tuple(OfferedNotice(key, policy.notices[key].version, policy.notices[key].hash.hex()) for key in shown),
        purposes=tuple(offered),
        surface=surface,
        language=language,
        issued_at=now // 1000,
        expires_at=now // 1000 + LIFE_SECONDS,
    )
    try:
        token = sign_offer(services.keyring, offer)
    except Invalid as error:
        return OfferRejected("/purposes", str(error))
    notices = tuple((key, policy.notices[key].version, tuple(keys)) for key, keys in shown.items())
    return _Offered(token, notices, language, offer.expires_at)


def _first(policy: CompiledPolicy, offered: _Offered) -> OfferIssued:
    notices = tuple((key, policy.document.notices[key], purposes) for key, _, purposes in offered.notices)
    return OfferIssued(offered.token, notices, offered.language, offered.expires_at)


async def _again(services: Services, workspace_id: UUID, offered: _Offered) -> OfferIssued:
    """The offer that was given before, with the texts of then: the policy may have others by now."""
    notices = []
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        for key, version, purposes in offered.notices:
            published = await policies.publisher(connection, workspace_id, key, version)
            notices.append((key, parse_document(published.document).notices[key], purposes))
    return OfferIssued(offered.token, tuple(notices), offered.language, offered.expires_at, replayed=True)


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
