"""`volenti keys`: make the key ring, and show its ids."""

from __future__ import annotations

import os
from pathlib import Path

import rich_click as click

from volenti.cli.deployment import settings_of, where
from volenti.errors import Invalid, NotFound
from volenti.keys.keyring import create_file, read_file


@click.group(short_help="The key ring.")
def keys() -> None:
    """The key ring: it signs the ledger, seals personal data and finds identifiers. Without it the data cannot be read."""


@keys.command("init")
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path),
    help="Where to write it; default keys.json in the data directory. [env: VOLENTI_KEY_FILE]",
)
@where
def init(path: Path | None, data_dir: str | None, database_url: str | None) -> int:
    """Make a key file, readable by its owner only. An existing file is never overwritten."""
    settings = settings_of(data_dir, database_url)
    target = path or settings.key_path
    if path is None and settings.key_file is None:
        settings.data_path.mkdir(mode=0o700, parents=True, exist_ok=True)
    create_file(target, os.urandom)
    click.echo(f"{target}: keep a copy where the database is not", err=True)
    return 0


@keys.command("list")
@click.option("--file", "path", type=click.Path(path_type=Path), help="The key file. [env: VOLENTI_KEY_FILE]")
@where
def list_keys(path: Path | None, data_dir: str | None, database_url: str | None) -> int:
    """Show each key's id and use, and the fingerprint that binds a database to them; never a key."""
    try:
        keyring = read_file(path or settings_of(data_dir, database_url).key_path)
    except NotFound as error:
        raise Invalid(f"{error}; make one with: volenti keys init") from None
    for use, key_id in (
        ("signs the ledger", keyring.log_key_id),
        ("signs tokens", keyring.token_key_id),
        ("wraps the workspaces' keys", keyring.key_encryption_key_id),
        ("makes blind indexes", keyring.pepper_id),
    ):
        click.echo(f"{key_id}  {use}")
    click.echo(f"fingerprint {keyring.fingerprint().hex()}")
    return 0
