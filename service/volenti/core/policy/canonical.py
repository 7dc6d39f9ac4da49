"""The bytes of a policy that are hashed into the ledger and stored, and the policy that such bytes hold."""

import hashlib
from datetime import UTC, datetime
from enum import Enum

import msgspec

from volenti.core.policy.document import Policy
from volenti.errors import Invalid


def document_bytes(policy: Policy) -> bytes:
    """Give the canonical JSON of a policy: sorted members, no white space, instants in UTC, defaults left out.

    A member at its default is left out whether or not its author wrote it, so that equal policies have equal bytes,
    and so that a later version may add members without changing the bytes of older documents. The restricted
    profile (no floats, ASCII keys, small integers) makes them RFC 8785 canonical as well.
    """
    return msgspec.json.encode(_plain(policy), order="sorted")


def document_hash(policy: Policy) -> bytes:
    """Give the SHA-256 of the canonical bytes: what the ledger entry of a published policy names."""
    return hashlib.sha256(document_bytes(policy)).digest()


def parse_document(document: bytes) -> Policy:
    """Give back the policy that `document_bytes` wrote. Raises `Invalid` for bytes that hold no policy of ours."""
    try:
        return msgspec.json.decode(document, type=Policy)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid("the stored policy document cannot be read by this version") from error


def _plain(value: object) -> object:
    match value:
        case msgspec.Struct():
            members = ((field, getattr(value, field.name)) for field in msgspec.structs.fields(value))
            return {field.encode_name: _plain(member) for field, member in members if member != _default(field)}
        case dict():
            return {key: _plain(member) for key, member in value.items()}
        case tuple():
            return [_plain(item) for item in value]
        case datetime():
            return value.astimezone(UTC)
        case Enum():
            return value.value
        case _:
            return value


def _default(field: msgspec.structs.FieldInfo) -> object:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
