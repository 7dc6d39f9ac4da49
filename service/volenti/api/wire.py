"""The JSON that goes in and out, apart from the core's types, so that the wire can stand still while the core moves."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from volenti.core.consent import Actor
from volenti.core.policy.document import Action, Channel, Key, Language, MessageClass, RelationType

# No NUL and no control characters: PostgreSQL refuses NUL. A pattern ends in `(?!\n)$`, since `$` alone takes a trailing newline.
Text = Annotated[str, Meta(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*(?!\n)$")]
LongText = Annotated[str, Meta(min_length=1, max_length=2048, pattern=r"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*(?!\n)$")]
CallerId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        pattern=r"^[^\x00-\x1f\x7f-\x9f/\ud800-\udfff]*(?!\n)$",
        description="the caller's own id of the person, opaque",
    ),
]
Token = Annotated[str, Meta(min_length=1, max_length=8192, pattern=r"^[A-Za-z0-9_.=-]+(?!\n)$")]
NoticeName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9_.-]{1,64}@[1-9][0-9]{0,8}(?!\n)$",
        description="a notice and its version, such as newsletter@3",
    ),
]
Place = Annotated[
    str, Meta(pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?(?!\n)$", description="ISO 3166-1 or -2, such as DE or US-CA")
]
Zone = Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9_+/-]+(?!\n)$", description="an IANA time zone")]
Word = Annotated[str, Meta(pattern=r"^[a-z0-9_.-]{1,64}(?!\n)$")]
Revision = Annotated[
    str,
    Meta(pattern=r"^vr1\.[A-Za-z0-9_-]{14}(?!\n)$", description="a revision token as a write or a check returned it"),
]
Instant = Annotated[datetime, Meta(tz=True, description="RFC 3339")]
ItemProblem = Annotated[dict[str, Any], Meta(extra_json_schema={"$ref": "#/components/schemas/Problem"})]
"""The problem document of one item: it may say more than `Problem` does."""


BirthDate = Annotated[
    str,
    Meta(pattern=r"^(19|20)[0-9]{2}-[0-9]{2}-[0-9]{2}(?!\n)$", description="a day, YYYY-MM-DD, from 1900 to today"),
]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body that callers send: an unknown member is refused, because a misspelt one must not look like success."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A body that we send."""


# ---- people


class Identifier(Request, frozen=True):
    type: Literal["email", "phone", "device", "external"]
    value: Text


class VerifiedIdentifier(Request, frozen=True):
    """An identifier to bind to the person; `verified_at` is when control of it was shown."""

    type: Literal["email", "phone", "device", "external"]
    value: Text
    verified_at: Instant | None = None


class DataSubjectReference(Request, frozen=True):
    """Who is meant: exactly one of the two."""

    id: CallerId | None = None
    identifier: Identifier | None = None


class DataSubject(Request, frozen=True):
    """Who is meant in a write, with facts about the person that become entries where they differ from what is known."""

    id: CallerId | None = None
    identifiers: Annotated[tuple[VerifiedIdentifier, ...], Meta(max_length=16)] = ()
    jurisdiction: Place | None = None
    time_zone: Zone | None = None
    locale: Language | None = None


# ---- check


class CheckMessage(Request, frozen=True):
    """`class` can only be stricter than the purpose's. `campaign` is the caller's own name for the message."""

    message_class: MessageClass | None = msgspec.field(name="class", default=None)
    campaign: Text | None = None
    expires_at: Instant | None = None


class CheckData(Request, frozen=True):
    categories: Annotated[tuple[Word, ...], Meta(max_length=32)] = ()
    recipient: Text | None = None
    region: Text | None = None


class CheckSignals(Request, frozen=True):
    gpc: bool | None = None
    tcf: Annotated[str, Meta(max_length=4096)] | None = None
    gpp: Annotated[str, Meta(max_length=4096)] | None = None


