"""The policy document: controller, notices, purposes and topics, exactly as far as this version enforces them."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from volenti.core.policy.duration import DURATION_PATTERN

# A pattern ends in `(?!\n)$` because `$` alone accepts a trailing newline. Each description completes "must be …".
Key = Annotated[str, Meta(pattern=r"^[a-z0-9_.-]{1,64}(?!\n)$", description="a key: 1 to 64 of a-z 0-9 _ . -")]
Line = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]+(?!\n)$",
        description="one line of 1 to 200 characters, without control characters",
    ),
]
Body = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=20_000,
        pattern=r"^[^\x00-\x09\x0b-\x1f\x7f-\x9f]+$",
        description="text of 1 to 20,000 characters, without control characters other than line breaks",
    ),
]
Language = Annotated[
    str,
    Meta(
        max_length=35,
        pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*(?!\n)$",
        description="a language tag such as en or pt-BR",
    ),
]
Jurisdiction = Annotated[
    str,
    Meta(
        pattern=r"^([A-Z]{2}(-[A-Z0-9]{1,3})?|EEA)(?!\n)$",
        description="an ISO 3166 code such as DE or US-CA, or EU or EEA",
    ),
]
BasisRow = Annotated[
    str,
    Meta(
        pattern=r"^([A-Z]{2}(-[A-Z0-9]{1,3})?|EEA|default)(?!\n)$",
        description="default, an ISO 3166 code such as DE or US-CA, or EU or EEA",
    ),
]
ProfileVersion = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{4}\.[0-9]{2}(?!\n)$",
        description='the version of the jurisdiction profiles in quotes, such as "2026.11"',
    ),
]
CellKey = Annotated[
    str,
    Meta(
        pattern=r"^[a-z_]{1,64}(\.[a-z_]{1,64})?(?!\n)$",
        description="a key of the jurisdiction profiles such as email_marketing",
    ),
]
Titles = Annotated[dict[Language, Line], Meta(max_length=50, description="what people call it, by language")]
DurationText = Annotated[
    str, Meta(pattern=DURATION_PATTERN, description="an ISO 8601 duration such as P24M, P30D or P1Y")
]
Day = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?!\n)$", description="a date such as 2026-02-05 (UTC)")]
Instant = Annotated[datetime, Meta(tz=True, description="an RFC 3339 instant such as 2026-05-02T09:11:00Z")]


class MessageClass(StrEnum):
    """What kind of message a purpose sends; the class decides which rules for messages bind."""

    MARKETING = "marketing"
    SERVICE = "service"
    TRANSACTIONAL = "transactional"
    EMERGENCY = "emergency"


class Action(StrEnum):
    """What may be done with personal data, or to the person, for a purpose."""

    COLLECT = "collect"
    USE = "use"
    PROFILE = "profile"
    AUTOMATE = "automate"
    TRAIN = "train"
    SHARE = "share"
    SELL = "sell"
    SEND = "send"
    RETAIN = "retain"


class Channel(StrEnum):
    """The way by which a message reaches the person."""

    EMAIL = "email"
    SMS = "sms"
    PUSH = "push"
    INAPP = "inapp"
    WHATSAPP = "whatsapp"
    VOICE = "voice"
    POST = "post"
    WEB = "web"


class LawfulBasis(StrEnum):
    """Why a purpose is lawful without, or only with, the person's own act; `prohibited`: never."""

    PROHIBITED = "prohibited"
    CONSENT = "consent"
    SOFT_OPT_IN = "soft_opt_in"
    LEGITIMATE_INTEREST = "legitimate_interest"
    PUBLIC_TASK = "public_task"
    OPT_OUT = "opt_out"
    CONTRACT = "contract"
    LEGAL_OBLIGATION = "legal_obligation"
    VITAL_INTEREST = "vital_interest"


class Activity(StrEnum):
    """What a purpose does that jurisdictions have a rule for, besides sending, selling and sharing."""

    ANALYTICS = "analytics"
    PERSONALISATION = "personalisation"
    PROFILING = "profiling"
    ADVERTISING = "advertising"
    AI_DECISIONING = "ai_decisioning"


