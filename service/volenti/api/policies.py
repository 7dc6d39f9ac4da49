"""/v1/policies: publish a version, list and read what was published."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from volenti.api import wire
from volenti.api.endpoint import Call, Reply
from volenti.api.problems import Problematic
from volenti.core.policy.finding import Finding
from volenti.flows.publish_policy import Rejected, publish
from volenti.flows.record_consents import revision_token
from volenti.store import policies
from volenti.store.policies import PolicyVersion


async def publish_version(call: Call) -> Reply:
    """Publish a document as the next version; it decides from the next check on."""
    asked: wire.PolicyRequest = call.body
    publication = await publish(call.services, call.workspace_id, asked.document)
    if isinstance(publication, Rejected):
        raise _rejected(publication.findings)
    async with call.services.database.workspace("volenti_app", call.workspace_id) as connection:
        stored = await policies.version(connection, call.workspace_id, publication.version)
    answer = msgspec.structs.replace(
        _answer(stored),
        revision=revision_token(publication.epoch, publication.size),
        warnings=_findings(publication.warnings),
    )
    return Reply(answer, status=200 if publication.repeated else 201)


async def list_versions(call: Call) -> Reply:
    """Every published version, oldest first."""
    async with call.services.database.workspace("volenti_app", call.workspace_id) as connection:
        stored = await policies.versions(connection, call.workspace_id)
    return Reply(wire.PolicyList(data=tuple(_answer(version) for version in stored), next_cursor=None))


async def show_version(call: Call) -> Reply:
    """One version with its document, as it was hashed and as its author wrote it."""
    number = call.path["version"]
    if not (number.isascii() and number.isdigit() and len(number) < 9):
        raise Problematic(404, "not_found", "there is no such thing in this workspace")
    async with call.services.database.workspace("volenti_app", call.workspace_id) as connection:
        stored = await policies.version(connection, call.workspace_id, int(number))
    return Reply(
        msgspec.structs.replace(_answer(stored), document=msgspec.json.decode(stored.document), source=stored.source)
    )


def _answer(stored: PolicyVersion) -> wire.PolicyAnswer:
    published = stored.published_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return wire.PolicyAnswer(
        version=stored.version, hash=f"sha256:{stored.hash.hex()}", entry=str(stored.entry_id), published_at=published
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
