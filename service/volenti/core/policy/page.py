"""The jurisdiction profiles as a page for people who judge them: docs/jurisdictions.md."""

from collections.abc import Iterable, Iterator

from volenti.core.policy.cell import ANY, CELLS, ROWS, shown
from volenti.core.policy.profile import Confidence, ProfileRow, Profiles

_CONFIDENCE = {
    Confidence.PRIMARY: "the text of the law or standard was read",
    Confidence.SECONDARY: "somebody's account of it was read, the one in brackets",
    Confidence.UNVERIFIED: "general knowledge; the text was not read",
    Confidence.POLICY: "no law behind it: a cautious choice of ours",
}


def jurisdiction_page(profiles: Profiles) -> str:
    """Give the page of one version, in Markdown: what each key says, then every row, place by place."""
    lines = [*_introduction(profiles), "", "## The keys", "", *_keys(), *_places(profiles.rows)]
    return "\n".join(lines) + "\n"


def _introduction(profiles: Profiles) -> list[str]:
    counts = [sum(row.confidence is one for row in profiles.rows) for one in Confidence]
    return [
        f"# Jurisdiction profiles {profiles.version}",
        "",
        "<!-- made by `make docs` from jurisdictions/*.yaml; do not edit -->",
        "",
        "What the law of a place asks, as this version of Volenti knows it. It is data and not advice on law: every value",
        f'is a default that binds when a policy says `jurisdictions: "{profiles.version}"`, and that its `overrides` change.',
        "Read the rows of your markets with somebody who knows their law, above all those that nobody verified.",
        "",
        "| confidence | rows | meaning |",
        "|---|---|---|",
        *(f"| {one} | {count} | {_CONFIDENCE[one]} |" for one, count in zip(Confidence, counts, strict=True)),
        "",
        "**Which row binds.** Each place is looked up as its subdivision (`US-CA`), its country, `EU`, `EEA`, then `default`;",
        "the nearest place that has the key answers. A key for one row alone (`consent_expiry.analytics`) goes before the same",
        "key for all rows, in the same place. Of several places, and of a person of unknown whereabouts in all `markets`, the",
        "strictest value of each key binds; beside a purpose's own `basis` the stricter of the two.",
        "",
        "**Which row a question meets.** Marketing that is sent: the row of its channel. Sale and sharing: `sale_share`. A",
        "decision by machine (`automate`): `significant_decisions`. Anything else: the row of the purpose's `activity`",
        "(`analytics`; `personalisation` and `profiling`: `personalisation`; `advertising`: `sale_share`; `ai_decisioning`:",
        "`ai_decisions`), or none. A purpose that is `sensitive` meets the row `sensitive` as well.",
        "",
        "Days begin at midnight UTC; “until” is the first day on which the row no longer holds.",
    ]


def _keys() -> Iterator[str]:
    yield "| key | what it says | values | enforced |"
    yield "|---|---|---|---|"
    for key, cell in CELLS.items():
        values = "a lawful basis" if key in ROWS else cell.kind.expects
        yield f"| `{key}` | {cell.says} | {_cell(values)} | {'yes' if cell.enforced else 'not yet'} |"


def _places(rows: Iterable[ProfileRow]) -> Iterator[str]:
    """Give a section for each group of places whose rows are the same, in the order of their first mention."""
    of_place: dict[str, list[ProfileRow]] = {}
    for row in rows:
        of_place.setdefault(row.jurisdiction, []).append(row)
    alike: dict[tuple[str, ...], list[str]] = {}
    for place, its_rows in of_place.items():
        alike.setdefault(tuple(_line(row) for row in _ordered(its_rows)), []).append(place)
    for lines, places in alike.items():
        yield from ("", f"## {', '.join(places)}", "")
        yield "| key | value | since | until | confidence | source | note |"
        yield "|---|---|---|---|---|---|---|"
        yield from lines


def _ordered(rows: Iterable[ProfileRow]) -> list[ProfileRow]:
    order = list(CELLS)
    return sorted(rows, key=lambda row: (order.index(row.key.partition(".")[0]), row.key))


def _line(row: ProfileRow) -> str:
    value = ANY if row.value is None and row.key.startswith("relations") else shown(row.value)
    cells = (
        f"`{row.key}`",
        value,
        "" if row.valid_from is None else row.valid_from.isoformat(),
        "" if row.valid_until is None else row.valid_until.isoformat(),
        row.confidence.value,
        row.source,
        row.note or "",
    )
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    return text.replace("|", "&#124;").replace("<", "&lt;")
