"""POST /v1/consents, its batch and /v1/offers: record people's choices, and state what was put before them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, assert_never

import msgspec

from volenti.api import wire
from volenti.api.endpoint import Call, Reply, decode_json, idempotency_key
from volenti.api.problems import Problematic, document_of, not_implemented, problem_of, refused
from volenti.api.values import composed, identifier, instant, item_key, optional_instant, place, reference, zone
from volenti.core.admission import PERMISSIVE, Choice, Command, Facts, Refusal, ShownOffer
from volenti.core.data_subject import ENTRY_KINDS, Act, Evidence, Identifier
from volenti.errors import Invalid, VolentiError
from volenti.flows.clock import rfc3339
from volenti.flows.confirm_consent import Expired, confirmed_write, link_for
from volenti.flows.issue_offer import AskLocked, OfferIssued, OfferRejected, issue, present
from volenti.flows.prove_entry import prove
from volenti.flows.record_batch import Outcome, Write, record_batch
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
    command, people = _command(call, asked), who(asked.data_subject)
    recording = await record(call.services, call.workspace_id, command, people, retry_of(call, "POST /v1/consents"))
    return await recorded(call, recording, status=201, pointers=_pointers(asked))


async def record_many(call: Call) -> Reply:
    """Record choices of many people: each item is a write of its own, and is answered as it would be alone."""
    batch: wire.ConsentsBatchRequest = call.body
    items = [_item(call, position, raw) for position, raw in enumerate(batch.items)]
    writes = [item.write for item in items if isinstance(item, _Item)]
    outcomes = await record_batch(call.services, call.workspace_id, writes)
    done = iter(outcomes)
    answers = [
        await _item_answer(call, item, next(done)) if isinstance(item, _Item) else _item_refusal(item) for item in items
    ]
    newest = max(((one.epoch, one.size) for one in outcomes if isinstance(one, Recorded)), default=None)
    revision = None if newest is None else revision_token(*newest)
    return Reply(wire.ConsentsBatchAnswer(items=tuple(answers), revision=revision))


class _Item(msgspec.Struct, frozen=True):
    """An item of a batch that can be written."""

    key: str | None
    write: Write
    pointers: tuple[str, ...]


class _NoWrite(msgspec.Struct, frozen=True):
    """An item that cannot, with the problem that it would be alone."""

    key: str | None
    problem: Problematic


def _item(call: Call, position: int, raw: msgspec.Raw) -> _Item | _NoWrite:
    key = None
    try:
        members = decode_json(bytes(raw), dict[str, Any])
        key = item_key(members)
        asked = decode_json(msgspec.json.encode(members), wire.ConsentsRequest)
        retry = retry_of(replace(call, body=asked), "POST /v1/consents/batch", item=position)
        return _Item(key, Write(_command(call, asked), who(asked.data_subject), retry), _pointers(asked))
    except (Problematic, Invalid) as error:
        return _NoWrite(key, problem_of(error))


async def _item_answer(call: Call, item: _Item, outcome: Outcome) -> wire.ConsentsItemAnswer:
    try:
        if isinstance(outcome, VolentiError):
            raise outcome
        reply = await recorded(call, outcome, status=201, pointers=item.pointers, proofs=False)
    except (Problematic, VolentiError) as error:
        return _item_refusal(_NoWrite(item.key, problem_of(error)))
    return wire.ConsentsItemAnswer(key=item.key, status=reply.status, recorded=reply.body, error=None)


def _item_refusal(item: _NoWrite) -> wire.ConsentsItemAnswer:
    error = document_of(item.problem)
    return wire.ConsentsItemAnswer(key=item.key, status=item.problem.status, recorded=None, error=error)


def _command(call: Call, asked: wire.ConsentsRequest) -> Command:
    """What is to be recorded. Raises the problem of what this version, or this credential, does not take."""
    if asked.preferences is not None:
        raise not_implemented("/preferences")
    authorise_actor(call, asked.actor)
    if call.caller.purposes is not None and any(event.purpose not in call.caller.purposes for event in asked.events):
        raise Problematic(403, "out_of_scope", "the credential does not cover this purpose")
    grants = any(event.kind in PERMISSIVE for event in asked.events)
    offer = _offer(call, asked.evidence) if grants else None  # a restriction needs none, and is never refused for one
    return Command(
        actor=asked.actor.type,
        component=call.caller.component,
        guardian=asked.actor.id,
        choices=tuple(_choice(call, event, f"/events/{position}") for position, event in enumerate(asked.events)),
        voids_refusals=call.services.settings.profile != "production",
        facts=Facts(
            jurisdiction=place(asked.data_subject.jurisdiction, "/data_subject/jurisdiction"),
            time_zone=zone(asked.data_subject.time_zone, "/data_subject/time_zone"),
            locale=asked.data_subject.locale,
        ),
        method=asked.method,
        surface=composed(asked.surface),
        evidence=_evidence(asked.evidence, offer),
        offer=offer,
    )


def _pointers(asked: wire.ConsentsRequest) -> tuple[str, ...]:
    """The members that name the person, in the order of `who`."""
    named = () if asked.data_subject.id is None else ("/data_subject/id",)
    return named + tuple(f"/data_subject/identifiers/{n}" for n in range(len(asked.data_subject.identifiers)))


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


def retry_of(call: Call, request: str, *, item: int | None = None) -> Retry | None:
    """What makes this call safe to repeat, if its caller gave a key. The fingerprint is over the decoded body, not its bytes.

    `item` is the position of an item in its batch: each has a key of its own under that of the batch.
    """
    key = idempotency_key(call.headers)
    if key is None:
        return None
    key = key if item is None else f"{key}\0{item}"
    return Retry(call.caller.credential_id, key, request, _canonical.encode(call.body))


async def recorded(
    call: Call, recording: Recording, *, status: int, pointers: Sequence[str], proofs: bool = True
) -> Reply:
    """The answer to a write; `pointers` name the members that its identifiers came from."""
    match recording:
        case Recorded():
            return await _success(call, recording, status, await _proofs(call, recording) if proofs else {})
        case Refusal():
            raise refused(recording)
        case KeyMisused():
            raise _key_reused()
        case IdentifierTaken(position=position):
            raise Problematic(
                409, "identifier_taken", "the identifier belongs to another data subject", pointer=pointers[position]
            )
        case _:
            assert_never(recording)


def _key_reused() -> Problematic:
    return Problematic(422, "idempotency_key_reused", "this Idempotency-Key was used for another request")


def _replayed(replayed: bool) -> dict[str, str]:
    return {"idempotency-replayed": "true"} if replayed else {}


async def _success(call: Call, done: Recorded, status: int, proofs: Mapping[str, str]) -> Reply:
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
    return Reply(answer, status=status, headers=_replayed(done.replayed))


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
    if done.seen is not None:  # the log that goes on proves nothing of a sealed one
        return {}
    proofs = {}
    for position, entry in enumerate(done.entries):
        proven = await prove(
            call.services, call.workspace_id, done.first_index + position, wait_seconds=min(int(preferred[1]), 10)
        )
        proofs[entry.entry] = proven.text
    return proofs


_TIMELESS = frozenset(("confirm", "invalidate", "acknowledge"))
"""Kinds that take no time of validity. A restriction takes none either, but is never refused for a date: it holds without end."""


def _choice(call: Call, event: wire.ConsentChoice, pointer: str) -> Choice:
    for member in ("valid_from", "valid_until") if event.kind in _TIMELESS else ():
        if getattr(event, member) is not None:
            detail = "this kind of event takes no such member"
            raise Problematic(422, "invalid_value", detail, pointer=f"{pointer}/{member}")
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
        retry=retry_of(call, "POST /v1/offers"),
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
                headers=_replayed(issued.replayed),
            )
        case KeyMisused():
            raise _key_reused()
        case Refusal():
            raise refused(issued)
        case OfferRejected():
            raise Problematic(422, "offer", issued.detail, pointer=issued.pointer)
        case AskLocked():
            detail = "the person must not be asked again yet"
            raise Problematic(409, "ask_locked", detail, not_before=rfc3339(issued.until))
        case _:
            assert_never(issued)