class RelationType(StrEnum):
    """What ties a person to the controller, on a date: a soft opt-in rests on it."""

    PURCHASE = "purchase"
    INQUIRY = "inquiry"
    CONTRACT = "contract"
    DONATION = "donation"


class Exemption(StrEnum):
    """A restriction that does not bind a purpose, because its messages must arrive all the same."""

    OBJECTION = "objection"
    ALL_MARKETING = "all_marketing"
    CHANNEL = "channel"
    TOPIC = "topic"
    COMPLAINT = "complaint"
    QUIET_HOURS = "quiet_hours"
    CAPS = "caps"


class LogGuarantee(StrEnum):
    """What happens to a decision that cannot be logged: `required` denies it, `best_effort` counts the gap."""

    REQUIRED = "required"
    BEST_EFFORT = "best_effort"


class Change(StrEnum):
    """What a new version of a notice does to older grants.

    `material` makes them stale, `minor` leaves them valid, `extends` leaves them valid except for what it `adds`.
    """

    MATERIAL = "material"
    MINOR = "minor"
    EXTENDS = "extends"


class EvidenceGrade(StrEnum):
    """How well a grant is proved, from E0 (claimed) to E4 (confirmed and authenticated); grades compare in order."""

    E0 = "E0"
    E1 = "E1"
    E2 = "E2"
    E3 = "E3"
    E4 = "E4"


def grade_number(grade: EvidenceGrade) -> int:
    """The grade as the fold compares it: 0 to 4."""
    return _GRADE_NUMBERS[grade]


_GRADE_NUMBERS = {grade: number for number, grade in enumerate(EvidenceGrade)}


class Addresses(StrEnum):
    """Which addresses may be used: any that the caller has, only registered ones, or only verified ones."""

    OPEN = "open"
    MANAGED = "managed"
    VERIFIED = "verified"