class CheckReserve(Request, frozen=True):
    mode: Literal["peek", "hold", "consume"]
    key: Annotated[str, Meta(max_length=128)] | None = None
    ttl_seconds: Annotated[int, Meta(ge=10, le=86_400)] = 900


class CheckConsistency(Request, frozen=True):
    mode: Literal["bounded", "at_least", "strong"] = "bounded"
    revision: Revision | None = None
    max_staleness_ms: Annotated[int, Meta(ge=0, le=86_400_000)] | None = None


class CheckRequest(Request, frozen=True):
    """The question: may this be done, to this person, now?"""

    data_subject: DataSubjectReference
    action: Action
    purpose: Annotated[str, Meta(pattern=r"^[a-z0-9_.-]{1,64}(?!\n)$")]
    channel: Channel | None = None
    topic: Word | None = None
    message: CheckMessage | None = None
    data: CheckData | None = None
    jurisdiction: Place | None = None
    signals: CheckSignals | None = None
    reserve: CheckReserve | None = None
    at: Instant | None = None
    as_of: Instant | None = None
    consistency: CheckConsistency = CheckConsistency()
    supported_obligations: Annotated[tuple[Word, ...], Meta(max_length=64)] | None = None
    include: Annotated[
        tuple[Literal["evidence", "alternatives", "caps", "advice", "permit"], ...], Meta(max_length=8)
    ] = ("evidence",)
    detail: Literal["primary", "all", "explain"] = "primary"


class CheckBatchRequest(Request, frozen=True):
    """Many questions on one revision. A member that an item lacks is that of `defaults`; nothing is merged deeper.

    What is wrong in the defaults is refused for all; they have at most 4,096 bytes.

    Items are decoded one by one, so that a bad one is answered alone. Each has the members of a check, and a `key`.
    """

    items: Annotated[tuple[msgspec.Raw, ...], Meta(min_length=1, max_length=1000)]
    defaults: dict[str, Any] = {}
    semantic: Literal["all", "stop_on_deny", "stop_on_permit"] = "all"


class CheckReason(Answer, frozen=True):
    code: str
    step: str
    effect: str
    ref: str | None


class CheckObligation(Answer, frozen=True):
    id: str
    type: str
    mandatory: bool
    properties: dict[str, Any]


class CheckEvidence(Answer, frozen=True):
    entry: str
    kind: str
    at: str
    notice: str | None


class CheckedDataSubject(Answer, frozen=True):
    id: str | None
    known: bool


class CheckedPolicy(Answer, frozen=True):
    version: int
    hash: str


class CheckTrace(Answer, frozen=True):
    """What a step of the evaluation looked at and found; `inputs` are codes, instants and entry ids.

    `ref` is the entry that the first of its reasons rests on.
    """

    step: str
    outcome: str
    reasons: tuple[str, ...]
    inputs: dict[str, Any]
    ref: str | None


class CheckAccessRequest(Answer, frozen=True):
    """A page that asks the person for exactly what the question lacks; `binding_token` is its link's token.

    To send the link is a message of its own, which needs its own permit; to show it to the person needs none.
    """

    form_url: str
    expires_at: str
    binding_token: str


class CheckAnswer(Answer, frozen=True):
    """The decision, why, on what evidence, and what goes with it.

    `decision_id` is null where another instant was asked about, and where there was no question: such an answer permits
    nothing, and is not logged.
    """

    decision: Literal["permit", "deny", "defer"]
    allowed: bool
    determinate: bool
    reason: str
    reasons: tuple[CheckReason, ...]
    remedies: tuple[dict[str, Any], ...]
    alternatives: tuple[dict[str, Any], ...]
    obligations: tuple[CheckObligation, ...]
    advice: tuple[dict[str, Any], ...]
    evidence: tuple[CheckEvidence, ...]
    data_subject: CheckedDataSubject
    not_before: str | None
    retry_at: str | None
    valid_until: str
    policy: CheckedPolicy | None
    revision: str | None
    staleness_ms: int
    access_request: CheckAccessRequest | None
    reservation: dict[str, Any] | None
    permit: str | None
    decision_id: str | None
    evaluated_at: str
    trace: tuple[CheckTrace, ...] | UnsetType = UNSET


