"""What is wrong with a policy in the light of the jurisdiction profiles that it names: a part of `lint`."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from volenti.core.policy.cell import ROWS, CellValue, cell_of, is_laxer, read_value, shown
from volenti.core.policy.compile import overridden, rows_of
from volenti.core.policy.document import Action, Channel, LawfulBasis, MessageClass, Override, Policy, Purpose
from volenti.core.policy.finding import Remark, child, quoted
from volenti.core.policy.jurisdiction import DEFAULT, lies_within, lookup_order
from volenti.core.policy.profile import Profiles, change_instants, nearest, rows_at
from volenti.core.policy.terms import is_stricter, strictest
from volenti.errors import Invalid

MAX_NAMED = 8
"""How many places a sentence names before it says how many more there are."""


def jurisdiction_remarks(policy: Policy, shipped: Mapping[str, Profiles]) -> Iterator[Remark]:
    """Give what is wrong with `jurisdictions`, with `overrides`, and between the profiles and the purposes."""
    if policy.jurisdictions is None:
        newest = max(shipped, default=None)
        advice = f': add jurisdictions: "{newest}"' if newest is not None else ""
        yield "", "warning", f"no jurisdiction profile binds, only the purposes' own bases{advice}"
        if policy.overrides:
            yield "/overrides", "error", "overrides change a jurisdiction profile: name one in jurisdictions"
    elif policy.jurisdictions not in shipped:
        known = ", ".join(sorted(shipped)) or "none"
        yield (
            "/jurisdictions",
            "error",
            f"there is no version {quoted(policy.jurisdictions)} of the jurisdiction profiles; shipped: {known}",
        )
    else:
        profiles = shipped[policy.jurisdictions]
        periods = [rows_at(profiles, at_ms) for at_ms in change_instants(profiles)]
        wrong = [*_overrides(policy, _Law(periods))]
        yield from wrong
        if all(severity != "error" for _, severity, _ in wrong):
            values = overridden(policy)
            law = _Law([period | values for period in periods])
            yield from _rows_without_effect(policy, law)
            yield from _consent_that_cannot_be_asked(policy, law)
            yield from _double_opt_in(policy, law)
            yield from _relations(policy, law)


_ABSENT = object()


class _Law:
    """What binds in a place, in each period between two changes of any row."""

    def __init__(self, periods: Sequence[Mapping[tuple[str, str], CellValue]]) -> None:
        self.periods = periods
        self.cells = {cell for period in periods for cell in period}
        self.places = sorted({place for place, _ in self.cells})
        self._bases: dict[tuple[str, tuple[str, ...]], list[LawfulBasis]] = {}

    def values(self, place: str, key: str) -> list[CellValue]:
        """Give what binds in each period where a value for this place and key would: for one row, or for each of all rows.

        A key for one row alone falls back on that for all rows. A value that the place itself has for one row stays.
        """
        chain, general = lookup_order(place), key.partition(".")[0]
        names = [key] if key != general else [key, *(f"{key}.{row}" for row in ROWS)]
        found = (
            nearest(period, chain, (name, general), absent=_ABSENT)
            for name in names
            for period in self.periods
            if name == key or (place, name) not in period
        )
        return [value for value in found if value is not _ABSENT]

    def bases(self, place: str, rows: tuple[str, ...]) -> list[LawfulBasis]:
        """Give the basis that the rows demand, in each period in which one of them demands any."""
        if (place, rows) not in self._bases:
            self._bases[place, rows] = self._find_bases(lookup_order(place), rows)
        return self._bases[place, rows]

    def _find_bases(self, chain: Sequence[str], rows: Sequence[str]) -> list[LawfulBasis]:
        found = ([nearest(period, chain, (row,), absent=None) for row in rows] for period in self.periods)
        return [strictest(filter(None, of_period)) for of_period in found if any(of_period)]


def _overrides(policy: Policy, law: _Law) -> Iterator[Remark]:
    for place, overrides in policy.overrides.items():
        for key, override in overrides.items():
            at = child(child("/overrides", place), key)
            try:
                value = read_value(key, msgspec.to_builtins(override.value))
            except Invalid as error:
                yield at, "error", str(error)
                continue
            yield from _override(at, place, key, value, override, law)
            yield from _in_vain(at, place, key, value, policy)


def _in_vain(at: str, place: str, key: str, value: CellValue, policy: Policy) -> Iterator[Remark]:
    row = key.rpartition(".")[2]
    meant = [one for one in policy.purposes.values() if any(row in rows for rows in _rows(one))]
    own = [
        next(one.basis[place] for place in lookup_order(place) if place in one.basis)
        for one in meant
        if DEFAULT in one.basis
    ]
    if row in ROWS and not meant:
        yield at, "warning", "no purpose does this: the override has no effect"
    elif isinstance(value, LawfulBasis) and own and all(is_stricter(basis, value) for basis in own):
        yield at, "warning", "has no effect: every purpose that does this has a stricter basis of its own there"


def _override(at: str, place: str, key: str, value: CellValue, override: Override, law: _Law) -> Iterator[Remark]:
    cell = cell_of(key)
    assert cell is not None, "read_value knows the key"
    if not cell.enforced:
        yield at, "error", f"this version does not enforce {quoted(key)} yet: remove it"
        return
    bound = law.values(place, key)
    laxer_than = [one for one in bound if is_laxer(cell, value, one)]
    if laxer_than and (override.because is None or not override.because.strip()):
        yield at, "error", f"laxer than the profile's {quoted(shown(laxer_than[0]))}: say why, in because"
    elif bound and all(one == value for one in bound):
        yield at, "warning", "the profile says the same: the override changes nothing"
    unreached = sorted(
        one if name == key else f"{one} ({name})"
        for one, name in law.cells
        if place != DEFAULT and (one, name) != (place, key) and lies_within(one, place)
        if name == key or name.startswith(f"{key}.")
    )
    if unreached:
        yield at, "warning", f"does not reach {_named(unreached)}, with values of their own: override those as well"


def _rows_without_effect(policy: Policy, law: _Law) -> Iterator[Remark]:
    for name, purpose in policy.purposes.items():
        for place, basis in purpose.basis.items():
            demanded = [law.bases(place, rows) for rows in _rows(purpose)]
            always = demanded and all(
                len(bases) == len(law.periods) for bases in demanded
            )  # a send without channels has none
            if place != DEFAULT and always and all(is_stricter(one, basis) for bases in demanded for one in bases):
                stricter = strictest(one for bases in demanded for one in bases)
                yield (
                    child(child(child("/purposes", name), "basis"), place),
                    "warning",
                    f"has no effect: the jurisdiction profile demands {quoted(stricter.value)} there",
                )


def _consent_that_cannot_be_asked(policy: Policy, law: _Law) -> Iterator[Remark]:
    for name, purpose in policy.purposes.items():
        if purpose.notice is None and LawfulBasis.CONSENT not in purpose.basis.values():
            demanding = [place for place in policy.markets if _demands(law, place, purpose, LawfulBasis.CONSENT)]
            if demanding:
                yield (
                    child("/purposes", name),
                    "warning",
                    f"the jurisdiction profile demands consent in {_named(demanding)}: add a notice to ask with",
                )


def _double_opt_in(policy: Policy, law: _Law) -> Iterator[Remark]:
    for name, purpose in policy.purposes.items():
        by_email = purpose.message_class is MessageClass.MARKETING and Channel.EMAIL in purpose.channels
        if by_email and LawfulBasis.CONSENT in purpose.basis.values() and not purpose.consent.double_opt_in:
            advised = [place for place in policy.markets if "recommended" in law.values(place, "double_opt_in")[-1:]]
            if advised:
                yield (
                    child("/purposes", name),
                    "warning",
                    f"double opt-in is recommended in {_named(advised)}: add double_opt_in: true to consent",
                )


def _relations(policy: Policy, law: _Law) -> Iterator[Remark]:
    soft = LawfulBasis.SOFT_OPT_IN
    for name, purpose in policy.purposes.items():
        laxer = any(is_stricter(soft, basis) for basis in purpose.basis.values())
        by_law = laxer and any(_demands(law, place, purpose, soft) for place in law.places)
        if purpose.relations and soft not in purpose.basis.values() and not by_law:
            at = child(child("/purposes", name), "relations")
            yield at, "warning", "no basis of this purpose is soft_opt_in: relations have no effect"


def _demands(law: _Law, place: str, purpose: Purpose, basis: LawfulBasis) -> bool:
    return any(basis in law.bases(place, rows) for rows in _rows(purpose))


def _named(places: Sequence[str]) -> str:
    more = f" and {len(places) - MAX_NAMED} more" if len(places) > MAX_NAMED else ""
    return ", ".join(places[:MAX_NAMED]) + more


def _rows(purpose: Purpose) -> list[tuple[str, ...]]:
    """Give the rows of each thing that the purpose may do."""
    marketing = purpose.message_class is MessageClass.MARKETING
    return [
        rows_of(purpose, action, channel, marketing=marketing)
        for action in purpose.actions
        for channel in (purpose.channels if action is Action.SEND else (None,))
    ]
