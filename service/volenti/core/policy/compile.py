"""The policy as the check asks it: every question that a check may have is one look-up."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Any

import msgspec

from volenti.core.policy.canonical import document_hash
from volenti.core.policy.cell import CELLS, CellValue, Relations, read_value
from volenti.core.policy.document import (
    Action,
    Activity,
    Addresses,
    Channel,
    EvidenceGrade,
    Exemption,
    LawfulBasis,
    LogGuarantee,
    MessageClass,
    Policy,
    Purpose,
    RelationType,
    Topic,
)
from volenti.core.policy.duration import Duration, parse_duration
from volenti.core.policy.jurisdiction import DEFAULT, EEA, GROUPS, is_jurisdiction, lies_within, lookup_order
from volenti.core.policy.notice import PublishedNotice, extending_versions, published_form, required_version
from volenti.core.policy.profile import Profiles, nearest, next_change_ms, rows_at
from volenti.core.policy.terms import STRICTEST_FIRST, Qualifying, Terms, merged, qualifying_in_both, strictest
from volenti.errors import Invalid

if TYPE_CHECKING:
    from volenti.core.policy.premises import Asked, Premises

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOST_TOGETHER = 256
"""So many pairs of places a table remembers the terms of: a caller may name any, and it must end somewhere."""

_ROW_OF_CHANNEL = {
    Channel.EMAIL: "email_marketing",
    Channel.SMS: "sms_marketing",
    Channel.WHATSAPP: "whatsapp_marketing",
    Channel.VOICE: "phone_marketing",
    Channel.PUSH: "push_marketing",
}
_ROW_OF_ACTION = {
    Action.SELL: "sale_share",
    Action.SHARE: "sale_share",
    Action.AUTOMATE: "significant_decisions",
}
_ROW_OF_ACTIVITY = {
    Activity.ANALYTICS: "analytics",
    Activity.PERSONALISATION: "personalisation",
    Activity.PROFILING: "personalisation",
    Activity.ADVERTISING: "sale_share",
    Activity.AI_DECISIONING: "ai_decisions",
}


class TermsTable(msgspec.Struct, frozen=True, kw_only=True):
    """The terms by place. A place that stands in no row is found under its country, or is the default.

    `together` remembers the terms of several places at once: `terms_for` fills it.
    """

    places: dict[str, Terms]
    default: Terms
    unknown: Terms
    together: dict[tuple[str, ...], Terms] = {}


class Extension(msgspec.Struct, frozen=True, kw_only=True):
    """A version of the purpose's notice that older grants do not cover in what it adds."""

    version: int
    recipients: frozenset[str]
    data: frozenset[str]


class CompiledPurpose(msgspec.Struct, frozen=True, kw_only=True):
    """A purpose with its references resolved. Ask `terms_for` and `in_force`, not the members beneath them.

    `topics` holds the listed ones and all that descend from them; `extensions` the notice versions newer than the
    required one that extend it, oldest first; `regions` also the members of `EU` and `EEA`; `served_by` the purposes
    that name this one in `serves`.
    """

    key: str
    message_class: MessageClass | None
    actions: frozenset[Action]
    channels: frozenset[Channel]
    topics: frozenset[str]
    notice: str | None
    required_notice_version: int | None
    extensions: tuple[Extension, ...]
    valid_for: Duration | None
    minimum_evidence: EvidenceGrade
    double_opt_in: bool
    active_from_ms: int | None
    retired_at_ms: int | None
    data: frozenset[str]
    recipients: frozenset[str]
    regions: frozenset[str]
    retention: Duration | None
    sensitive: bool
    exempt: frozenset[Exemption]
    relations: dict[RelationType, Duration]
    serves: str | None
    served_by: tuple[str, ...]
    log_guarantee: LogGuarantee
    terms: dict[tuple[Action, Channel | None], TermsTable]
    marketing_terms: dict[tuple[Action, Channel | None], TermsTable]


class Suspended(msgspec.Struct, frozen=True, kw_only=True):
    """What is switched off: the whole workspace, purposes, channels."""

    workspace: bool
    purposes: frozenset[str]
    channels: frozenset[Channel]


class AskingBudget(msgspec.Struct, frozen=True, kw_only=True):
    """The wait after a question without an answer, and how many questions a person may get in a quarter of a year."""

    cooldown: Duration | None
    per_quarter: int | None


