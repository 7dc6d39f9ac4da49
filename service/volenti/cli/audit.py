"""`volenti audit`: verify the ledger, refold the states, write the log out as tiles."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import rich_click as click
from rich.console import Console
from rich.progress import Progress

from volenti.cli.deployment import deployed, settings_of, where
from volenti.core.audit.verify import Report
from volenti.core.ledger import note, trust
from volenti.core.ledger.note import VerifierKey
from volenti.errors import Invalid, Unavailable, VerificationError
from volenti.flows import rebuild_states, verify_ledger
from volenti.flows.create_workspace import by_name
from volenti.flows.export_log import export_log
from volenti.flows.services import Services


@click.group(short_help="Verify, rebuild and export.")
def audit() -> None:
    """Proof: verify the ledger, refold every state from it, write the log out for others to check."""


@audit.command("verify")
@click.option(
    "--tiles",
    type=click.Path(path_type=Path),
    help="Verify a folder in the C2SP layout instead of the database; needs --key or --trust, no service and no database.",
)
@click.option("--key", "vkey", help="The log's verifier key (vkey), from a source that you trust.")
@click.option("--trust", "trust_file", type=click.Path(path_type=Path), help="A tlog-policy file with the log's key.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@where
def verify(
    tiles: Path | None,
    vkey: str | None,
    trust_file: Path | None,
    as_json: bool,
    data_dir: str | None,
    database_url: str | None,
) -> int:
    """Verify every entry, tile, tree head and checkpoint. Exit 0: all is well; 1: something was altered, and is named."""
    if tiles is not None:
        try:
            reports = [verify_ledger.verify_folder(tiles, _trusted(vkey, trust_file))]
        except VerificationError as error:
            click.echo(f"checkpoint: {error}")
            return 1
    else:
        with deployed(settings_of(data_dir, database_url)) as deployment, _progress("verifying") as tick:
            reports = deployment.run(lambda services: verify_ledger.verify(services, progress=tick))
    if as_json:
        click.echo(msgspec.json.encode([_plain(report) for report in reports]))
    else:
        for report in reports:
            for finding in report.findings:
                click.echo(f"{report.origin}: {finding.where}: {finding.what}")
            verdict = "verified" if report.clean else f"{len(report.findings)} findings"
            click.echo(
                f"{report.origin}: {report.size} entries, signed up to {report.signed_size}, root {report.root.hex()[:16]}…: {verdict}"
            )
    return 0 if all(report.clean for report in reports) else 1


@audit.command("rebuild")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@where
def rebuild(as_json: bool, data_dir: str | None, database_url: str | None) -> int:
    """Refold every person's state from the ledger and compare it with what is stored; changes nothing. Exit 1 at a difference."""
    with deployed(settings_of(data_dir, database_url)) as deployment:
        rebuilt = deployment.run(lambda services: rebuild_states.rebuild(services))
    if as_json:
        click.echo(msgspec.json.encode(rebuilt))
    else:
        for one in rebuilt:
            for finding in one.findings:
                click.echo(f"{one.workspace}: {finding.where}: {finding.what}")
            verdict = "equal" if not one.findings else f"{len(one.findings)} findings"
            click.echo(f"{one.workspace}: {one.entries} entries, {one.holders} data subjects refolded: {verdict}")
    return 0 if not any(one.findings for one in rebuilt) else 1


@audit.command("export")
@click.option("--workspace", required=True, help="The workspace's name.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["tiles"]),
    default="tiles",
    show_default=True,
    help="The C2SP layout: checkpoint, tile/….",
)
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="A folder that does not exist yet, or is empty."
)
@where
def export(workspace: str, kind: str, output: Path, data_dir: str | None, database_url: str | None) -> int:
    """Write the signed log to a folder that `volenti audit verify --tiles` and any tlog-tiles client can read."""

    async def work(services: Services) -> tuple[int, str]:
        return await export_log(services, await by_name(services, workspace), output)

    with deployed(settings_of(data_dir, database_url)) as deployment:
        size, vkey = deployment.run(work)
    click.echo(f"{size} entries written to {output}; the log's key, to be handed over separately:", err=True)
    click.echo(vkey)
    return 0


def _trusted(vkey: str | None, trust_file: Path | None) -> VerifierKey:
    if (vkey is None) == (trust_file is None):
        raise Invalid("a folder is verified against a key that you trust: give --key or --trust")
    try:
        if vkey is not None:
            return note.parse_vkey(vkey)
        assert trust_file is not None
        keys = trust.parse(trust_file.read_bytes()).logs
    except VerificationError as error:
        raise Invalid(f"the key cannot be used: {error}") from error
    except OSError as error:
        raise Unavailable(f"{trust_file} cannot be read: {error.strerror}") from error
    if len(keys) != 1:
        raise Invalid("the trust file must name one log")
    return keys[0]


def _plain(report: Report) -> dict[str, object]:
    findings = [{"where": finding.where, "what": finding.what} for finding in report.findings]
    return {
        "origin": report.origin,
        "size": report.size,
        "signed_size": report.signed_size,
        "root": report.root.hex(),
        "findings": findings,
    }


@contextmanager
def _progress(what: str) -> Iterator[verify_ledger.Progress]:
    """Progress on standard error, on a terminal only."""
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