class CheckItemAnswer(CheckAnswer, frozen=True):
    """The answer to an item: that of the check alone. `error`: the problem document of an item that is no question."""

    key: str | None = None
    error: ItemProblem | None = None


class CheckBatchAnswer(Answer, frozen=True):
    """The answers in the order of the items, cut after the deciding one if the batch said so."""

    items: tuple[CheckItemAnswer, ...]


# ---- consents and facts


class Act(Request, frozen=True):
    """When and how the person confirmed an address or authenticated."""

    method: Word
    at: Instant


class Evidence(Request, frozen=True):
    """What proves the choice. Of an IP address only the prefix (/24, /48) is kept."""

    ip: Annotated[str, Meta(max_length=45, pattern=r"^[0-9A-Fa-f.:]+(?!\n)$")] | None = None
    user_agent: Text | None = None
    offer: Token | None = None
    authentication: Act | None = None
    confirmation: Act | None = None


class ActorReference(Request, frozen=True):
    """Who acted. `id` names the guardian where one did."""

    type: Actor
    id: CallerId | None = None


class ConsentChoice(Request, frozen=True):
    """One choice on one purpose. `channels` absent: all."""

    kind: Literal["grant", "deny", "withdraw", "object", "request", "confirm", "renew", "invalidate", "acknowledge"]
    purpose: Annotated[str, Meta(pattern=r"^[a-z0-9_.-]{1,64}(?!\n)$")]
    channels: Annotated[tuple[Channel, ...], Meta(max_length=8)] = ()
    notice: NoticeName | None = None
    language: Language | None = None
    occurred_at: Instant | None = None
    valid_from: Instant | None = None
    valid_until: Instant | None = None
    token: Token | None = None
    supersedes: Annotated[str, Meta(max_length=36)] | None = None


class ConsentsRequest(Request, frozen=True):
    """Choices of one person, recorded together or not at all."""

    data_subject: DataSubject
    events: Annotated[tuple[ConsentChoice, ...], Meta(min_length=1, max_length=50)]
    actor: ActorReference
    preferences: dict[str, Any] | None = None
    method: Word | None = None
    surface: LongText | None = None
    evidence: Evidence | None = None


class RecordedEntry(Answer, frozen=True):
    """An entry. `applied` false: what it asks for is not in force, and `why` names the entry in its way."""

    entry: str
    index: int
    kind: str
    leaf_hash: str
    applied: bool
    why: str | None
    proof: str | UnsetType = UNSET


class Confirmation(Answer, frozen=True):
    """A page to send to the person: there one POST confirms every request of the write, opening it does nothing."""

    url: str
    expires_at: str


class RecordedAnswer(Answer, frozen=True):
    """What was recorded. `confirmation` is there where a request waits for the person's confirmation."""

    data_subject: str | None
    entries: tuple[RecordedEntry, ...]
    revision: str
    receipt: str | None
    confirmation: Confirmation | UnsetType = UNSET


class ConsentsBatchRequest(Request, frozen=True):
    """Writes about many people. Each item has the members of a write of its own, and a `key` for its caller.

    Items are decoded one by one, so that a bad one is answered alone. Items that name an identifier in common are
    recorded in their order.
    """

    items: Annotated[tuple[msgspec.Raw, ...], Meta(min_length=1, max_length=500)]


class ConsentsItemAnswer(Answer, frozen=True):
    """What became of an item: the status and the answer that it would have had alone. `error` is a problem document."""

    key: str | None
    status: int
    recorded: RecordedAnswer | None
    error: ItemProblem | None


class ConsentsBatchAnswer(Answer, frozen=True):
    """In the order of the items. A check that carries `revision` knows of all that was recorded; null if nothing was."""

    items: tuple[ConsentsItemAnswer, ...]
    revision: str | None


