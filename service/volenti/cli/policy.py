"""`volenti policy`: the policy as a file in version control."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import assert_never
from uuid import UUID

import rich_click as click

from volenti.cli.deployment import deployed, settings_of, where
from volenti.cli.instants import instant_of
from volenti.core.policy.finding import Finding
from volenti.core.policy.lint import lint
from volenti.core.policy.starter import starter_policy
from volenti.errors import Conflict, Invalid, Unavailable
from volenti.flows.clock import rfc3339
from volenti.flows.profiles import shipped
from volenti.flows.publish_policy import Publication, Published, Rejected, TooLate, activate, publish
from volenti.flows.record_consents import KeyMisused
from volenti.flows.services import Services

LONGEST = 1 << 20


@click.group(short_help="The policy document.")
def policy() -> None:
    """The policy document: purposes, lawful bases, notices and topics, in one versioned YAML file."""


_file = click.argument("file", type=click.Path(path_type=Path))


@policy.command("init")
@_file
@click.option("--controller", default="Acme GmbH", show_default=True, help="The controller's name.")
def init(file: Path, controller: str) -> int:
    """Write the starter policy to a new file."""
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(starter_policy(controller))
    except FileExistsError:
        raise Conflict(f"{file} exists already") from None
    except OSError as error:
        raise Invalid(f"{file} cannot be written: {error.strerror}") from error
    click.echo(f"{file}: edit it, then: volenti policy lint {file}", err=True)
    return 0


@policy.command("lint")
@_file
def lint_file(file: Path) -> int:
    """Check a policy file; every finding has its line. Exit 1 if there are errors."""
    linted = lint(read_document(file), shipped())
    show_findings(file, linted.findings)
    return 0 if linted.policy is not None else 1


_workspace = click.option("--workspace", required=True, help="The workspace's name.")


@policy.command("publish")
@_file
@_workspace
@click.option("--activate-at", metavar="T", help="From when on it is in force (RFC 3339); default: at once.")
@where
def publish_file(
    file: Path, workspace: str, activate_at: str | None, data_dir: str | None, database_url: str | None
) -> int:
    """Publish a policy file as the workspace's next version; from then on checks decide by it. Exit 1 if it has errors."""
    at = None if activate_at is None else instant_of(activate_at, "--activate-at")
    text = read_document(file)

    async def work(services: Services, workspace_id: UUID) -> Publication:
        return await publish(services, workspace_id, text, activate_at=at)

    with deployed(settings_of(data_dir, database_url)) as deployment:
        publication = deployment.change(workspace, work)
    return _said(publication, file)


@policy.command("activate")
@click.argument("version", type=click.IntRange(1, 99_999_999))
@_workspace
@click.option("--at", metavar="T", help="From when on it is in force (RFC 3339); default: at once.")
@where
def activate_version(
    version: int, workspace: str, at: str | None, data_dir: str | None, database_url: str | None
) -> int:
    """Put a published version in force: back to an older one, or one that waits for its day ahead of it."""
    asked = None if at is None else instant_of(at, "--at")

    async def work(services: Services, workspace_id: UUID) -> Publication:
        return await activate(services, workspace_id, version, at=asked)

    with deployed(settings_of(data_dir, database_url)) as deployment:
        return _said(deployment.change(workspace, work))


def _said(publication: Publication, file: Path | None = None) -> int:
    match publication:
        case Published():
            if file is not None:
                show_findings(file, publication.warnings)
            if publication.repeated:
                click.echo("it is in force then already; nothing was recorded", err=True)
            click.echo(
                f"version {publication.version}  sha256:{publication.hash.hex()}  entry {publication.entry}"
                f"  in force from {rfc3339(publication.active_from)}"
            )
            return 0
        case Rejected():
            if file is not None:
                show_findings(file, publication.findings)
        case TooLate():
            click.echo("the instant has passed; nothing was recorded", err=True)
        case KeyMisused():
            pass  # a command sends no key
        case _:
            assert_never(publication)
    return 1


def read_document(file: Path) -> str:
    """The text of a policy file. Raises Invalid or Unavailable where there is none to read."""
    try:
        if file.stat().st_size > LONGEST:
            raise Invalid(f"{file} is too long for a policy")
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise Invalid(f"{file} is not UTF-8") from None
    except OSError as error:
        raise Unavailable(f"{file} cannot be read: {error.strerror}") from error


def show_findings(file: Path, findings: Iterable[Finding]) -> None:
    """Print findings, each with the place in the file that it is about."""
    for finding in findings:
        click.echo(f"{file}:{finding.line}: {finding.severity}: {finding.message} ({finding.pointer or '/'})")