class CompiledPolicy(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A policy ready to be asked. `hash` is the SHA-256 of its canonical bytes; `document` has texts and titles.

    `notices` holds the current versions with their hashes, `published` every version ever published, by its name
    ("newsletter@3"); `required_notice_version` the oldest version of each notice whose grants are not stale. From
    `changes_at_ms` on another row of a jurisdiction profile is in force: compile again.
    """

    document: Policy
    hash: bytes
    purposes: dict[str, CompiledPurpose]
    notices: dict[str, PublishedNotice]
    published: dict[str, PublishedNotice]
    required_notice_version: dict[str, int]
    backdating_limit: Duration
    suspended: Suspended
    asking: AskingBudget
    addresses: Addresses
    changes_at_ms: int | None

    @cached_property
    def premises(self) -> "dict[Asked, Premises]":
        """What is remembered of the questions that were asked. No member: a changed copy of the policy begins with nothing."""
        return {}


def compile_policy(
    policy: Policy, published: Sequence[PublishedNotice], profiles: Profiles | None, at_ms: int
) -> CompiledPolicy:
    """Give the policy in the form that answers checks, right from `at_ms` until just before `changes_at_ms`.

    `published` are the notice versions published up to and including this policy, of any notice and in any order;
    the policy's own may be missing. `profiles` are those of the version that the policy names; a policy that names
    none binds none. The policy has passed `lint`: raises `Invalid` for a reference, a duration or a version of the
    profiles that leads nowhere.
    """
    if policy.jurisdictions is None:
        profiles = None
    elif profiles is None or profiles.version != policy.jurisdictions:
        raise Invalid(f"the policy needs the jurisdiction profiles {policy.jurisdictions}")
    notices = {key: published_form(key, notice) for key, notice in policy.notices.items()}
    history = {key: {notice.version: notice} for key, notice in notices.items()}
    for one in published:
        if one.notice in history:
            history[one.notice][one.version] = one
    versions = {key: tuple(by_version.values()) for key, by_version in history.items()}
    tables = _Tables(policy, profiles, at_ms)
    return CompiledPolicy(
        document=policy,
        hash=document_hash(policy),
        purposes={
            key: _compile_purpose(key, purpose, policy, versions, tables) for key, purpose in policy.purposes.items()
        },
        notices=notices,
        published={f"{one.notice}@{one.version}": one for one in published},
        required_notice_version={key: required_version(of_notice) for key, of_notice in versions.items()},
        backdating_limit=_duration(policy.backdating_limit),
        suspended=Suspended(
            workspace=policy.suspend.workspace,
            purposes=frozenset(policy.suspend.purposes),
            channels=frozenset(policy.suspend.channels),
        ),
        asking=AskingBudget(cooldown=_optional(policy.asking.cooldown), per_quarter=policy.asking.per_quarter),
        addresses=policy.addresses,
        changes_at_ms=None if profiles is None else next_change_ms(profiles, at_ms),
    )


def terms_for(
    purpose: CompiledPurpose,
    action: Action,
    channel: Channel | None,
    jurisdictions: tuple[str, ...],
    *,
    as_marketing: bool = False,
) -> Terms:
    """Give the terms that bind in all of these places at once; for none, in the strictest of the markets.

    Each place is looked up as subdivision, country, `EU`/`EEA`, then `default`; of several the strictest value of each
    term binds, and of what is no code of a place the strictest of the markets and `default`. `as_marketing`: the message
    is marketing whatever the purpose's own class is. A `send` without a channel has the strictest terms of the purpose's
    channels.
    """
    tables = purpose.marketing_terms if as_marketing else purpose.terms
    table = tables.get((action, channel)) or tables[action, None]
    if not jurisdictions:
        return table.unknown
    first = _terms_in(table, jurisdictions[0])
    if len(jurisdictions) == 1:
        return first
    together = table.together.get(jurisdictions)
    if together is None:
        together = merged(_terms_in(table, jurisdiction) for jurisdiction in jurisdictions)
        if len(table.together) < MOST_TOGETHER:
            table.together[jurisdictions] = together
    return together


def lives_of(purpose: CompiledPurpose, terms: Terms) -> tuple[Duration, ...]:
    """How long a grant lasts at most: by the purpose, and by the law of the place."""
    return tuple(life for life in (purpose.valid_for, terms.consent_expiry) if life is not None)


def in_force(purpose: CompiledPurpose, at_ms: int) -> bool:
    """Whether the purpose may be used at the instant: from `active_from` until just before `retired_at`."""
    if purpose.active_from_ms is not None and at_ms < purpose.active_from_ms:
        return False
    return purpose.retired_at_ms is None or at_ms < purpose.retired_at_ms


def covers_region(purpose: CompiledPurpose, region: str) -> bool:
    """Whether data may go to a place: the purpose names it, its country, or a group that it belongs to.

    What is no code of a place is covered only if the purpose names the very same text.
    """
    if region in purpose.regions:
        return True
    return region not in GROUPS and is_jurisdiction(region) and region[:2] in purpose.regions


def rows_of(purpose: Purpose, action: Action, channel: Channel | None, *, marketing: bool) -> tuple[str, ...]:
    """Give the rows of the jurisdiction table that bind: that of the channel, the action or the activity, if any.

    Sensitive data bring their own row along, whatever the first one is.
    """
    row: str | None
    if action is Action.SEND and marketing and channel in _ROW_OF_CHANNEL:
        row = _ROW_OF_CHANNEL[channel]
    elif action in _ROW_OF_ACTION:
        row = _ROW_OF_ACTION[action]
    else:
        row = _ROW_OF_ACTIVITY[purpose.activity] if purpose.activity is not None else None
    rows: tuple[str, ...] = () if row is None else (row,)
    if purpose.sensitive:
        rows += ("sensitive", "sensitive_sale") if action is Action.SELL else ("sensitive",)
    return rows


class _Tables:
    """Builds the tables of terms. What purposes have in common is worked out once."""

    def __init__(self, policy: Policy, profiles: Profiles | None, at_ms: int) -> None:
        self.cells = {} if profiles is None else rows_at(profiles, at_ms) | overridden(policy)
        self.places = {place for place, _ in self.cells}
        self.markets = policy.markets or (DEFAULT,)
        self._laws: dict[tuple[tuple[str, ...], str], tuple[Terms, Relations]] = {}
        self._tables: dict[object, TermsTable] = {}

    def of(self, purpose: Purpose, *, marketing: bool) -> dict[tuple[Action, Channel | None], TermsTable]:
        """Give the table of every action, and of the purpose's channels; what it may not do has only its own basis."""
        by_channel = {
            channel: self._table(purpose, rows_of(purpose, Action.SEND, channel, marketing=marketing))
            for channel in purpose.channels
        }
        tables: dict[tuple[Action, Channel | None], TermsTable] = {}
        for action in Action:
            rows = rows_of(purpose, action, None, marketing=marketing) if action in purpose.actions else ()
            tables[action, None] = self._table(purpose, rows)
        if by_channel:
            tables[Action.SEND, None] = _in_all([*by_channel.values()])
        return tables | {(Action.SEND, channel): table for channel, table in by_channel.items()}

    def _table(self, purpose: Purpose, rows: tuple[str, ...]) -> TermsTable:
        asked = (rows, tuple(purpose.basis.items()), tuple(purpose.relations.items()))
        if asked not in self._tables:
            self._tables[asked] = self._new_table(purpose, rows)
        return self._tables[asked]

    def _new_table(self, purpose: Purpose, rows: tuple[str, ...]) -> TermsTable:
        """Spell out each place with a row of its own, and each that has none but belongs to `EU` or `EEA`."""
        own = {relation: Qualifying(max_age=_duration(age)) for relation, age in purpose.relations.items()}
        places = (self.places | purpose.basis.keys() | EEA | {DEFAULT}) - GROUPS.keys()
        at = {place: self._terms(place, rows, purpose.basis, own) for place in sorted(places)}

        def anywhere_in(area: str) -> Terms:
            """The strictest that may bind somebody of whom no more is known than that they are in this area."""
            here = at.get(area) or self._terms(area, rows, purpose.basis, own)
            return merged((here, *(terms for place, terms in at.items() if lies_within(place, area))))

        groups = {group: anywhere_in(group) for group in GROUPS}
        return TermsTable(
            places={place: terms for place, terms in at.items() if place != DEFAULT} | groups,
            default=at[DEFAULT],
            unknown=merged(groups.get(market) or anywhere_in(market) for market in self.markets),
        )

    def _terms(
        self,
        place: str,
        rows: tuple[str, ...],
        basis: Mapping[str, LawfulBasis],
        own: Mapping[RelationType, Qualifying],
    ) -> Terms:
        if (rows, place) not in self._laws:
            self._laws[rows, place] = self._law(lookup_order(place), rows)
        law, relations = self._laws[rows, place]
        chosen = next(basis[row] for row in lookup_order(place) if row in basis)
        ties = dict(own) if relations is None else qualifying_in_both(own, relations)
        return msgspec.structs.replace(law, basis=strictest((law.basis, chosen)), relations=ties)

    def _law(self, chain: tuple[str, ...], rows: tuple[str, ...]) -> tuple[Terms, Relations]:
        """Give what the profile says of the rows in the nearest place that says it; the basis is the strictest."""

        def value(key: str, absent: Any = None) -> Any:
            names: list[tuple[str, ...]] = [(f"{key}.{row}", key) for row in rows] or [(key,)]
            return reduce(_strictest(key), (nearest(self.cells, chain, some, absent) for some in names))

        selling = "sale_share" in rows
        law = Terms(
            basis=strictest(nearest(self.cells, chain, (row,), STRICTEST_FIRST[-1]) for row in rows or ("",)),
            consent_expiry=value("consent_expiry"),
            age_of_consent=value("age_of_consent"),
            age_of_sale=value("age_of_sale") if selling else None,
            minors_prohibited_below=value("minors_prohibited_below"),
            reask_lock=value("reask_lock"),
            minor_lock_age=value("minor_lock_age"),
            human_review=value("human_review", False),
            show_notice=value("show_notice", False),
            signal_exception=value("signal_exception", False),
        )
        return law, value("relations")


def _strictest(key: str) -> Callable[[Any, Any], Any]:
    order = CELLS[key].kind.strictest
    assert order is not None, key
    return order


def overridden(policy: Policy) -> dict[tuple[str, str], CellValue]:
    """Give the values that stand in place of the profile's, by place and key. Raises `Invalid` for what is none."""
    return {
        (place, key): read_value(key, msgspec.to_builtins(override.value))
        for place, overrides in policy.overrides.items()
        for key, override in overrides.items()
    }


def _in_all(tables: Sequence[TermsTable]) -> TermsTable:
    """Give the table whose terms are the strictest of all these tables', place by place; their places are the same."""
    return TermsTable(
        places={place: merged(table.places[place] for table in tables) for place in tables[0].places},
        default=merged(table.default for table in tables),
        unknown=merged(table.unknown for table in tables),
    )


def _terms_in(table: TermsTable, jurisdiction: str) -> Terms:
    terms = table.places.get(jurisdiction)
    if terms is not None:
        return terms
    if not is_jurisdiction(jurisdiction):  # UK, ZZ: it may be any place, in a market or not
        return merged((table.unknown, table.default))
    return table.places.get(jurisdiction[:2], table.default)


def _compile_purpose(
    key: str, purpose: Purpose, policy: Policy, versions: Mapping[str, Sequence[PublishedNotice]], tables: _Tables
) -> CompiledPurpose:
    if DEFAULT not in purpose.basis or (purpose.notice is not None and purpose.notice not in versions):
        raise Invalid(f"the policy's purpose {key} names no default basis, or a notice that does not exist")
    history = versions[purpose.notice] if purpose.notice is not None else ()
    as_marketing = tables.of(purpose, marketing=True)
    is_marketing = purpose.message_class is MessageClass.MARKETING
    return CompiledPurpose(
        key=key,
        message_class=purpose.message_class,
        actions=frozenset(purpose.actions),
        channels=frozenset(purpose.channels),
        topics=with_descendants(purpose.topics, policy.topics),
        notice=purpose.notice,
        required_notice_version=required_version(history) if history else None,
        extensions=tuple(
            Extension(version=one.version, recipients=frozenset(one.adds.recipients), data=frozenset(one.adds.data))
            for one in extending_versions(history)
        ),
        valid_for=_optional(purpose.consent.valid_for),
        minimum_evidence=purpose.consent.minimum_evidence,
        double_opt_in=purpose.consent.double_opt_in,
        active_from_ms=_milliseconds(purpose.active_from),
        retired_at_ms=_milliseconds(purpose.retired_at),
        data=frozenset(purpose.data),
        recipients=frozenset(purpose.recipients),
        regions=frozenset(place for region in purpose.regions for place in _all_within(region)),
        retention=_optional(purpose.retention),
        sensitive=purpose.sensitive,
        exempt=frozenset(purpose.exempt),
        relations={relation: _duration(age) for relation, age in purpose.relations.items()},
        serves=purpose.serves,
        served_by=tuple(sorted(other for other, one in policy.purposes.items() if one.serves == key)),
        log_guarantee=purpose.log_guarantee,
        terms=as_marketing if is_marketing else tables.of(purpose, marketing=False),
        marketing_terms=as_marketing,
    )


def _all_within(region: str) -> frozenset[str]:
    members = GROUPS.get(region, frozenset())
    return members | {region} | {group for group in GROUPS if lies_within(group, region)}


def with_descendants(listed: Iterable[str], topics: Mapping[str, Topic]) -> frozenset[str]:
    """Give the topics and all those whose parents lead to one of them."""
    found = set(listed)
    while more := {key for key, topic in topics.items() if topic.parent in found} - found:
        found |= more
    return frozenset(found)


def _duration(text: str) -> Duration:
    duration = parse_duration(text)
    if duration is None:
        raise Invalid("the policy names a duration that cannot be used")
    return duration


def _optional(text: str | None) -> Duration | None:
    return None if text is None else _duration(text)


def _milliseconds(instant: datetime | None) -> int | None:
    return None if instant is None else (instant - _EPOCH) // timedelta(milliseconds=1)
