"""`volenti doctor`: what the service stands on, a line each, and what to do where something is wrong."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from deployments import with_keys_bound
from object_store import forget_the_cloud, object_store
from volenti.cli.main import run
from volenti.keys.keyring import create_file
from volenti.store.embedded import Embedded

pytestmark = pytest.mark.usefixtures("bare_folder")


@pytest.fixture(scope="module")
def server() -> Iterator[Embedded]:
    """A deployment of this module's own: its commands look at everything in it."""
    with with_keys_bound() as running:
        yield running


def examined(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, str], dict[str, str]]:
    """The exit code, what is well and what is not: subject to sentence."""
    capsys.readouterr()
    code = run(["doctor", *options])
    lines = [line.partition(" ") for line in capsys.readouterr().out.splitlines()]
    good, bad = [
        {
            subject: text
            for subject, _, text in (rest.strip().partition(": ") for word, _, rest in lines if word == mark)
        }
        for mark in ("ok", "FIX")
    ]
    return code, good, bad


def test_a_sound_deployment_is_well_in_every_respect(server: Embedded, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["workspace", "create", f"doctor-{os.getpid()}", "--data-dir", str(server.data_dir)]) == 0
    code, good, bad = examined(capsys, "--data-dir", str(server.data_dir))
    assert (code, bad) == (0, {})
    assert {"keys", "schema", "database", "clocks", "ledgers", "anchor", "journal"} <= set(good)


def test_an_anchor_that_cannot_be_reached_is_named_and_ends_with_3(
    server: Embedded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_the_cloud(monkeypatch)
    monkeypatch.setenv("VOLENTI_S3_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("VOLENTI_ANCHOR", "s3://bucket/prefix")
    code, _, bad = examined(capsys, "--data-dir", str(server.data_dir))
    assert code == 3
    assert bad["anchor"].startswith("s3://bucket/prefix: the anchor cannot be checked")


def test_an_anchor_whose_store_ignores_conditions_is_named(
    server: Embedded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with object_store() as store:
        monkeypatch.setenv("VOLENTI_S3_ENDPOINT", store.url)
        monkeypatch.setenv("VOLENTI_ANCHOR", f"s3://{store.bucket}")
        assert examined(capsys, "--data-dir", str(server.data_dir))[0] == 0
        store.ignores_conditions = True
        code, _, bad = examined(capsys, "--data-dir", str(server.data_dir))
    assert code == 1
    assert "ignores If-Match" in bad["anchor"]


def test_an_anchor_in_s3_without_its_library_is_wrong_use_and_says_what_to_install(
    server: Embedded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setenv("VOLENTI_ANCHOR", "s3://bucket/prefix")
    assert run(["workspace", "list", "--data-dir", str(server.data_dir)]) == 2
    assert "pip install 'volenti[s3]'" in capsys.readouterr().err


def test_the_keys_of_another_deployment_are_named(
    server: Embedded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    create_file(tmp_path / "other.json", os.urandom)
    monkeypatch.setenv("VOLENTI_KEY_FILE", str(tmp_path / "other.json"))
    code, _, bad = examined(capsys, "--data-dir", str(server.data_dir))
    assert code == 1
    assert "another key file" in bad["database"]


def test_a_missing_key_file_is_named(
    server: Embedded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VOLENTI_KEY_FILE", str(tmp_path / "none.json"))
    assert run(["doctor", "--data-dir", str(server.data_dir)]) in (1, 2)
    shown = capsys.readouterr()
    assert "none.json" in shown.out + shown.err
    assert not (tmp_path / "none.json").exists()


def test_a_database_that_is_not_there_is_named_and_ends_with_3(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    create_file(tmp_path / "keys.json", os.urandom)
    monkeypatch.setenv("VOLENTI_KEY_FILE", str(tmp_path / "keys.json"))
    code, good, bad = examined(capsys, "--database-url", "postgresql://nobody@127.0.0.1:1/nowhere")
    assert code == 3
    assert "keys" in good
    assert "cannot be reached" in bad["database"]


def test_a_ledger_that_was_stopped_is_named(server: Embedded, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"stopped-{os.getpid()}"
    assert run(["workspace", "create", name, "--data-dir", str(server.data_dir)]) == 0

    async def set_state(state: str) -> None:
        connection = await asyncpg.connect(server.url("volenti"))
        try:
            await connection.execute("SET session_replication_role = replica")
            await connection.execute(
                "UPDATE volenti.ledger_log SET state = $1 WHERE origin LIKE '%/' || $2", state, name
            )
        finally:
            await connection.close()

    asyncio.run(set_state("frozen"))
    try:
        code, _, bad = examined(capsys, "--data-dir", str(server.data_dir))
    finally:
        asyncio.run(set_state("active"))
    assert code == 1
    assert f"{name} is stopped" in bad["ledgers"]


def test_production_wants_https_to_the_outside(
    server: Embedded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VOLENTI_PROFILE", "production")
    monkeypatch.setenv("VOLENTI_DATABASE_URL", server.url("volenti"))
    monkeypatch.setenv("VOLENTI_KEY_FILE", str(server.data_dir / "keys.json"))
    monkeypatch.setenv("VOLENTI_ANCHOR", str(tmp_path / "anchor"))
    monkeypatch.setenv("VOLENTI_JOURNAL", str(tmp_path / "journal"))
    code, _, bad = examined(capsys)
    assert code == 1
    assert bad["public base URL"] == "production needs https"


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="there is no /dev/shm here")
def test_production_is_told_which_folder_goes_away(
    server: Embedded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VOLENTI_PROFILE", "production")
    monkeypatch.setenv("VOLENTI_DATABASE_URL", server.url("volenti"))
    monkeypatch.setenv("VOLENTI_KEY_FILE", str(server.data_dir / "keys.json"))
    monkeypatch.setenv("VOLENTI_ANCHOR", str(tmp_path / "anchor"))
    monkeypatch.setenv("VOLENTI_JOURNAL", "/dev/shm/volenti")
    code, _, bad = examined(capsys)
    assert code == 1
    assert bad["journal"] == "it goes away with the machine's memory"
