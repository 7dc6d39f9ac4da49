"""POST /v1/consents and /v1/offers: record a person's choices, and state what was put before them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import assert_never

import msgspec

from volenti.api import wire
from volenti.api.endpoint import Call, Reply, idempotency_key
from volenti.api.problems import Problematic, not_implemented, refused
from volenti.api.values import composed, identifier, instant, optional_instant, reference, zone
from volenti.core.admission import PERMISSIVE, Choice, Command, Facts, Refusal, ShownOffer
from volenti.core.data_subject import ENTRY_KINDS, Act, Evidence, Identifier
from volenti.flows.clock import rfc3339
from volenti.flows.confirm_consent import Expired, confirmed_write, link_for
from volenti.flows.issue_offer import AskLocked, OfferIssued, OfferRejected, issue, present
from volenti.flows.prove_entry import prove
from volenti.flows.record_consents import (
    IdentifierTaken,
    KeyMisused,
    Recorded,
    Recording,
    Retry,
    record,
    revision_token,
)
from volenti.keys.tokens import OfferRefused

_canonical = msgspec.json.Encoder(order="sorted")


def authorise_actor(call: Call, actor: wire.ActorReference) -> None:
    """Raise a 403 problem where a credential without `imports:write` records as an import: an import needs no notice."""
    if actor.type == "import" and "imports:write" not in call.caller.scopes:
        detail = "to record as an import the credential needs the scope imports:write"
        raise Problematic(403, "scope_missing", detail, pointer="/actor/type")


async def record_choices(call: Call) -> Reply:
    """Record choices of one person, together or not at all."""
    asked: wire.ConsentsRequest = call.body
    if asked.preferences is not None:
        raise not_implemented("/preferences")
    authorise_actor(call, asked.actor)
    if call.caller.purposes is not None and any(event.purpose not in call.caller.purposes for event in asked.events):
        raise Problematic(403, "out_of_scope", "the credential does not cover this purpose")
    grants = any(event.kind in PERMISSIVE for event in asked.events)
    offer = _offer(call, asked.evidence) if grants else None  # a restriction needs none, and is never refused for one
    command = Command(
        actor=asked.actor.type,
        component=call.caller.component,
        guardian=asked.actor.id,
        choices=tuple(_choice(call, event, f"/events/{position}") for position, event in enumerate(asked.events)),
        voids_refusals=call.services.settings.profile != "production",
        facts=Facts(
            jurisdiction=asked.data_subject.jurisdiction,
            time_zone=zone(asked.data_subject.time_zone, "/data_subject/time_zone"),
            locale=asked.data_subject.locale,
        ),
        method=asked.method,
        surface=composed(asked.surface),
        evidence=_evidence(asked.evidence, offer),
        offer=offer,
    )
    recording = await record(
        call.services, call.workspace_id, command, who(asked.data_subject), retry_of(call, "POST /v1/consents")
    )
    pointers = [] if asked.data_subject.id is None else ["/data_subject/id"]
    pointers += [f"/data_subject/identifiers/{position}" for position in range(len(asked.data_subject.identifiers))]
    return await recorded(call, recording, status=201, pointers=pointers)


def who(given: wire.DataSubject) -> tuple[Identifier, ...]:
    """The identifiers of a write, the caller's id first. Raises a 422 problem if there are none."""
    identifiers = tuple(
        identifier(one, f"/data_subject/identifiers/{position}") for position, one in enumerate(given.identifiers)
    )
    if given.id is not None:
        return (Identifier("id", given.id), *identifiers)
    if not identifiers:
        raise Problematic(
            422, "data_subject", "name the data subject by id or by an identifier", pointer="/data_subject"
        )
    return identifiers


def retry_of(call: Call, request: str) -> Retry | None:
    """What makes this call safe to repeat, if its caller gave a key. The fingerprint is over the decoded body, not its bytes."""
    key = idempotency_key(call.headers)
    return None if key is None else Retry(call.caller.credential_id, key, request, _canonical.encode(call.body))


async def recorded(call: Call, recording: Recording, *, status: int, pointers: Sequence[str]) -> Reply:
    """The answer to a write; `pointers` name the members that its identifiers came from."""
    match recording:
        case Recorded():
            return await _success(call, recording, status)
        case Refusal():
            raise refused(recording)
        case KeyMisused():
            raise Problematic(422, "idempotency_key_reused", "this Idempotency-Key was used for another request")
        case IdentifierTaken(position=position):
            raise Problematic(
                409, "identifier_taken", "the identifier belongs to another data subject", pointer=pointers[position]
            )
        case _:
            assert_never(recording)


async def _success(call: Call, done: Recorded, status: int) -> Reply:
    proofs = await _proofs(call, done)
    entries = tuple(
        wire.RecordedEntry(
            entry=entry.entry, index=done.first_index + position, kind=entry.kind, leaf_hash=entry.leaf_hash, applied=entry.applied, why=entry.why,
            proof=proofs.get(entry.entry, msgspec.UNSET),
        )
        for position, entry in enumerate(done.entries)
    )  # fmt: skip
    answer = wire.RecordedAnswer(
        data_subject=done.data_subject,
        entries=entries,
        revision=revision_token(done.epoch, done.size),
        receipt=f"/v1/ledger/entries/{entries[-1].entry}/proof" if entries else None,
        confirmation=_confirmation(call, done),
    )
    return Reply(answer, status=status, headers={"idempotency-replayed": "true"} if done.replayed else {})


