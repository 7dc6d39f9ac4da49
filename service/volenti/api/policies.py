"""/v1/policies: publish a version, put one in force, list and read what was published."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never
from uuid import UUID

import msgspec

from volenti.api import wire
from volenti.api.consents import retry_of
from volenti.api.endpoint import Call, Reply
from volenti.api.problems import Problematic
from volenti.api.values import optional_instant
from volenti.core.policy.finding import Finding
from volenti.flows.clock import milliseconds, rfc3339
from volenti.flows.publish_policy import Publication, Published, Rejected, TooLate, activate, publish
from volenti.flows.record_consents import KeyMisused, revision_token
from volenti.store import policies
from volenti.store.database import Connection
from volenti.store.policies import Activation, PolicyVersion


async def publish_version(call: Call) -> Reply:
    """Publish a document as the next version; it decides from `activate_at` on, or from the next check."""
    asked: wire.PolicyRequest = call.body
    at = optional_instant(asked.activate_at, "/activate_at")
    retry = retry_of(call, "POST /v1/policies")
    publication = await publish(call.services, call.workspace_id, asked.document, activate_at=at, retry=retry)
    return await _answered(call, publication, "/activate_at")


async def activate_version(call: Call) -> Reply:
    """Put a published version in force from `at` on, or from the next check."""
    asked: wire.ActivationRequest = call.body
    number = _number(call)
    at = optional_instant(asked.at, "/at")
    retry = retry_of(call, f"POST /v1/policies/{number}/activate")
    return await _answered(call, await activate(call.services, call.workspace_id, number, at=at, retry=retry), "/at")


async def list_versions(call: Call) -> Reply:
    """Every published version, oldest first, with the instants from which it is in force."""
    async with call.services.database.workspace("volenti_app", call.workspace_id) as connection:
        stored = await policies.versions(connection, call.workspace_id)
        answers = await _answers(connection, call.workspace_id, stored)
    return Reply(wire.PolicyList(data=answers, next_cursor=None))


async def show_version(call: Call) -> Reply:
    """One version with its document, as it was hashed and as its author wrote it."""
    stored, answer = await _shown(call, _number(call))
    return Reply(msgspec.structs.replace(answer, document=msgspec.json.decode(stored.document), source=stored.source))


def _number(call: Call) -> int:
    number = call.path["version"]
    if not (number.isascii() and number.isdigit() and len(number) < 9):
        raise Problematic(404, "not_found", "there is no such thing in this workspace")
    return int(number)


async def _shown(call: Call, number: int) -> tuple[PolicyVersion, wire.PolicyAnswer]:
    async with call.services.database.workspace("volenti_app", call.workspace_id) as connection:
        stored = await policies.version(connection, call.workspace_id, number)
        (answer,) = await _answers(connection, call.workspace_id, [stored])
    return stored, answer


async def _answered(call: Call, publication: Publication, pointer: str) -> Reply:
    match publication:
        case Published():
            _, answer = await _shown(call, publication.version)
            answer = msgspec.structs.replace(
                answer,
                revision=revision_token(publication.epoch, publication.size),
                warnings=_findings(publication.warnings),
            )
            headers = {"idempotency-replayed": "true"} if publication.replayed else {}
            return Reply(answer, status=200 if publication.repeated else 201, headers=headers)
        case Rejected():
            raise _rejected(publication.findings)
        case TooLate():
            raise Problematic(
                422,
                "instant_passed",
                "the instant has passed: what was in force then stays what it was",
                pointer=pointer,
            )
        case KeyMisused():
            raise Problematic(422, "idempotency_key_reused", "this Idempotency-Key was used for another request")
        case _:
            assert_never(publication)


async def _answers(
    connection: Connection, workspace_id: UUID, stored: Iterable[PolicyVersion]
) -> tuple[wire.PolicyAnswer, ...]:
    activations = await policies.activations(connection, workspace_id)
    standing = await policies.in_force(connection, workspace_id, await policies.now(connection))
    return tuple(
        wire.PolicyAnswer(
            version=one.version,
            hash=f"sha256:{one.hash.hex()}",
            entry=str(one.entry_id),
            published_at=rfc3339(milliseconds(one.published_at)),
            in_force=standing is not None and standing.activation.version == one.version,
            activations=tuple(_activation(each) for each in activations if each.version == one.version),
        )
        for one in stored
    )


def _activation(one: Activation) -> wire.PolicyActivation:
    return wire.PolicyActivation(
        number=one.number,
        active_from=rfc3339(milliseconds(one.active_from)),
        recorded_at=rfc3339(milliseconds(one.recorded_at)),
        entry=str(one.entry_id),
    )


def _findings(findings: Iterable[Finding]) -> tuple[wire.PolicyFinding, ...]:
    return tuple(
        wire.PolicyFinding(line=one.line, pointer=one.pointer, severity=one.severity, message=one.message)
        for one in findings
    )


def _rejected(findings: Iterable[Finding]) -> Problematic:
    errors = [one for one in findings if one.severity == "error"]
    listed = [{"detail": f"line {one.line}: {one.message}", "pointer": "#/document"} for one in errors]
    return Problematic(
        422, "policy_invalid", f"the policy has {len(errors)} errors; nothing was published", errors=listed
    )