class IdentifierChanges(Request, frozen=True):
    add: Annotated[tuple[VerifiedIdentifier, ...], Meta(max_length=16)] = ()
    remove: Annotated[tuple[Identifier, ...], Meta(max_length=16)] = ()


class GuardianFact(Request, frozen=True):
    """A guardian of the person, by the caller's id, and how that was verified. Given again with `until`, it ends then."""

    id: CallerId
    method: Word
    since: Instant
    until: Instant | None = None


class RelationFact(Request, frozen=True):
    """A dated relation of the person with the controller."""

    type: RelationType
    at: Instant


class FactsRequest(Request, frozen=True):
    """Facts about a person. A member that is absent stays as it is; null clears it."""

    identifiers: IdentifierChanges = IdentifierChanges()
    jurisdiction: Place | UnsetType | None = UNSET
    time_zone: Zone | UnsetType | None = UNSET
    locale: Language | UnsetType | None = UNSET
    actor: ActorReference = ActorReference(type="operator")
    method: Word | None = None
    surface: LongText | None = None
    birth_date: BirthDate | UnsetType | None = UNSET
    guardian: GuardianFact | None = None
    push_permission: str | None = None
    relations: Annotated[tuple[RelationFact, ...], Meta(max_length=16)] = ()


class RestrictionRequest(Request, frozen=True):
    """Restrict the processing of a person's data (GDPR Art. 18), or lift the restriction."""

    restricted: bool
    ground: Word | None = None
    actor: ActorReference = ActorReference(type="operator")
    method: Word | None = None
    surface: LongText | None = None


class Lookup(Request, frozen=True):
    identifier: Identifier


class KnownIdentifier(Answer, frozen=True):
    type: str
    value: str
    verified_at: str | None


class ConsentInForce(Answer, frozen=True):
    """How a purpose stands on a channel (`*`: all the others), and the entry that decided it.

    `valid_until`: when a grant ends, by its own end, by the policy and by the law of the place; then it is `expired`.
    """

    purpose: str
    channel: str
    state: Literal["granted", "expired", "denied", "withdrawn", "objected", "pending"]
    since: str
    entry: str
    notice: str | None
    evidence_grade: str | None
    valid_from: str | None
    valid_until: str | None


class KnownGuardian(Answer, frozen=True):
    id: str
    method: str
    since: str
    until: str | None


class KnownRelation(Answer, frozen=True):
    """The newest relation of its type."""

    type: str
    at: str


class KnownFacts(Answer, frozen=True):
    """What is known about a person. `restricted_since`: since when processing is restricted."""

    id: str | None
    identifiers: tuple[KnownIdentifier, ...]
    jurisdiction: str | None
    time_zone: str | None
    locale: str | None
    birth_date: str | None
    guardians: tuple[KnownGuardian, ...]
    relations: tuple[KnownRelation, ...]
    restricted_since: str | None


class DataSubjectAnswer(KnownFacts, frozen=True):
    """What is known about a person, and what is in force."""

    consents: tuple[ConsentInForce, ...]
    revision: str


class FactDifference(Answer, frozen=True):
    """How a fact about the person differs: a member of what `GET /v1/data-subjects/{id}` answers, with both values."""

    fact: str
    before: Any
    after: Any


class ConsentDifference(Answer, frozen=True):
    """How the standing of a purpose on a channel differs; null: there was none.

    A channel without a standing of its own has that of `*`.
    """

    purpose: str
    channel: str
    before: ConsentInForce | None
    after: ConsentInForce | None


class DataSubjectDifference(Answer, frozen=True):
    """What changed for a person between two instants, by what was recorded until each."""

    id: str | None
    from_: str = msgspec.field(name="from")
    to: str
    facts: tuple[FactDifference, ...]
    consents: tuple[ConsentDifference, ...]
    revision: str


class HistoryEntry(Answer, frozen=True):
    """An entry of the person's history. `effect` is `none` where it is not in force; `why` then names what stands against it."""

    entry: str
    index: int
    kind: str
    recorded_at: str
    occurred_at: str
    effect: Literal["in_force", "none"]
    why: str | None
    actor: str
    component: str
    detail: dict[str, Any]


