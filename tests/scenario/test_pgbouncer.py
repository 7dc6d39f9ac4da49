"""An operator's way with PgBouncer: the service and every command behind it, as operations.md says."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from deployments import fresh, serving
from pooler import Pooler, pooled
from volenti.cli.main import run
from volenti.store.embedded import Embedded

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("bare_folder")]

PASSWORD = "s/cr@t"


@pytest.fixture(scope="module")
def server() -> Iterator[Embedded]:
    """A deployment of this module's own: its commands look at everything in it."""
    with fresh() as running:
        yield running


@pytest.fixture(scope="module")
def pooler(server: Embedded) -> Iterator[Pooler]:
    with pooled(server, sessions=2, password=PASSWORD) as running:
        yield running


@pytest.fixture
def behind(server: Embedded, pooler: Pooler, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of an external database behind a pooler, which knows the roles and no volenti_service."""
    url = pooler.url("volenti_service").replace("@", ":s%2Fcr%40t@", 1)
    monkeypatch.setenv("VOLENTI_DATABASE_URL", url)
    monkeypatch.setenv("VOLENTI_DATABASE_POOLER", "transaction")
    monkeypatch.setenv("VOLENTI_KEY_FILE", str(server.data_dir / "keys.json"))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert run(list(arguments)) == 0
    return capsys.readouterr().out.strip()


def test_a_choice_is_recorded_decided_on_and_proved_by_two_workers_behind_pgbouncer(
    behind: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor"]) == 0
    printed(capsys, "workspace", "create", "acme")
    scopes = [option for scope in ("check", "consents:write", "ledger:read") for option in ("--scope", scope)]
    secret = printed(capsys, "credentials", "issue", "--workspace", "acme", "--component", "shop", *scopes)
    question = {"data_subject": {"id": "cus_1"}, "action": "send", "purpose": "newsletter", "channel": "email"}

    with serving("--workers", "2") as http:
        http.headers["authorization"] = f"Bearer {secret}"
        for kind, decision in (("grant", "permit"), ("withdraw", "deny")):
            event = {"kind": kind, "purpose": "newsletter", **({"notice": "newsletter@1"} if kind == "grant" else {})}
            choice = {
                "data_subject": {"id": "cus_1"}, "events": [event], "actor": {"type": "data_subject"},
                "method": "web_form", "surface": "https://shop.example",
            }  # fmt: skip
            recorded = http.post("/v1/consents", json=choice, headers={"idempotency-key": kind, "prefer": "wait=5"})
            assert recorded.status_code == 201, recorded.text
            again = http.post("/v1/consents", json=choice, headers={"idempotency-key": kind})
            assert again.json()["entries"][0]["entry"] == recorded.json()["entries"][0]["entry"]
            for _ in range(20):  # whichever worker and session it is
                assert http.post("/v1/check", json=question).json()["decision"] == decision
            entry = recorded.json()["entries"][0]["entry"]
            assert http.get(f"/v1/ledger/entries/{entry}/proof").status_code == 200

    assert run(["audit", "verify"]) == 0
    assert run(["audit", "rebuild"]) == 0


def test_doctor_names_a_pooler_that_the_settings_do_not(
    behind: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VOLENTI_DATABASE_POOLER")
    monkeypatch.setenv("VOLENTI_DATABASE_URL", os.environ["VOLENTI_DATABASE_URL"].replace("_service", "_app"))

    assert run(["doctor"]) == 1
    fix = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FIX")]
    assert len(fix) == 1
    assert "VOLENTI_DATABASE_POOLER=transaction" in fix[0]


def test_migrate_through_the_pooler_changes_nothing_and_says_where_to_go(
    behind: None, pooler: Pooler, capsys: pytest.CaptureFixture[str]
) -> None:
    url = pooler.url("volenti_migrate").replace("@", ":s%2Fcr%40t@", 1)

    assert run(["migrate", "--migrate-database-url", url]) == 2
    assert "an address that goes past it" in capsys.readouterr().err
