"""`volenti serve --test-clock`: time stands until it is moved, so that expiry is tested without waiting."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments import serving
from volenti.cli.main import run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("bare_environment")]

QUESTION = {"data_subject": {"id": "cus_1"}, "action": "send", "purpose": "newsletter", "channel": "email"}


def credential(data: Path, capsys: pytest.CaptureFixture[str], *scopes: str) -> dict[str, str]:
    run(["workspace", "create", "acme", "--data-dir", str(data)])
    options = [option for scope in scopes for option in ("--scope", scope)]
    capsys.readouterr()
    issue = ["credentials", "issue", "--workspace", "acme", "--component", "tests", *options, "--data-dir", str(data)]
    assert run(issue) == 0
    return {"authorization": f"Bearer {capsys.readouterr().out.strip()}"}


def move(http: httpx.Client, headers: dict[str, str], now: str) -> httpx.Response:
    return http.post("/v1/test/clock", json={"now": now}, headers=headers)


def check(http: httpx.Client, headers: dict[str, str]) -> dict[str, Any]:
    answer: dict[str, Any] = http.post("/v1/check", json=QUESTION, headers=headers).json()
    return answer


def test_a_consent_expires_when_the_clock_is_moved_and_the_clock_only_moves_forward(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    with serving("--data-dir", str(data), "--test-clock", "2026-07-01T12:00:00Z") as http:
        headers = credential(data, capsys, "check", "consents:write", "consents:read", "admin")
        grant = {"kind": "grant", "purpose": "newsletter", "notice": "newsletter@1", "valid_until": "2026-08-01T00:00:00Z"}  # fmt: skip
        body = {"data_subject": {"id": "cus_1"}, "events": [grant], "actor": {"type": "data_subject"}, "method": "web_form", "surface": "x"}  # fmt: skip
        assert http.post("/v1/consents", json=body, headers=headers).status_code == 201
        permitted = check(http, headers)
        assert (permitted["decision"], permitted["evaluated_at"]) == ("permit", "2026-07-01T12:00:00.000Z")
        assert check(http, headers)["evaluated_at"] == permitted["evaluated_at"]  # it stands

        moved = move(http, headers, "2026-07-31T23:59:59.999Z")
        assert moved.json() == {"now": "2026-07-31T23:59:59.999Z"}
        last = check(http, headers)
        assert (last["decision"], last["valid_until"]) == ("permit", "2026-08-01T00:00:00.000Z")

        assert move(http, headers, "2026-08-01T00:00:00Z").status_code == 200
        assert check(http, headers)["reason"] == "consent.expired"

        for earlier in ("2026-07-31T23:59:59.999Z", "0001-01-01T00:00:00Z"):
            refused = move(http, headers, earlier)
            assert refused.status_code == 409
            assert refused.json()["errors"][0]["pointer"] == "#/now"
        for broken in ("9999-12-31T23:59:59-12:00", "tomorrow", "2026-09-01T00:00:00"):
            refused = move(http, headers, broken)
            assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "#/now")
        assert check(http, headers)["evaluated_at"] == "2026-08-01T00:00:00.000Z"

        unprivileged = credential(data, capsys, "check")
        assert move(http, unprivileged, "2027-01-01T00:00:00Z").status_code == 403

    # it stands where it was left, also for commands and the next start, and cannot be stood a second time
    assert run(["audit", "verify", "--data-dir", str(data)]) == 0
    assert run(["audit", "rebuild", "--data-dir", str(data)]) == 0
    assert run(["serve", "--test-clock", "2026-07-01T12:00:00Z", "--data-dir", str(data)]) == 2
    capsys.readouterr()
    with serving("--data-dir", str(data)) as http:
        assert check(http, headers)["evaluated_at"] == "2026-08-01T00:00:00.000Z"
        assert move(http, headers, "2027-01-01T00:00:00Z").status_code == 200


def test_a_service_on_the_wall_clock_has_no_clock_to_move(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    with serving("--data-dir", str(data)) as http:
        headers = credential(data, capsys, "admin")
        answer = move(http, headers, "2099-01-01T00:00:00Z")
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert run(["serve", "--test-clock", "2026-07-01T12:00:00Z", "--data-dir", str(data)]) == 2
    assert "has data already" in capsys.readouterr().err


def test_the_production_profile_refuses_a_standing_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VOLENTI_PROFILE", "production")
    assert run(["serve", "--test-clock", "2026-07-01T12:00:00Z", "--data-dir", str(tmp_path / "data")]) == 2
    assert "production" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_the_service_tells_of_its_start_in_json(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "volenti", "serve", "--port", "0", "--data-dir", str(tmp_path / "data")]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as service:
        try:
            assert service.stderr is not None
            line = next(line for line in service.stderr if '"serving"' in line)
            assert json.loads(line)["host"] == "127.0.0.1"
            service.send_signal(signal.SIGTERM)
            assert service.wait(20) == 0
            assert '"stopped"' in service.stderr.read()
        finally:
            service.kill()