class Controller(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who decides why and how personal data is processed (GDPR Art. 4(7)), and how to reach them."""

    name: Line
    contact: Line | None = None
    establishment: Jurisdiction | None = None


class NoticeText(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the person reads, in one language."""

    title: Line
    body: Body


class Additions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a notice version with `change: extends` says that older ones did not: older grants do not cover it."""

    recipients: Annotated[tuple[Key, ...], Meta(max_length=500, description="who receives data from now on")] = ()
    data: Annotated[tuple[Key, ...], Meta(max_length=500, description="categories of data used from now on")] = ()


class Notice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text that people agree to. Once published, a version never changes: new words need a higher `version`."""

    version: Annotated[int, Meta(ge=1, le=1_000_000, description="a whole number from 1 to 1,000,000")]
    change: Change = Change.MATERIAL
    adds: Additions = Additions()
    text: Annotated[dict[Language, NoticeText], Meta(min_length=1, max_length=50, description="the words, by language")]


class ConsentTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a grant must be to count, and for how long it does. Without `valid_for` it does not expire."""

    valid_for: DurationText | None = None
    minimum_evidence: EvidenceGrade = EvidenceGrade.E0
    double_opt_in: bool = False


class Purpose(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why data is processed: what may be done, on what lawful basis, through which channels.

    `basis` has a row for each jurisdiction that differs and one for `default`. A purpose is in force from
    `active_from` until just before `retired_at`; once published it is retired, never deleted. `serves` is the purpose
    for which this one profiles: an objection to that one binds here too. `relations` says which ties qualify for a
    soft opt-in, and for how long.
    """

    title: Titles = {}
    message_class: MessageClass | None = msgspec.field(name="class", default=None)
    actions: Annotated[
        tuple[Action, ...], Meta(min_length=1, max_length=9, description="what may be done for this purpose")
    ]
    basis: Annotated[
        dict[BasisRow, LawfulBasis],
        Meta(
            min_length=1,
            max_length=500,
            description="the lawful basis by jurisdiction; default answers where no other row does",
            extra_json_schema={"required": ["default"]},
        ),
    ]
    channels: Annotated[tuple[Channel, ...], Meta(max_length=8, description="by which it may send")] = ()
    topics: Annotated[tuple[Key, ...], Meta(max_length=500, description="keys of topics that it may write about")] = ()
    data: Annotated[tuple[Key, ...], Meta(max_length=500, description="categories of data that it uses")] = ()
    recipients: Annotated[tuple[Key, ...], Meta(max_length=500, description="who else receives the data")] = ()
    regions: Annotated[tuple[Jurisdiction, ...], Meta(max_length=300, description="where the data may go")] = ()
    retention: DurationText | None = None
    activity: Activity | None = None
    serves: Key | None = None
    sensitive: bool = False
    notice: Key | None = None
    consent: ConsentTerms = ConsentTerms()
    relations: Annotated[
        dict[RelationType, DurationText],
        Meta(
            max_length=4,
            description="how long a tie qualifies for a soft opt-in",
            extra_json_schema={"propertyNames": {"$ref": "#/$defs/RelationType"}},
        ),
    ] = {}
    exempt: Annotated[tuple[Exemption, ...], Meta(max_length=7, description="restrictions that do not bind")] = ()
    log_guarantee: LogGuarantee = LogGuarantee.BEST_EFFORT
    active_from: Instant | None = None
    retired_at: Instant | None = None


class Topic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that people may want to hear about, or not."""

    title: Titles = {}
    parent: Key | None = None


class RelationTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a tie qualifies for a soft opt-in in a jurisdiction: how old it may be, and from when on it counts."""

    max_age: DurationText | None = None
    since: Day | None = None


QualifyingTies = Annotated[
    dict[RelationType, RelationTerms],
    Meta(
        max_length=4,
        description="the ties that qualify for a soft opt-in",
        extra_json_schema={"propertyNames": {"$ref": "#/$defs/RelationType"}},
    ),
]


class Override(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value of ours in place of the jurisdiction profile's. One that is laxer says why: `because`."""

    value: str | int | bool | QualifyingTies
    because: Line | None = None


class Suspension(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Kill switches: every question about what stands here is denied until it is taken out."""

    workspace: bool = False
    purposes: Annotated[tuple[Key, ...], Meta(max_length=500, description="keys of purposes")] = ()
    channels: Annotated[tuple[Channel, ...], Meta(max_length=8, description="channels of messages")] = ()


class Asking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a person may be asked: the wait after a question without an answer, and how many a quarter."""

    cooldown: DurationText | None = None
    per_quarter: Annotated[int, Meta(ge=1, le=64, description="a whole number from 1 to 64")] | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version of the policy: who the controller is, and what may be done with whose consent.

    `markets` are the places that a person of unknown whereabouts may be in: the strictest of them binds.
    `languages` are those that every notice is written in. `jurisdictions` names the shipped profiles of the law that
    bind beside each purpose's `basis`; without it no profile binds. `overrides` change values of them, by place and key.
    """

    controller: Controller
    markets: Annotated[
        tuple[Jurisdiction, ...],
        Meta(max_length=300, description="where you sell; of an unknown place the strictest of these binds"),
    ] = ()
    languages: Annotated[
        tuple[Language, ...], Meta(min_length=1, max_length=50, description="every notice is written in each of these")
    ] = ("en",)
    jurisdictions: ProfileVersion | None = None
    overrides: Annotated[
        dict[BasisRow, dict[CellKey, Override]],
        Meta(max_length=300, description="values in place of the jurisdiction profile's, by place and key"),
    ] = {}
    suspend: Suspension = Suspension()
    asking: Asking = Asking()
    addresses: Addresses = Addresses.OPEN
    notices: Annotated[
        dict[Key, Notice], Meta(max_length=500, description="the texts that people agree to, by key")
    ] = {}
    purposes: Annotated[
        dict[Key, Purpose], Meta(min_length=1, max_length=500, description="the reasons for which data is used, by key")
    ]
    topics: Annotated[dict[Key, Topic], Meta(max_length=500, description="what people may choose from, by key")] = {}
    backdating_limit: DurationText = "P30D"
