"""The command line: every command helps, says in one sentence what is wrong, and ends with the code that API.md names."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import rich_click as click

from deployments import with_keys_bound
from object_store import forget_the_cloud
from volenti.cli.main import run, volenti
from volenti.core.policy.starter import starter_policy
from volenti.keys.credential import PATTERN
from volenti.keys.keyring import create_file
from volenti.store.embedded import Embedded

_numbers = itertools.count()
NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"

pytestmark = pytest.mark.usefixtures("bare_folder")


@pytest.fixture(scope="module")
def server() -> Iterator[Embedded]:
    """A deployment of this module's own: its commands look at everything in it."""
    with with_keys_bound() as running:
        yield running


@pytest.fixture(scope="module")
def data(server: Embedded) -> str:
    """A data directory on which a database runs: commands join it."""
    return str(server.data_dir)


@pytest.fixture
def workspace(data: str, capsys: pytest.CaptureFixture[str]) -> str:
    name = f"cli-{os.getpid()}-{next(_numbers)}"
    assert run(["workspace", "create", name, "--data-dir", data]) == 0
    capsys.readouterr()
    return name


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands(volenti))
LEAVES = {path: command for path, command in ALL.items() if not isinstance(command, click.Group)}


# ---- help


@pytest.mark.parametrize("path", [(), *ALL], ids=" ".join)
def test_every_command_helps(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        assert run([*path, flag]) == 0
        shown = capsys.readouterr()
        assert "Usage" in shown.out
        assert shown.err == ""


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_and_option_is_described(path: tuple[str, ...]) -> None:
    assert LEAVES[path].help
    for parameter in LEAVES[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("path", [path for path in LEAVES if path not in {("policy", "init"), ("policy", "lint")}], ids=" ".join)  # fmt: skip
def test_every_command_that_needs_a_deployment_says_where_it_is(path: tuple[str, ...]) -> None:
    assert {"data_dir", "database_url"} <= {parameter.name for parameter in LEAVES[path].params}


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert re.fullmatch(r"volenti \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


# ---- exit 2: wrong use


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["workspace"],
        ["workspace", "create"],
        ["workspace", "list", "--nonsense"],
        ["workspace", "list", "extra"],
        ["workspace", "create", "w", "--policy", "policy.yaml", "--controller", "Acme"],
        ["serve", "--port", "many"],
        ["serve", "--port", "70000"],
        ["serve", "--workers", "0"],
        ["serve", "--test-clock", "yesterday"],
        ["serve", "--test-clock", "2026-07-01T12:00:00"],
        ["serve", "--test-clock", "0001-01-01T00:00:00+12:00"],
        ["serve", "--test-clock", "2026-07-01T12:00:00Z", "--workers", "2"],
        ["serve", "--test-clock", "2026-07-01T12:00:00Z", "--database-url", NOWHERE],
        ["policy", "publish", "policy.yaml", "--workspace", "w", "--activate-at", "2026-07-01T12:00:00"],
        ["policy", "activate", "one", "--workspace", "w"],
        ["policy", "activate", "0", "--workspace", "w"],
        ["policy", "activate", "1", "--workspace", "w", "--at", "tomorrow"],
        ["audit", "verify", "--tiles", "nowhere"],
        ["audit", "verify", "--tiles", "nowhere", "--key", "nonsense"],
        ["audit", "verify", "--tiles", "nowhere", "--key", "a", "--trust", "b"],
        ["import", "file.csv", "--workspace", "w"],
        ["import", "file.csv", "--workspace", "w", "--format", "xml"],
        ["import", "file.csv", "--workspace", "w", "--format", "transcend", "--map", "Marketing"],
        ["import", "file.csv", "--workspace", "w", "--format", "native", "--map", "a=b"],
        ["credentials", "issue", "--workspace", "w", "--component", "c"],
        ["credentials", "issue", "--workspace", "w", "--component", "c", "--scope", "check", "--expires", "soon"],
        ["credentials", "issue", "--workspace", "w", "--component", "c", "--scope", "check", "--expires", "2027-01-01T00:00:00"],
        ["doctor"],
        ["workspace", "list"],
        ["audit", "verify"],
        ["audit", "rebuild"],
        ["migrate", "--plan"],
        ["keys", "list"],
        ["workspace", "list", "--database-url", "nonsense"],
        ["workspace", "list", "--database-url", "mysql://localhost/volenti"],
        ["migrate", "--database-url", "nonsense"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_use_ends_with_2_and_a_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.strip() or "Usage" in shown.out
    assert "Traceback" not in shown.err
    assert not any(Path().iterdir())  # nothing was made


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PORT", "many"), ("WORKERS", "0"), ("PROFILE", "desktop"), ("LOG_LEVEL", "loud"), ("ORIGIN", "a b"), ("SETTINGS", "missing.toml"), ("DATABASE_URL", "mysql://ana:secret@localhost"), ("JOURNAL", "s3://bucket/journal"), ("S3_ENDPOINT", "minio:9000")],
)  # fmt: skip
def test_a_setting_that_does_not_fit_is_named_and_its_value_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str
) -> None:
    monkeypatch.setenv(f"VOLENTI_{variable}", value)
    assert run(["workspace", "list"]) == 2
    shown = capsys.readouterr().err
    assert variable.lower() in shown
    assert value not in shown or variable == "SETTINGS"


def test_the_production_profile_never_starts_a_database_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VOLENTI_PROFILE", "production")
    assert run(["serve"]) == 2
    assert "VOLENTI_DATABASE_URL" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="there is no /dev/shm here")
@pytest.mark.parametrize("name", ["anchor", "journal"])
def test_production_does_not_serve_with_a_folder_that_goes_away(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"VOLENTI_ANCHOR": "s3://bucket", "VOLENTI_JOURNAL": "off", f"VOLENTI_{name.upper()}": "/dev/shm/volenti"}
    for variable, value in places.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("VOLENTI_PROFILE", "production")
    assert run(["serve", "--database-url", "postgresql://nobody@127.0.0.1:1/nowhere"]) == 2
    assert f"the {name} goes away with the machine's memory" in capsys.readouterr().err
    assert not os.path.exists("/dev/shm/volenti")


# ---- exit 3: cannot be reached


@pytest.mark.parametrize(
    "arguments",
    [
        ["workspace", "list"],
        ["workspace", "create", "acme"],
        ["credentials", "list", "--workspace", "acme"],
        ["credentials", "issue", "--workspace", "acme", "--component", "c", "--scope", "check"],
        ["audit", "verify"],
        ["audit", "rebuild"],
        ["doctor"],
        ["serve", "--port", "0"],
        ["migrate"],
        ["migrate", "--plan"],
        ["migrate", "--bootstrap"],
    ],
    ids=" ".join,
)
def test_a_database_that_is_not_there_ends_with_3(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    create_file(Path("keys.json"), os.urandom)
    monkeypatch.setenv("VOLENTI_KEY_FILE", "keys.json")
    assert run([*arguments, "--database-url", NOWHERE]) == 3
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert (shown.err + shown.out).strip()


@pytest.mark.parametrize("arguments", [["policy", "lint", "missing.yaml"], ["import", "missing.csv", "--workspace", "w", "--format", "transcend"], ["audit", "verify", "--tiles", ".", "--trust", "missing"]], ids=" ".join)  # fmt: skip
def test_a_file_that_is_not_there_ends_with_3(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 3
    assert "missing" in capsys.readouterr().err


# ---- exit 1: a negative answer


def test_a_workspace_is_created_once(data: str, workspace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["workspace", "create", workspace, "--data-dir", data]) == 1
    assert workspace in capsys.readouterr().err
    assert run(["workspace", "list", "--data-dir", data]) == 0
    assert capsys.readouterr().out.count(f"{workspace} ") == 1


def test_a_workspace_begins_with_the_policy_that_is_given(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, file = f"own-{os.getpid()}-{next(_numbers)}", tmp_path / "policy.yaml"
    file.write_text("controller: {name: Acme GmbH}\nlanguages: [en]\npurposes: {}\n", encoding="utf-8")
    create = ["workspace", "create", name, "--policy", str(file), "--data-dir", data]
    assert run(create) == 1
    assert f"{file}:3: error: must not be empty (/purposes)" in capsys.readouterr().out

    own = "controller: {name: Acme GmbH}\nlanguages: [en]\npurposes:\n  security: {actions: [use], basis: {default: legal_obligation}}\n"
    file.write_text(own, encoding="utf-8")
    assert run(create) == 0  # the refused attempt left no workspace
    assert run(["policy", "publish", str(file), "--workspace", name, "--data-dir", data]) == 0
    said = capsys.readouterr()
    assert "version 1 " in said.out
    assert "nothing was recorded" in said.err  # it is in force already, and no starter policy came before it


@pytest.mark.parametrize("name", ["", "Acme", "a_b", "a b", "ä", "a" * 41, "a\n"])
def test_a_workspace_name_that_does_not_fit_ends_with_2(data: str, name: str) -> None:
    assert run(["workspace", "create", name, "--data-dir", data]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["credentials", "list", "--workspace", "nobody"],
        ["credentials", "issue", "--workspace", "nobody", "--component", "c", "--scope", "check"],
        ["credentials", "revoke", "0198b1c4-0000-7000-8000-000000000000", "--workspace", "nobody"],
        ["audit", "export", "--workspace", "nobody", "--output", "out"],
    ],
    ids=" ".join,
)
def test_a_workspace_that_does_not_exist_ends_with_1(
    data: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--data-dir", data]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("volenti: ")


# ---- credentials


def issued(data: str, workspace: str, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[str, str]:
    """A new credential: its id and its secret."""
    arguments = ["credentials", "issue", "--workspace", workspace, "--component", "mailer", "--scope", "check", *more]
    assert run([*arguments, "--data-dir", data]) == 0
    shown = capsys.readouterr()
    assert re.fullmatch(PATTERN + "\n", shown.out)
    return shown.err.split()[1], shown.out.strip()


def listed(data: str, workspace: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["credentials", "list", "--workspace", workspace, "--data-dir", data]) == 0
    return capsys.readouterr().out


def test_the_secret_stands_alone_on_standard_output_and_is_never_shown_again(
    data: str, workspace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    credential, secret = issued(data, workspace, capsys)
    assert listed(data, workspace, capsys) == f"{credential}  mailer  live  check\n"
    rotated = run(["credentials", "rotate", credential, "--workspace", workspace, "--data-dir", data])
    shown = capsys.readouterr()
    assert rotated == 0
    assert re.fullmatch(PATTERN + "\n", shown.out)
    assert shown.out.strip() != secret
    assert secret not in shown.err


def test_a_credential_is_revoked_once(data: str, workspace: str, capsys: pytest.CaptureFixture[str]) -> None:
    credential, _ = issued(data, workspace, capsys, "--expires", "2020-01-01T00:00:00Z")
    assert "expired" in listed(data, workspace, capsys)
    revoke = ["credentials", "revoke", credential, "--workspace", workspace, "--data-dir", data]
    assert [run(revoke), run(revoke)] == [0, 1]
    capsys.readouterr()
    assert "revoked" in listed(data, workspace, capsys)
    assert run(["credentials", "rotate", credential, "--workspace", workspace, "--data-dir", data]) == 1
    assert run(["credentials", "revoke", "nonsense", "--workspace", workspace, "--data-dir", data]) == 2


@pytest.mark.parametrize("more", [["--scope", "everything"], ["--scope", "check", "--action", "fly"], ["--scope", "check", "--component", ""], ["--scope", "check", "--component", "é"], ["--scope", "check", "--expires", "0001-01-01T00:00:00+12:00"]], ids=" ".join)  # fmt: skip
def test_a_credential_that_makes_no_sense_is_not_issued(
    data: str, workspace: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["credentials", "issue", "--workspace", workspace, "--component", "mailer", *more, "--data-dir", data]
    assert run(arguments) == 2
    capsys.readouterr()
    assert listed(data, workspace, capsys) == ""


# ---- the policy


def test_a_policy_goes_from_a_file_into_force(
    data: str, workspace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "policy.yaml"
    assert run(["policy", "init", str(file), "--controller", "Müller & Söhne"]) == 0
    assert run(["policy", "init", str(file)]) == 1
    assert run(["policy", "lint", str(file)]) == 0
    capsys.readouterr()
    publish = ["policy", "publish", str(file), "--workspace", workspace, "--data-dir", data]
    assert run(publish) == 0
    assert capsys.readouterr().out.startswith("version 2  sha256:")


def test_a_policy_waits_for_its_day_and_an_older_one_comes_back(
    data: str, workspace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "policy.yaml"
    assert run(["policy", "init", str(file), "--controller", "Acme GmbH"]) == 0
    place = ["--workspace", workspace, "--data-dir", data]
    capsys.readouterr()
    for _ in range(2):  # the second one says what is so already
        assert run(["policy", "publish", str(file), *place, "--activate-at", "2999-01-01T01:00:00+01:00"]) == 0
        printed = capsys.readouterr()
        assert printed.out.startswith("version 2  sha256:")
        assert printed.out.endswith("in force from 2999-01-01T00:00:00.000Z\n")
    assert "nothing was recorded" in printed.err
    assert run(["policy", "activate", "2", *place]) == 0
    assert run(["policy", "activate", "1", *place, "--at", "2998-01-01T00:00:00Z"]) == 0
    assert capsys.readouterr().out.endswith("in force from 2998-01-01T00:00:00.000Z\n")
    assert run(["audit", "verify", "--data-dir", data]) == 0
    assert run(["audit", "rebuild", "--data-dir", data]) == 0


def test_an_instant_that_has_passed_or_a_version_that_is_not_there_is_a_negative_answer(
    data: str, workspace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(starter_policy("Acme GmbH"))
    place = ["--workspace", workspace, "--data-dir", data]
    for arguments in (
        ["publish", str(file), "--activate-at", "2020-01-01T00:00:00Z"],
        ["activate", "1", "--at", "2020-01-01T00:00:00Z"],
        ["activate", "7"],
    ):
        assert run(["policy", *arguments, *place]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err


@pytest.mark.parametrize("damage", ["", "- 1", "controller: [", "purposes: {}", "\t"])
def test_a_policy_with_errors_is_not_published_and_each_has_its_line(
    data: str, workspace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(damage)
    assert run(["policy", "lint", str(file)]) == 1
    assert re.match(rf"{re.escape(str(file))}:\d+: error: ", capsys.readouterr().out)
    assert run(["policy", "publish", str(file), "--workspace", workspace, "--data-dir", data]) == 1


def test_a_file_that_is_no_text_or_too_long_is_no_policy(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_bytes(b"\xff\xfe")
    assert run(["policy", "lint", str(file)]) == 2
    file.write_bytes(b"#" * (1 << 20) + b"##")
    assert run(["policy", "lint", str(file)]) == 2


# ---- keys


def test_a_key_file_is_made_for_its_owner_only_and_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ring.json"
    assert run(["keys", "init", "--file", str(file)]) == 0
    made = file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    assert run(["keys", "init", "--file", str(file)]) == 1
    assert file.read_bytes() == made
    capsys.readouterr()
    assert run(["keys", "list", "--file", str(file)]) == 0
    shown = capsys.readouterr().out
    secrets = re.findall(rb'"([A-Za-z0-9+/=_-]{40,})"', made)
    assert secrets
    assert not any(secret.decode() in shown for secret in secrets)


def test_the_keys_of_another_deployment_are_refused_with_a_sentence(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other, broken = tmp_path / "other.json", tmp_path / "broken.json"
    create_file(other, os.urandom)
    broken.write_text("{}")
    broken.chmod(0o600)
    for file, sentence in ((other, "another key file"), (broken, "key file"), (tmp_path / "none.json", "none.json")):
        monkeypatch.setenv("VOLENTI_KEY_FILE", str(file))
        for command in (["workspace", "list"], ["audit", "rebuild"]):
            assert run([*command, "--data-dir", data]) == 2
            shown = capsys.readouterr()
            assert sentence in shown.err
            assert shown.out == ""
    assert not (tmp_path / "none.json").exists()


# ---- proof


def test_the_ledger_verifies_and_refolds(data: str, workspace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", "verify", "--json", "--data-dir", data]) == 0
    reports = json.loads(capsys.readouterr().out)
    ours = next(report for report in reports if report["origin"].endswith(f"/{workspace}"))
    assert (ours["findings"], ours["size"]) == ([], ours["signed_size"])
    assert run(["audit", "rebuild", "--data-dir", data]) == 0
    assert f"{workspace}: " in capsys.readouterr().out


def test_a_flipped_byte_in_exported_tiles_is_found_and_named(
    data: str, workspace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "log"
    for _ in range(3):
        issued(data, workspace, capsys)
    export = ["audit", "export", "--workspace", workspace, "--output", str(out), "--data-dir", data]
    assert run(export) == 0
    key = capsys.readouterr().out.strip()
    verify = ["audit", "verify", "--tiles", str(out), "--key", key]
    assert run(verify) == 0
    assert run(export) == 1  # into a folder that holds something
    for file in [path for path in out.rglob("*") if path.is_file()]:
        whole = file.read_bytes()
        file.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
        capsys.readouterr()
        assert run(verify) == 1, file.name
        said = capsys.readouterr().out
        assert file.relative_to(out).as_posix() in said or re.search(r"entry \d: ", said), said
        file.write_bytes(whole)
        file.rename(file.with_suffix(".gone"))
        assert run(verify) == (2 if file.name == "checkpoint" else 1), file.name
        file.with_suffix(".gone").rename(file)
    assert run(verify) == 0


# ---- beside a running service


@pytest.mark.slow
def test_commands_work_while_a_service_runs_on_the_same_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    environment = {**os.environ, "VOLENTI_LOG_LEVEL": "error"}
    arguments = [sys.executable, "-m", "volenti", "serve", "--port", "0", "--data-dir", str(data)]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment) as service:
        try:
            assert service.stderr is not None
            base = next(found[1] for line in service.stderr if (found := re.search(r"Volenti on (http://\S+)", line)))
            for command, code in ((["workspace", "create", "acme"], 0), (["workspace", "create", "acme"], 1)):
                assert run([*command, "--data-dir", str(data)]) == code
            capsys.readouterr()
            credential, secret = issued(str(data), "acme", capsys)
            question = b'{"data_subject": {"id": "x"}, "action": "use", "purpose": "analytics"}'
            assert _check(base, secret, question)["reason"] == "consent.missing"
            for command in (["audit", "verify"], ["audit", "rebuild"], ["doctor"]):
                assert run([*command, "--data-dir", str(data)]) == 0
            shown = capsys.readouterr().out
            assert shown.count("FIX ") == 0
            assert _check(base, secret, question)["decision"] == "deny"  # the commands did not stop what they joined
            assert run(["credentials", "revoke", credential, "--workspace", "acme", "--data-dir", str(data)]) == 0
            service.send_signal(signal.SIGTERM)
            assert service.wait(20) == 0
        finally:
            service.kill()
    assert run(["workspace", "list", "--data-dir", str(data)]) == 0  # and the data is there without it
    assert "acme" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("workspace")
def test_a_service_that_cannot_read_its_anchor_ends_with_3_and_says_so(
    data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_the_cloud(monkeypatch)
    places = {"VOLENTI_ANCHOR": "s3://bucket/anchor", "VOLENTI_S3_ENDPOINT": "http://127.0.0.1:1"}
    arguments = [sys.executable, "-m", "volenti", "serve", "--port", "0", "--data-dir", data]
    environment = {**os.environ, **places}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == "volenti: the anchor cannot be read (EndpointConnectionError)"
    assert "Traceback" not in done.stderr


def test_what_was_recovered_is_told_and_so_is_what_was_not(
    data: str, workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = f"{workspace}-other"
    assert run(["workspace", "create", other, "--data-dir", data]) == 0
    capsys.readouterr()
    with monkeypatch.context() as lost:
        lost.setenv("VOLENTI_ANCHOR", str(tmp_path / "lost"))
        assert run(["recover", "--accept-head", workspace, "--data-dir", data]) == 2
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{workspace}: head_accepted; localhost/{workspace} goes on")
    assert f"volenti: {other}: nothing is anchored for localhost/{other}" in shown.err

    assert run(["recover", "--data-dir", data]) == 0
    assert "nothing to do" in capsys.readouterr().err  # what was not recovered was not frozen either


def _check(base: str, secret: str, question: bytes) -> dict[str, object]:
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    request = urllib.request.Request(f"{base}/v1/check", question, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        body: dict[str, object] = json.load(answer)
        return body


def test_the_starter_policy_of_a_workspace_is_the_one_of_policy_init(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    assert run(["policy", "init", str(file), "--controller", "Acme GmbH"]) == 0
    assert file.read_text(encoding="utf-8") == starter_policy("Acme GmbH")
