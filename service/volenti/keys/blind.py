"""Keyed names: HMACs under the pepper that stand where a value must be found again but never read.

Each has its own label and its fields stand with their lengths, so that no two questions give the same bytes.
Ids are the 16 bytes of a UUID.
"""

import base64
import hmac

from volenti.core.identifier import RULE_VERSION, IdentifierType


def blind_index(pepper: bytes, workspace_id: bytes, type: IdentifierType, match_key: str) -> bytes:  # noqa: A002
    """Give the 32 bytes under which an identifier is found; they differ by workspace, type and the rule's version."""
    version = RULE_VERSION.to_bytes(4)
    return _mac(pepper, "volenti/blind-index/v1", workspace_id, _utf8(type), version, _utf8(match_key))


def credential_mac(pepper: bytes, token_text: str) -> bytes:
    """Give the 32 bytes that are stored in place of a credential's secret; the whole token is under the MAC."""
    return _mac(pepper, "volenti/credential/v1", _utf8(token_text))


def idempotency_mac(pepper: bytes, workspace_id: bytes, credential_id: bytes, key_text: str) -> bytes:
    """Give the 32 bytes that stand for an Idempotency-Key: callers put addresses and order numbers into keys."""
    return _mac(pepper, "volenti/idempotency-key/v1", workspace_id, credential_id, _utf8(key_text))


def fingerprint_mac(pepper: bytes, workspace_id: bytes, method_path: str, canonical_body: bytes) -> bytes:
    """Give the 32 bytes that tell whether a repeated key came with the same request."""
    return _mac(pepper, "volenti/request-fingerprint/v1", workspace_id, _utf8(method_path), canonical_body)


def decision_mac(pepper: bytes, workspace_id: bytes, decision_id: bytes, index: bytes, question: bytes) -> bytes:
    """Give the 32 bytes that tie a logged decision to who was asked about (a blind index) and to the whole question.

    They differ by decision: without the pepper nobody tells that two were about one person.
    """
    return _mac(pepper, "volenti/decision/v1", workspace_id, decision_id, index, question)


def import_entry_seed(pepper: bytes, workspace_id: bytes, source: str, row: str, event: str) -> bytes:
    """Give the 32 bytes that an imported entry's id derives from: a second run of the same rows adds nothing."""
    return _mac(pepper, "volenti/import-entry/v1", workspace_id, _utf8(source), _utf8(row), _utf8(event))


def workspace_entry_mac(
    workspace_key: bytes, entry_id: bytes, at_ms: int, kind: str, content_hash: bytes, payload: bytes
) -> bytes:
    """Give the 32 bytes that show that the service itself recorded an entry of the workspace's own.

    Such an entry belongs to nobody and is not sealed; without this a database administrator could append one.
    """
    at = at_ms.to_bytes(8)
    return _mac(workspace_key, "volenti/workspace-entry/v1", entry_id, at, _utf8(kind), content_hash, payload)


def log_name(pepper: bytes, workspace_id: bytes, holder: bytes) -> str:
    """Give 8 letters and digits by which log lines of one holder are told from others', and no holder from them."""
    return base64.b32encode(_mac(pepper, "volenti/log-name/v1", workspace_id, holder)[:5]).decode("ascii").lower()


def labelled(label: str, *fields: bytes) -> bytes:
    """Give label and fields as bytes that no other label and no other fields give.

    The label's text, a zero byte, and each field after its length in four bytes, big endian.
    """
    return b"".join((label.encode("ascii"), b"\x00", *(len(field).to_bytes(4) + field for field in fields)))


def _mac(pepper: bytes, label: str, *fields: bytes) -> bytes:
    return hmac.digest(pepper, labelled(label, *fields), "sha256")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # total: what a header decodes to never raises here