class History(Answer, frozen=True):
    data: tuple[HistoryEntry, ...]
    next_cursor: str | None


class LookupAnswer(Answer, frozen=True):
    id: str | None


# ---- offers and the page that asks


class AskingForm(Request, frozen=True):
    """What a button of the page sends: the answer, and the offer that says what the page showed. A no needs none."""

    answer: Literal["yes", "no"]
    offer: Annotated[str, Meta(max_length=8192)] = ""


class OfferRequest(Request, frozen=True):
    """What is about to be shown. A purpose with `default: on` is pre-ticked: a grant by it is no consent."""

    purposes: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=50)]
    surface: LongText
    language: Language
    data_subject: DataSubjectReference | None = None
    preset: Annotated[tuple[Key, ...], Meta(max_length=50)] = ()


class OfferedNotice(Answer, frozen=True):
    notice: str
    purposes: tuple[str, ...]
    title: str
    body: str


class OfferAnswer(Answer, frozen=True):
    offer: str
    notices: tuple[OfferedNotice, ...]
    language: str
    expires_at: str


# ---- policies


class PolicyRequest(Request, frozen=True):
    """The document as YAML text, and from when on it is in force; absent: at once."""

    document: Annotated[str, Meta(min_length=1, max_length=262_144)]
    activate_at: Instant | None = None


class ActivationRequest(Request, frozen=True):
    """From when on the version is in force; absent: at once."""

    at: Instant | None = None


class PolicyFinding(Answer, frozen=True):
    line: int
    pointer: str
    severity: str
    message: str


class PolicyActivation(Answer, frozen=True):
    """The version is in force from an instant on, until the next activation of any version; of the same instant the larger number counts."""

    number: int
    active_from: str
    recorded_at: str
    entry: str


class PolicyAnswer(Answer, frozen=True):
    version: int
    hash: str
    entry: str
    published_at: str
    in_force: bool
    activations: tuple[PolicyActivation, ...]
    revision: str | UnsetType = UNSET
    warnings: tuple[PolicyFinding, ...] | UnsetType = UNSET
    document: dict[str, Any] | UnsetType = UNSET
    source: str | UnsetType = UNSET


class PolicyList(Answer, frozen=True):
    data: tuple[PolicyAnswer, ...]
    next_cursor: str | None


# ---- ledger


class LedgerEntry(Answer, frozen=True):
    """An entry: the exact bytes that were hashed, base64 and as the JSON that they are."""

    index: int
    entry: str
    leaf_hash: str
    leaf: str
    content: dict[str, Any]


class LedgerProof(Answer, frozen=True):
    """Inclusion of an entry in a signed tree: fold `path` (hex, bottom-up) with `leaf_hash` and compare with the checkpoint's root."""

    index: int
    entry: str
    leaf_hash: str
    size: int
    root: str
    path: tuple[str, ...]
    checkpoint: str


class ConsistencyProof(Answer, frozen=True):
    from_size: int = msgspec.field(name="from")
    to: int
    path: tuple[str, ...]


class LedgerKey(Answer, frozen=True):
    origin: str
    vkey: str
    from_size: int
    to_size: int | None
    status: Literal["active", "retired", "revoked"]


class LedgerKeys(Answer, frozen=True):
    data: tuple[LedgerKey, ...]
    next_cursor: str | None


class JsonWebKeySet(Answer, frozen=True):
    keys: tuple[dict[str, str], ...]


# ---- operating


class Health(Answer, frozen=True):
    status: Literal["ok", "unavailable"]
    detail: str | None = None


class TestClock(Request, frozen=True):
    __test__ = False  # pytest: not a test class
    now: Instant


class ClockAnswer(Answer, frozen=True):
    now: str


class ProblemError(Answer, frozen=True):
    detail: str
    pointer: str


class Problem(Answer, frozen=True):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[ProblemError, ...] = ()
