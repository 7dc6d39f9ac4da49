"""The repository itself: locks, packages and files say what the house rules promise."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_holds_versions_and_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text()

    assert not re.search(r"://|--(extra-)?index-url|--find-links", text)
    for requirement in re.split(r"\n(?=\S)", text.strip()):
        assert re.match(r"[a-z0-9._-]+(\[[a-z0-9,._-]+\])?==", requirement), requirement.splitlines()[0]
        assert "--hash=sha256:" in requirement


def test_every_dependency_of_the_project_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["embedded"]]
    names = {re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-") for requirement in wanted}  # type: ignore[index]
    locked = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements" / "run.txt").read_text(), re.MULTILINE))

    assert names <= locked


@pytest.mark.slow
def test_a_wheel_made_from_the_source_distribution_holds_migrations_and_the_api_document(tmp_path: Path) -> None:
    build = "from hatchling import build; import sys; print(getattr(build, sys.argv[1])(sys.argv[2]))"

    def made(kind: str, source: Path) -> Path:
        done = subprocess.run(
            [sys.executable, "-c", build, kind, str(tmp_path)], cwd=source, check=True, capture_output=True, text=True
        )
        return tmp_path / done.stdout.split()[-1]

    with tarfile.open(made("build_sdist", ROOT)) as archive:
        archive.extractall(tmp_path, filter="data")
        (source,) = [tmp_path / name for name in {member.split("/")[0] for member in archive.getnames()}]
    names = zipfile.ZipFile(made("build_wheel", source)).namelist()

    for expected in (
        "migrations/0001_ledger.sql",
        "migrations/bootstrap.sql",
        "migrations/MANIFEST.sha256",
        "openapi/openapi.json",
        "jurisdictions/2026.11.yaml",
    ):
        assert f"volenti/_data/{expected}" in names
