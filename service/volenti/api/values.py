"""What a member's type cannot say: values that need a look before a flow takes them. Raises 422 problems with a pointer."""

from __future__ import annotations

import unicodedata
import zoneinfo
from datetime import UTC, datetime, timedelta
from typing import Any, overload

from volenti.api import wire
from volenti.api.problems import Problematic
from volenti.core.data_subject import Identifier
from volenti.core.identifier import match_key
from volenti.core.policy.jurisdiction import OFTEN_MEANT, is_jurisdiction
from volenti.errors import Invalid

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@overload
def composed(text: str) -> str: ...
@overload
def composed(text: None) -> None: ...
def composed(text: str | None) -> str | None:
    """Free text in NFC, the form in which it is hashed; None stays None."""
    return None if text is None else unicodedata.normalize("NFC", text)


def identifier(given: wire.Identifier | wire.VerifiedIdentifier, pointer: str) -> Identifier:
    """An identifier that can be looked up."""
    value = composed(given.value)
    try:
        match_key(given.type, value)
    except Invalid as error:
        raise Problematic(422, "invalid_value", str(error), pointer=f"{pointer}/value") from None
    verified = given.verified_at if isinstance(given, wire.VerifiedIdentifier) else None
    return Identifier(given.type, value, optional_instant(verified, f"{pointer}/verified_at"))


def reference(given: wire.DataSubjectReference, pointer: str = "/data_subject") -> Identifier:
    """The identifier that names a person. Raises a 422 problem unless exactly one is given."""
    if (given.id is None) == (given.identifier is None):
        raise Problematic(
            422, "data_subject", "name the data subject by exactly one of id and identifier", pointer=pointer
        )
    if given.id is not None:
        return Identifier("id", given.id)
    assert given.identifier is not None
    return identifier(given.identifier, f"{pointer}/identifier")


def instant(given: datetime, pointer: str) -> int:
    """An instant that lies, in UTC, between the years 1 and 9999, so that it can be written again."""
    try:
        return (given.astimezone(UTC) - _EPOCH) // _MILLISECOND
    except OverflowError:
        raise Problematic(
            422, "invalid_value", "the instant is before the year 1 or after 9999 in UTC", pointer=pointer
        ) from None


def optional_instant(given: datetime | None, pointer: str) -> int | None:
    """The same of a member that may be absent."""
    return None if given is None else instant(given, pointer)


def place(code: str | None, pointer: str) -> str | None:
    """A place whose law there may be; None stays None."""
    if code is not None and not is_jurisdiction(code):
        meant = OFTEN_MEANT.get(code)
        detail = "there is no such place in ISO 3166" if meant is None else f"the code of this country is {meant}"
        raise Problematic(422, "invalid_value", detail, pointer=pointer)
    return code


def zone(name: str | None, pointer: str) -> str | None:
    """An IANA time zone of the data that we ship; None stays None."""
    if name is not None:
        try:
            zoneinfo.ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise Problematic(422, "invalid_value", "there is no such time zone", pointer=pointer) from None
    return name


def item_key(members: dict[str, Any]) -> str | None:
    """Take the caller's own key out of an item of a batch. Raises a 422 problem for one that cannot be used."""
    key = members.pop("key", None)
    if key is not None and not (isinstance(key, str) and len(key) <= 128):
        raise Problematic(422, "invalid_value", "a key is a text of at most 128 characters", pointer="/key")
    return key
