"""`volenti import`: choices from a file, with a report of what became of each row."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import UUID

import msgspec
import rich_click as click
from rich.console import Console
from rich.progress import Progress

from volenti.cli.deployment import deployed, settings_of, where
from volenti.errors import Invalid, Unavailable
from volenti.flows import import_choices as flow
from volenti.flows.import_choices import Report, Rows
from volenti.flows.read_imports import LONGEST_LINE, Row, Unreadable, native, transcend
from volenti.flows.services import Services


@click.command("import", short_help="Choices from a file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--workspace", required=True, help="The workspace's name.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["native", "transcend"]),
    required=True,
    help="native: our NDJSON; transcend: its preference upload.",
)
@click.option(
    "--map",
    "pairs",
    multiple=True,
    metavar="COLUMN=PURPOSE",
    help="Which purpose a column means; COLUMN=- leaves it out.",
)
@click.option(
    "--source",
    help="The name of the system that the file comes from; default: the format. With it a second run finds its rows.",
)
@click.option("--dry-run", is_flag=True, help="Decide every row and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@where
def import_choices(
    file: Path,
    workspace: str,
    kind: str,
    pairs: tuple[str, ...],
    source: str | None,
    dry_run: bool,
    as_json: bool,
    data_dir: str | None,
    database_url: str | None,
) -> int:
    """Record a file's choices as ordinary entries with actor `import`. A second run of the same file adds nothing.

    If a line cannot be read, nothing of the file is applied. Exit 1 if lines cannot be read or rows were skipped.
    """
    purposes = flow.mapping(pairs)
    if kind == "native" and purposes:
        raise Invalid("--map belongs to the format transcend; native lines name their purposes")

    def rows() -> Iterable[Row | Unreadable]:
        return native(_lines(file)) if kind == "native" else transcend(_lines(file), purposes)

    broken = flow.unreadable(rows)
    if broken:
        for line in broken[:20]:
            click.echo(f"line {line.number}: {line.why}")
        click.echo(f"{len(broken)} lines cannot be read; nothing was applied", err=True)
        return 1
    with deployed(settings_of(data_dir, database_url)) as deployment:
        report = deployment.change(
            workspace,
            lambda services, workspace_id: _apply(services, workspace_id, source or kind, rows, dry_run=dry_run),
        )
    _show(report, as_json=as_json, dry_run=dry_run)
    return 1 if report.skipped else 0


async def _apply(services: Services, workspace_id: UUID, source: str, rows: Rows, *, dry_run: bool) -> Report:
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("importing", total=sum(1 for _ in rows()))
        return await flow.import_choices(
            services,
            workspace_id,
            source,
            rows,
            dry_run=dry_run,
            progress=lambda done: bar.update(task, completed=done),
        )


def _lines(file: Path) -> Iterator[bytes]:
    """The file's lines, one at a time and none longer than a reader takes: constant memory whatever the file."""
    try:
        with file.open("rb") as source:
            while line := source.readline(LONGEST_LINE + 2):
                yield line
    except OSError as error:
        raise Unavailable(f"{file} cannot be read: {error.strerror}") from error


def _show(report: Report, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(report))
        return
    for number, what in report.details:
        click.echo(f"row {number}: {what}")
    for what, count in sorted(report.lost.items()):
        click.echo(f"lost in {count} rows: {what}")
    verb = "would be applied" if dry_run else "applied"
    click.echo(
        f"{report.rows} rows: {report.applied} {verb} ({report.without_effect} of them without effect), {report.already_there} there already, {sum(report.skipped.values())} skipped"
    )
