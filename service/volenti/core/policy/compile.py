"""The policy as the check asks it: every question that a check may have is one look-up."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from volenti.core.policy.canonical import document_hash
from volenti.core.policy.document import Action, Channel, EvidenceGrade, LawfulBasis, MessageClass, Policy, Purpose
from volenti.core.policy.duration import Duration, parse_duration
from volenti.core.policy.jurisdiction import DEFAULT, EEA, GROUPS, lies_within, lookup_order
from volenti.core.policy.notice import PublishedNotice, published_form, required_version
from volenti.errors import Invalid

STRICTEST_FIRST = (
    LawfulBasis.CONSENT,
    LawfulBasis.LEGITIMATE_INTEREST,
    LawfulBasis.OPT_OUT,
    LawfulBasis.CONTRACT,
    LawfulBasis.LEGAL_OBLIGATION,
)
"""Of several bases the first one here binds. The last two bind alike; their order only makes the answer stable."""

_RANK = {basis: rank for rank, basis in enumerate(STRICTEST_FIRST)}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CompiledPurpose(msgspec.Struct, frozen=True, kw_only=True):
    """A purpose with its references resolved. Ask `basis_for` and `in_force`, not the members beneath them."""

    key: str
    message_class: MessageClass | None
    actions: frozenset[Action]
    channels: frozenset[Channel]
    topics: frozenset[str]
    notice: str | None
    required_notice_version: int | None
    valid_for: Duration | None
    minimum_evidence: EvidenceGrade
    active_from_ms: int | None
    retired_at_ms: int | None
    bases: dict[str, LawfulBasis]
    default_basis: LawfulBasis
    unknown_place_basis: LawfulBasis


class CompiledPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A policy ready to be asked. `hash` is the SHA-256 of its canonical bytes; `document` has texts and titles.

    `notices` holds the current versions with their hashes, `published` every version ever published, by its name
    ("newsletter@3"); `required_notice_version` the oldest version of each notice whose grants are not stale.
    """

    document: Policy
    hash: bytes
    purposes: dict[str, CompiledPurpose]
    notices: dict[str, PublishedNotice]
    published: dict[str, PublishedNotice]
    required_notice_version: dict[str, int]
    backdating_limit: Duration
    changes_at_ms: int | None = None
    """Until when this form is right; None: as long as the version is in force."""


def compile_policy(policy: Policy, published: Sequence[PublishedNotice]) -> CompiledPolicy:
    """Give the policy in the form that answers checks.

    `published` are the notice versions published up to and including this policy, of any notice and in any order;
    the policy's own may be missing. The policy has passed `lint`: raises `Invalid` for a reference or a duration
    that leads nowhere.
    """
    notices = {key: published_form(key, notice) for key, notice in policy.notices.items()}
    history = {key: [notice] for key, notice in notices.items()}
    for one in published:
        if one.notice in history:
            history[one.notice].append(one)
    required = {key: required_version(versions) for key, versions in history.items()}
    return CompiledPolicy(
        document=policy,
        hash=document_hash(policy),
        purposes={key: _compile_purpose(key, purpose, policy, required) for key, purpose in policy.purposes.items()},
        notices=notices,
        published={f"{one.notice}@{one.version}": one for one in published},
        required_notice_version=required,
        backdating_limit=_duration(policy.backdating_limit),
    )


def basis_for(purpose: CompiledPurpose, jurisdictions: tuple[str, ...]) -> LawfulBasis:
    """Give the basis that binds in all of these places at once; for none, in the strictest of the markets.

    Each place is looked up as subdivision, country, `EU`/`EEA`, then `default`; of several the strictest binds.
    """
    if not jurisdictions:
        return purpose.unknown_place_basis
    if len(jurisdictions) == 1:
        return _basis_in(purpose, jurisdictions[0])
    return strictest(_basis_in(purpose, jurisdiction) for jurisdiction in jurisdictions)


def strictest(bases: Iterable[LawfulBasis]) -> LawfulBasis:
    """Give the basis that asks most of the controller: consent > legitimate_interest > opt_out > the rest."""
    return min(bases, key=_RANK.__getitem__)


def in_force(purpose: CompiledPurpose, at_ms: int) -> bool:
    """Whether the purpose may be used at the instant: from `active_from` until just before `retired_at`."""
    if purpose.active_from_ms is not None and at_ms < purpose.active_from_ms:
        return False
    return purpose.retired_at_ms is None or at_ms < purpose.retired_at_ms


def _basis_in(purpose: CompiledPurpose, jurisdiction: str) -> LawfulBasis:
    basis = purpose.bases.get(jurisdiction)
    if basis is not None:
        return basis
    return purpose.bases.get(jurisdiction[:2], purpose.default_basis)


def _compile_purpose(key: str, purpose: Purpose, policy: Policy, required: dict[str, int]) -> CompiledPurpose:
    if DEFAULT not in purpose.basis or (purpose.notice is not None and purpose.notice not in required):
        raise Invalid(f"the policy's purpose {key} names no default basis, or a notice that does not exist")
    bases = _bases(purpose.basis)
    return CompiledPurpose(
        key=key,
        message_class=purpose.message_class,
        actions=frozenset(purpose.actions),
        channels=frozenset(purpose.channels),
        topics=frozenset(purpose.topics),
        notice=purpose.notice,
        required_notice_version=required[purpose.notice] if purpose.notice is not None else None,
        valid_for=_duration(purpose.consent.valid_for) if purpose.consent.valid_for is not None else None,
        minimum_evidence=purpose.consent.minimum_evidence,
        active_from_ms=_milliseconds(purpose.active_from),
        retired_at_ms=_milliseconds(purpose.retired_at),
        bases=bases,
        default_basis=purpose.basis[DEFAULT],
        unknown_place_basis=strictest(_anywhere_in(area, purpose.basis) for area in policy.markets or (DEFAULT,)),
    )


def _bases(rows: dict[str, LawfulBasis]) -> dict[str, LawfulBasis]:
    """Spell out the rows: each place with a row, and each that has none of its own but belongs to `EU` or `EEA`.

    What stands in no row is found under its country or is the default, so the table stays small.
    """
    places = {place for place in rows if place != DEFAULT} | EEA
    return {place: _row(place, rows) for place in places} | {group: _anywhere_in(group, rows) for group in GROUPS}


def _anywhere_in(area: str, rows: dict[str, LawfulBasis]) -> LawfulBasis:
    """The strictest rule that may bind somebody of whom no more is known than that they are in this area."""
    parts = (basis for place, basis in rows.items() if lies_within(place, area))
    return strictest((_row(area, rows), *parts))


def _row(place: str, rows: dict[str, LawfulBasis]) -> LawfulBasis:
    return next(rows[row] for row in lookup_order(place) if row in rows)


def _duration(text: str) -> Duration:
    duration = parse_duration(text)
    if duration is None:
        raise Invalid("the policy names a duration that cannot be used")
    return duration


def _milliseconds(instant: datetime | None) -> int | None:
    return None if instant is None else (instant - _EPOCH) // timedelta(milliseconds=1)
