"""The keys of the jurisdiction profiles: what each says, how its values are written, and which of two is the stricter."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from volenti.core.policy.document import DurationText, LawfulBasis, RelationTerms, RelationType
from volenti.core.policy.duration import Duration, iso, parse_duration
from volenti.core.policy.finding import quoted
from volenti.core.policy.terms import Qualifying, higher, longer, qualifying_in_both, shorter, strictest
from volenti.errors import Invalid

NONE, ANY = "none", "any"

_TIME = "([01][0-9]|2[0-3]):[0-5][0-9]"
_DAY = "(mon|tue|wed|thu|fri|sat|sun)"
Window = Annotated[str, Meta(pattern=rf"^{_DAY}(-{_DAY})? {_TIME}-{_TIME}(?!\n)$")]

Relations: TypeAlias = Mapping[RelationType, Qualifying] | None
"""The ties that qualify; `None`, written `any`: the purpose's own `relations` decide."""


class Hours(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the person may be called or written to, local time: on some days of the week, and on holidays or not."""

    windows: Annotated[tuple[Window, ...], Meta(min_length=1)]
    holidays: bool = True


class Limit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most so many contacts in any span of this length."""

    limit: Annotated[int, Meta(ge=0, le=1000)]
    per: DurationText


CellValue: TypeAlias = LawfulBasis | Duration | Relations | Hours | Limit | int | bool | str | None
"""A value as its key's kind reads it. `None` is `none`, no limit; of relations it is `any`."""


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """How the values of a key are written (`expects` completes "must be …"), read, and merged to the strictest.

    `read` raises ValueError or `msgspec.ValidationError` for what is no such value. Without `strictest` the values of
    several places are not merged: nothing is decided by them yet.
    """

    expects: str
    read: Callable[[object], Any]
    strictest: Callable[[Any, Any], Any] | None = None


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


def _struct(kind: type) -> Callable[[object], Any]:
    return lambda value: msgspec.convert(value, kind)


def _one_of(words: Sequence[str]) -> Kind:
    """Give the kind of a key with a few words, the strictest first."""

    def read(value: object) -> str:
        return words[words.index(value)] if isinstance(value, str) else msgspec.convert(value, str)

    return Kind(
        expects=f"one of {', '.join(words)}", read=read, strictest=lambda one, other: min(one, other, key=words.index)
    )


def _matching(pattern: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
            raise ValueError(value)
        return value

    return read


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
HOURS = Kind(expects='windows such as {windows: ["mon-fri 09:00-20:00"], holidays: false}', read=_struct(Hours))
QUIET = Kind(expects='a time span such as "22:00-07:00"', read=_matching(f"{_TIME}-{_TIME}"))
DEADLINE = Kind(
    expects="a duration, a number of business days, or immediate, without delay, reasonable, none",
    read=_matching(r"P[0-9]+[DMY]|[0-9]{1,2} business days|immediate|without delay|reasonable|none"),
)
LIMIT = Kind(expects="a limit such as {limit: 4, per: P30D}", read=_struct(Limit))

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


def _later(says: str, kind: Kind, *, refined: bool = False) -> Cell:
    return Cell(says=says, kind=kind, refined=refined, enforced=False)


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
    "double_opt_in": Cell(
        says="whether a confirmation by the person is advised; the purpose decides, the linter warns",
        kind=_one_of(("recommended", "sms_confirmation", "optional")),
    ),
    "signal_exception": _later(
        "a consent recorded after the conflict was shown stands against a signal that refuses", RELIEF
    ),
    "gpc": _later("the signal Global Privacy Control opts out of sale and sharing", _one_of(("required", "honoured"))),
    "phone_hours": _later("when marketing calls are allowed, local time", HOURS),
    "sms_hours": _later("when marketing by SMS is allowed, local time", HOURS),
    "autodialled_hours": _later("when automated devices may call, local time", HOURS),
    "push_quiet": _later("when push messages wait, local time; e-mail has no such hours", QUIET),
    "call_limit": _later("how many marketing calls at most", LIMIT),
    "consent_unused": _later("a grant that was not used for so long should be renewed", DEADLINE, refined=True),
    "grace": _later(
        "how soon an opt-out must have taken effect everywhere; Volenti's own effect is immediate",
        DEADLINE,
        refined=True,
    ),
    "grace_one_click": _later("the same for one-click unsubscribing", DEADLINE),
    "revocation_scope": _later(
        "what a revocation by telephone or SMS reaches", _one_of(("all_robo", "all_marketing", "program"))
    ),
    "request_clock": _later("how soon a request of the person must be answered", DEADLINE),
    "request_extension": _later("by how much that may be extended", DEADLINE),
    "grievance_clock": _later("how soon a grievance must be answered", DEADLINE),
    "proof_retention": _later("how long proof is kept after the processing ends", DEADLINE, refined=True),
    "objection_retention": _later("how long an objection is kept", DEADLINE),
    "opt_out_retention": _later("how long an opt-out is honoured", DEADLINE, refined=True),
    "do_not_call_retention": _later("how long an entry of the internal do-not-call list is kept", DEADLINE),
}


def cell_of(key: str) -> Cell | None:
    """Give the cell that a key of a profile or an override names, also one for a row alone; `None` if there is none."""
    name, dot, row = key.partition(".")
    cell = CELLS.get(name)
    if not dot:
        return cell
    return cell if cell is not None and cell.refined and row in ROWS else None


def read_value(key: str, written: object) -> CellValue:
    """Give the value of a key as it is written in YAML. Raises `Invalid` with a sentence for what is none."""
    cell = cell_of(key)
    if cell is None:
        close = get_close_matches(key[:64], CELLS, n=1, cutoff=0.7)
        raise Invalid(f"unknown key {quoted(key)}" + (f": did you mean {quoted(close[0])}?" if close else ""))
    try:
        value: CellValue = cell.kind.read(written)
    except (ValueError, msgspec.ValidationError) as error:
        raise Invalid(f"{key} must be {cell.kind.expects}") from error
    return value


def is_laxer(cell: Cell, value: CellValue, than: CellValue) -> bool:
    """Whether a value permits what the other one does not."""
    return cell.kind.strictest is not None and bool(cell.kind.strictest(value, than) != value)


def shown(value: CellValue) -> str:
    """Give a value in the words in which it is written, on one line."""
    match value:
        case None:
            return NONE
        case bool():
            return str(value).lower()
        case Duration():
            return iso(value)
        case Hours():
            return ", ".join(value.windows) + ("" if value.holidays else ", not on holidays")
        case Limit():
            return f"{value.limit} in {value.per}"
        case Mapping():
            return ", ".join(_tie(relation, terms) for relation, terms in value.items()) or NONE
        case _:
            return str(value)


def _tie(relation: RelationType, terms: Qualifying) -> str:
    age = "" if terms.max_age is None else f" for {iso(terms.max_age)}"
    since = "" if terms.collected_since_ms is None else f" since {_day(terms.collected_since_ms)}"
    return f"{relation}{age}{since}"


def _day(instant_ms: int) -> str:
    return datetime.fromtimestamp(instant_ms / 1000, UTC).date().isoformat()
