"""`volenti policy`: the policy as a file in version control."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

import rich_click as click

from volenti.cli.deployment import deployed, settings_of, where
from volenti.core.policy.finding import Finding
from volenti.core.policy.lint import lint
from volenti.core.policy.starter import starter_policy
from volenti.errors import Conflict, Invalid, Unavailable
from volenti.flows.profiles import shipped
from volenti.flows.publish_policy import Publication, Rejected, publish
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
    linted = lint(_read(file), shipped())
    _show(file, linted.findings)
    return 0 if linted.policy is not None else 1


@policy.command("publish")
@_file
@click.option("--workspace", required=True, help="The workspace's name.")
@where
def publish_file(file: Path, workspace: str, data_dir: str | None, database_url: str | None) -> int:
    """Publish a policy file as the workspace's next version; the next check decides by it. Exit 1 if it has errors."""
    text = _read(file)

    async def work(services: Services, workspace_id: UUID) -> Publication:
        return await publish(services, workspace_id, text)

    with deployed(settings_of(data_dir, database_url)) as deployment:
        publication = deployment.change(workspace, work)
    if isinstance(publication, Rejected):
        _show(file, publication.findings)
        return 1
    _show(file, publication.warnings)
    if publication.repeated:
        click.echo("the document is in force already; nothing was published", err=True)
    click.echo(f"version {publication.version}  sha256:{publication.hash.hex()}  entry {publication.entry}")
    return 0


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > LONGEST:
            raise Invalid(f"{file} is too long for a policy")
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise Invalid(f"{file} is not UTF-8") from None
    except OSError as error:
        raise Unavailable(f"{file} cannot be read: {error.strerror}") from error


def _show(file: Path, findings: Iterable[Finding]) -> None:
    for finding in findings:
        click.echo(f"{file}:{finding.line}: {finding.severity}: {finding.message} ({finding.pointer or '/'})")
