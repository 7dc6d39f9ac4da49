"""Where a value differs from the types of the policy document: every place, in the author's words.

The types in `document` are the only description: this walks them instead of stopping at the first difference, as
`msgspec.convert` does. What finds nothing here converts.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from difflib import get_close_matches
from enum import Enum

import msgspec
from msgspec import inspect

from volenti.core.policy.document import Policy, Purpose, Topic
from volenti.core.policy.finding import child, quoted

# What the document's format knows and this version does not enforce. To accept such a member would be a promise that
# the check does not keep, so it is refused. An entry leaves here when its member enters `document`.
NOT_ENFORCED_MEMBERS: Mapping[type, frozenset[str]] = {
    Policy: frozenset({"caps", "quiet_hours", "time_zone"}),
    Purpose: frozenset({"counts_toward_caps", "on_quiet"}),
    Topic: frozenset({"default", "always_on"}),
}

Difference = tuple[str, str]
"""A JSON Pointer and a sentence about what stands there."""

_POLICY = inspect.type_info(Policy)


def differences(value: object) -> Iterator[Difference]:
    """Give each place at which a value is no policy document; nothing if `msgspec.convert` takes it as `Policy`."""
    return _differences(value, _POLICY, "")


def not_enforced(what: str) -> str:
    """Give the sentence that refuses what a later version will know."""
    return f"this version does not enforce {quoted(what)} yet: remove it"


def _differences(value: object, kind: inspect.Type, at: str, description: str = "") -> Iterator[Difference]:
    match kind:
        case inspect.Metadata():
            described = (kind.extra_json_schema or {}).get("description", description)
            yield from _differences(value, kind.type, at, described)
        case inspect.UnionType():
            yield from _of_union(value, kind, at)
        case inspect.StructType():
            yield from _of_struct(value, kind, at)
        case inspect.DictType():
            yield from _of_mapping(value, kind, at)
        case inspect.VarTupleType():
            yield from _of_list(value, kind, at)
        case inspect.EnumType():
            yield from _of_word(value, kind.cls, at)
        case inspect.StrType():
            if not isinstance(value, str) or not _is_text(value, kind):
                yield at, f"must be {description}"
        case inspect.IntType():
            in_range = type(value) is int and (kind.ge or value) <= value <= (kind.le or value)
            if not in_range:
                yield at, f"must be {description}"
        case inspect.BoolType():
            if not isinstance(value, bool):
                yield at, "must be true or false"
        case inspect.DateTimeType():
            if not isinstance(value, str) or not _is_instant(value):
                yield at, f"must be {description}"
        case _:
            raise AssertionError(f"the policy document uses a type that is not described here: {kind}")


def _of_union(value: object, kind: inspect.UnionType, at: str) -> Iterator[Difference]:
    """Either `… | None`, or values that YAML itself tells apart: text, a number, true or false, a mapping."""
    kinds = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
    if value is None and len(kinds) < len(kind.types):
        return
    fitting = [one for one in kinds if len(kinds) == 1 or _written_as(one) is type(value)]
    if fitting:
        yield from _differences(value, fitting[0], at)
    else:
        yield at, "must be text, a whole number, true or false, or a mapping"


def _written_as(kind: inspect.Type) -> type:
    match kind:
        case inspect.Metadata():
            return _written_as(kind.type)
        case inspect.DictType():
            return dict
        case inspect.StrType():
            return str
        case inspect.IntType():
            return int
        case _:
            return bool


def _of_struct(value: object, kind: inspect.StructType, at: str) -> Iterator[Difference]:
    if not isinstance(value, dict):
        yield at, "must be a mapping of members"
        return
    fields = {field.encode_name: field for field in kind.fields}
    for name, member in value.items():
        if name in fields:
            yield from _differences(member, fields[name].type, child(at, name))
        elif name in NOT_ENFORCED_MEMBERS.get(kind.cls, ()):
            yield child(at, name), not_enforced(name)
        else:
            known = [*fields, *NOT_ENFORCED_MEMBERS.get(kind.cls, ())]
            yield child(at, name), f"unknown member {quoted(name)}{_did_you_mean(name, known)}"
    for name, field in fields.items():
        if field.required and name not in value:
            yield at, f"the member {quoted(name)} is missing"


def _of_mapping(value: object, kind: inspect.DictType, at: str) -> Iterator[Difference]:
    if not isinstance(value, dict):
        yield at, "must be a mapping of members"
        return
    yield from _of_length(len(value), kind, at)
    for name, member in value.items():
        yield from _differences(name, kind.key_type, child(at, name))
        yield from _differences(member, kind.value_type, child(at, name))


def _of_list(value: object, kind: inspect.VarTupleType, at: str) -> Iterator[Difference]:
    if not isinstance(value, list):
        yield at, "must be a list"
        return
    yield from _of_length(len(value), kind, at)
    for index, item in enumerate(value):
        yield from _differences(item, kind.item_type, child(at, index))


def _of_length(length: int, kind: inspect.DictType | inspect.VarTupleType, at: str) -> Iterator[Difference]:
    if kind.min_length is not None and length < kind.min_length:
        yield at, "must not be empty"
    if kind.max_length is not None and length > kind.max_length:
        yield at, f"must have at most {kind.max_length} members, not {length}"


def _of_word(value: object, words: type[Enum], at: str) -> Iterator[Difference]:
    known = [str(word.value) for word in words]
    if not isinstance(value, str):
        yield at, f"must be one of {', '.join(known)}"
    elif value not in known:
        close = _did_you_mean(value, known) or f": must be one of {', '.join(known)}"
        yield at, f"unknown value {quoted(value)}{close}"


def _is_text(value: str, kind: inspect.StrType) -> bool:
    if any("\ud800" <= letter <= "\udfff" for letter in value):  # half a character: no UTF-8 can carry it
        return False
    if not (kind.min_length or 0) <= len(value) <= (kind.max_length or len(value)):
        return False
    return kind.pattern is None or re.search(kind.pattern, value) is not None


def _is_instant(value: str) -> bool:
    try:
        instant = msgspec.convert(value, datetime)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return False
    return instant.tzinfo is not None and 1970 <= instant.year < 9999


def _did_you_mean(word: str, known: list[str]) -> str:
    close = get_close_matches(word[:64].lower(), known, n=1, cutoff=0.7)
    return f": did you mean {quoted(close[0])}?" if close else ""
