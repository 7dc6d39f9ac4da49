"""A deployment that a test can spoil: a real PostgreSQL, migrated, with keys of its own, in a folder that goes away."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from volenti.cli.deployment import prepare
from volenti.cli.main import run
from volenti.keys.keyring import create_file
from volenti.store import embedded
from volenti.store.embedded import Embedded


@contextmanager
def fresh() -> Iterator[Embedded]:
    """A new one for as long as the block lasts; VOLENTI_PG_BIN chooses another version of PostgreSQL."""
    with (
        tempfile.TemporaryDirectory(prefix="volenti-tests-") as folder,
        embedded.running(
            Path(folder) / "data", pg_bin=os.environ.get("VOLENTI_PG_BIN"), report=lambda line: None
        ) as running,
    ):
        asyncio.run(prepare(running))
        create_file(running.data_dir / "keys.json", os.urandom)
        yield running


@contextmanager
def with_keys_bound() -> Iterator[Embedded]:
    """A new one whose database is bound to its keys by a first command, as an operator's is."""
    with fresh() as running:
        assert run(["workspace", "list", "--data-dir", str(running.data_dir)]) == 0
        yield running