def _confirmation(call: Call, done: Recorded) -> wire.Confirmation | msgspec.UnsetType:
    """The page that confirms what this write asked for: one for all of its requests."""
    first = next((entry.entry for entry in done.entries if entry.kind == ENTRY_KINDS["request"]), None)
    if first is None or done.holder is None:
        return msgspec.UNSET
    token, expires_at = link_for(call.services, call.workspace_id, done.holder, first)
    return wire.Confirmation(url=f"{call.services.settings.base_url}/c/{token}", expires_at=rfc3339(expires_at))


async def _proofs(call: Call, done: Recorded) -> dict[str, str]:
    """The signed proofs that `Prefer: wait=N` asked for; without them the answer names a durable index, not a proof."""
    preferred = re.fullmatch(r"wait=([0-9]{1,9})", call.headers.get("prefer", "").strip())
    if preferred is None:
        return {}
    proofs = {}
    for position, entry in enumerate(done.entries):
        proven = await prove(
            call.services, call.workspace_id, done.first_index + position, wait_seconds=min(int(preferred[1]), 10)
        )
        proofs[entry.entry] = proven.text
    return proofs


def _choice(call: Call, event: wire.ConsentChoice, pointer: str) -> Choice:
    return Choice(
        kind=event.kind,
        purpose=event.purpose,
        channels=tuple(str(channel) for channel in event.channels),
        notice=event.notice,
        language=event.language,
        claimed_at=optional_instant(event.occurred_at, f"{pointer}/occurred_at"),
        valid_from=optional_instant(event.valid_from, f"{pointer}/valid_from"),
        valid_until=optional_instant(event.valid_until, f"{pointer}/valid_until"),
        names=_named(call, event, pointer),
    )


def _named(call: Call, event: wire.ConsentChoice, pointer: str) -> str | None:
    """What a confirmation confirms (by its token) or an invalidation voids. Raises a problem where that is missing or out of place."""
    needed = {"confirm": "token", "invalidate": "supersedes"}.get(event.kind)
    for member in ("token", "supersedes"):
        given = getattr(event, member) is not None
        if given is not (member == needed):
            detail = (
                "this kind of event takes no such member" if given else f"this kind of event needs the member {member}"
            )
            problem = "invalid_value" if given else "missing_member"
            raise Problematic(422, problem, detail, pointer=f"{pointer}/{member}" if given else pointer)
    if event.token is None:
        return event.supersedes
    write = confirmed_write(call.services, call.workspace_id, event.token)
    if isinstance(write, Expired):
        raise Problematic(410, "confirmation_expired", "the confirmation has expired", pointer=f"{pointer}/token")
    if write is None:
        detail = "the token confirms nothing in this workspace"
        raise Problematic(409, "nothing_to_confirm", detail, pointer=f"{pointer}/token")
    return write


def _offer(call: Call, evidence: wire.Evidence | None) -> ShownOffer | None:
    if evidence is None or evidence.offer is None:
        return None
    offer = present(call.services, call.workspace_id, evidence.offer)
    if isinstance(offer, OfferRefused):
        raise Problematic(
            409,
            offer.code,
            "the offer has expired" if offer.code == "offer_expired" else "the offer is not one of this workspace's",
            pointer="/evidence/offer",
        )
    return offer


def _evidence(given: wire.Evidence | None, offer: ShownOffer | None) -> Evidence | None:
    if given is None:
        return None
    return Evidence(
        ip_prefix=None if given.ip is None else _prefix(given.ip),
        user_agent=composed(given.user_agent),
        offer=None if offer is None else offer.id,
        authentication=_act(given.authentication, "/evidence/authentication"),
        confirmation=_act(given.confirmation, "/evidence/confirmation"),
    )


def _act(given: wire.Act | None, pointer: str) -> Act | None:
    return None if given is None else Act(given.method, instant(given.at, f"{pointer}/at"))


def _prefix(ip: str) -> str:
    """An address cut to what tells a network, not a person: /24 or /48."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        raise Problematic(422, "invalid_value", "the value is not an IP address", pointer="/evidence/ip") from None
    return str(ipaddress.ip_network(f"{address}/{24 if address.version == 4 else 48}", strict=False))


async def issue_offer(call: Call) -> Reply:
    """State what is about to be put before a person; a grant that carries the offer is graded higher."""
    asked: wire.OfferRequest = call.body
    if call.caller.purposes is not None and not call.caller.purposes.issuperset(asked.purposes):
        raise Problematic(403, "out_of_scope", "the credential does not cover this purpose")
    issued = await issue(
        call.services,
        call.workspace_id,
        [(key, key in asked.preset) for key in asked.purposes],
        composed(asked.surface),
        asked.language,
        component=call.caller.component,
        who=None if asked.data_subject is None else reference(asked.data_subject),
    )
    match issued:
        case OfferIssued():
            notices = tuple(
                wire.OfferedNotice(
                    notice=f"{key}@{notice.version}",
                    purposes=purposes,
                    title=notice.text[issued.language].title,
                    body=notice.text[issued.language].body,
                )
                for key, notice, purposes in issued.notices
            )
            return Reply(
                wire.OfferAnswer(
                    offer=issued.token,
                    notices=notices,
                    language=issued.language,
                    expires_at=rfc3339(issued.expires_at * 1000),
                ),
                status=201,
            )
        case OfferRejected():
            raise Problematic(422, "offer", issued.detail, pointer=issued.pointer)
        case AskLocked():
            detail = "the person must not be asked again yet"
            raise Problematic(409, "ask_locked", detail, not_before=rfc3339(issued.until))
        case _:
            assert_never(issued)
