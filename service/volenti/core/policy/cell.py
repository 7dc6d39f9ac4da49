"""The keys of the jurisdiction profiles: what each says, how its values are written, and which of two is the stricter."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any, TypeAlias

import msgspec

from volenti.core.policy.document import LawfulBasis, RelationTerms, RelationType
from volenti.core.policy.duration import Duration, parse_duration
from volenti.core.policy.terms import Qualifying, higher, longer, qualifying_in_both, shorter, strictest

NONE, ANY = "none", "any"

Relations: TypeAlias = Mapping[RelationType, Qualifying] | None
"""The ties that qualify; `None`, written `any`: the purpose's own `relations` decide."""

CellValue: TypeAlias = LawfulBasis | Duration | Relations | int | bool | str | None
"""A value as its key's kind reads it. `None` is `none`, no limit; of relations it is `any`."""


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """How the values of a key are written (`expects` completes "must be …"), read, and merged to the strictest.

    `read` raises ValueError or `msgspec.ValidationError` for what is no such value.
    """

    expects: str
    read: Callable[[object], Any]
    strictest: Callable[[Any, Any], Any]


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What a key says. One that is not `enforced` is there to be read: no answer depends on it yet.

    With `refined` the key may also be given for one row alone, after a dot: `consent_expiry.analytics`.
    """

    says: str
    kind: Kind
    enforced: bool = True
    refined: bool = False


def _basis(value: object) -> LawfulBasis:
    return msgspec.convert(value, LawfulBasis)


def _duration(value: object) -> Duration | None:
    if value == NONE:
        return None
    duration = parse_duration(value) if isinstance(value, str) else None
    if duration is None:
        raise ValueError(value)
    return duration


def _age(value: object) -> int | None:
    if value == NONE:
        return None
    if type(value) is not int or not 1 <= value <= 30:
        raise ValueError(value)
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def _relations(value: object) -> Relations:
    if value == ANY:
        return None
    return {
        relation: Qualifying(
            max_age=None if terms.max_age is None else _duration(terms.max_age),
            collected_since_ms=None if terms.since is None else _midnight(terms.since),
        )
        for relation, terms in msgspec.convert(value, dict[RelationType, RelationTerms]).items()
    }


def _midnight(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1000


def _fewer(one: Relations, other: Relations) -> Relations:
    if one is None or other is None:
        return other if one is None else one
    return qualifying_in_both(one, other)


BASIS = Kind(
    expects=f"one of {', '.join(LawfulBasis)}", read=_basis, strictest=lambda one, other: strictest((one, other))
)
EXPIRY = Kind(expects="a duration such as P24M, or none", read=_duration, strictest=shorter)
LOCK = Kind(expects="a duration such as P6M, or none", read=_duration, strictest=longer)
AGE = Kind(expects="an age from 1 to 30, or none", read=_age, strictest=higher)
DUTY = Kind(expects="true or false", read=_flag, strictest=lambda one, other: one or other)
RELIEF = Kind(expects="true or false", read=_flag, strictest=lambda one, other: one and other)
RELATIONS = Kind(
    expects="relations such as {purchase: {max_age: P24M}, donation: {since: 2026-02-05}}, or any",
    read=_relations,
    strictest=_fewer,
)

ROWS: Mapping[str, str] = {
    "email_marketing": "marketing by e-mail",
    "sms_marketing": "marketing by SMS",
    "whatsapp_marketing": "marketing by WhatsApp",
    "phone_marketing": "marketing by live telephone call",
    "push_marketing": "marketing by push notification, beside the permission of the operating system",
    "analytics": "analytics that store on or read from the device",
    "personalisation": "personalisation and profiling with one's own data",
    "sale_share": "sale, sharing and targeted advertising",
    "sensitive": "sensitive data and special categories, whatever else the purpose does",
    "sensitive_sale": "sale of sensitive data",
    "ai_decisions": "automated decisions without significant effect",
    "significant_decisions": "decisions taken by machine alone that significantly affect the person",
}
"""The rows of the table: each gives the lawful basis in the absence of anything more lenient in the policy."""

CELLS: Mapping[str, Cell] = {
    **{row: Cell(says=f"the basis of {says}", kind=BASIS) for row, says in ROWS.items()},
    "consent_expiry": Cell(says="how long a grant lasts at most", kind=EXPIRY, refined=True),
    "relations": Cell(says="the ties that qualify for a soft opt-in", kind=RELATIONS, refined=True),
    "reask_lock": Cell(says="how long nobody asks again after a refusal", kind=LOCK, refined=True),
    "age_of_consent": Cell(says="who is younger needs a guardian's grant", kind=AGE, refined=True),
    "age_of_sale": Cell(says="who is younger must have consented to sale and sharing", kind=AGE),
    "minors_prohibited_below": Cell(says="for who is younger nothing permits", kind=AGE, refined=True),
    "minor_lock_age": Cell(says="who refused as a minor is not asked before this age", kind=AGE, refined=True),
    "human_review": Cell(says="the person may have a human review the decision", kind=DUTY, refined=True),
    "show_notice": Cell(says="permitted with a notice", kind=DUTY, refined=True),
    "signal_exception": Cell(
        says="a consent recorded after the conflict was shown stands against a signal that refuses", kind=RELIEF
    ),
}


def cell_of(key: str) -> Cell | None:
    """Give the cell that a key of a profile or an override names, also one for a row alone; `None` if there is none."""
    name, dot, row = key.partition(".")
    cell = CELLS.get(name)
    if not dot:
        return cell
    return cell if cell is not None and cell.refined and row in ROWS else None


class _Unreadable(Enum):
    UNREADABLE = auto()


UNREADABLE = _Unreadable.UNREADABLE
"""What `cell_value` gives for a value that its key does not take; `None` is a value."""


def cell_value(key: str, written: object) -> CellValue | _Unreadable:
    """Give the value of a key as it is written in YAML, or `UNREADABLE`."""
    cell = cell_of(key)
    try:
        return UNREADABLE if cell is None else cell.kind.read(written)
    except (ValueError, msgspec.ValidationError):
        return UNREADABLE


def is_laxer(cell: Cell, value: CellValue, than: CellValue) -> bool:
    """Whether a value permits what the other one does not."""
    return bool(cell.kind.strictest(value, than) != value)
