"""The pages that people follow by hand, the README and the guides in docs/, are executed as they stand.

In a block with the info string `console` a line that begins with `$ ` is a command, lines that begin with `> ` go on
with it, and every other line is a fragment that the output must contain. Commands share their variables. A block with a
title is a file that the commands after it find in their folder.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shipped_profiles import SHIPPED
from volenti.core.policy.lint import lint

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0
COMMAND_SECONDS = 60.0
STOP_SECONDS = 60.0

_BLOCK = re.compile(r"^```(\S+)(?: title=\"([\w.]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PROMISE = re.compile(r"^\| P\d+ \|.*\|(.*)\|$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


@dataclass
class Command:
    """A command, and what its output must contain."""

    text: str
    fragments: list[str] = field(default_factory=list)


@dataclass
class File:
    """A file that the page tells its reader to write."""

    name: str
    text: str


@dataclass
class Demo:
    """A service that was started as the page says, and a folder for the commands."""

    folder: Path
    environment: dict[str, str]
    first_question: str
    """The curl line that the service printed."""

    def run(self, command: str) -> str:
        """Run a command after those before it, with their variables. Fails unless it exits with 0."""
        known = self.folder / ".variables"
        script = f'. "{known}"\nset -a\n{command}\nstatus=$?\nexport -p > "{known}"\nexit "$status"\n'
        known.touch()
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            pytest.fail(f"exit code {done.returncode}\n$ {command}\n{done.stdout}", pytrace=False)
        return done.stdout


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """`volenti serve --demo` in a folder of its own, stopped at the end."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed; the documented commands need it")
    programs = Path(sys.executable).parent
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("VOLENTI_") or name == "VOLENTI_PG_BIN"  # which PostgreSQL it is stays
    }
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    with tempfile.TemporaryDirectory(prefix="volenti-readme-") as name:
        folder = Path(name)
        output, errors = folder / "output", folder / "errors"
        with output.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(
                [programs / "volenti", "serve", "--demo", "--port", "0"],
                cwd=folder,
                env=environment,
                stdout=out,
                stderr=err,
            )
        try:
            printed = _printed(process, output, errors)
            url = re.findall(r"^Volenti on (\S+)$", printed, re.MULTILINE)[0]
            credential = re.findall(r"^  credential +(\S+)$", printed, re.MULTILINE)[0]
            question = re.findall(r"^  (curl .*)$", printed, re.MULTILINE)[0]
            _await_ready(process, url, errors)
            yield Demo(folder, environment | {"URL": url, "CREDENTIAL": credential}, question)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.returncode == 0, f"the service stopped with {process.returncode}"


def _printed(process: subprocess.Popen[bytes], output: Path, errors: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        text = output.read_text()
        if re.search(r"^  curl .*\n", text, re.MULTILINE):
            return text
        time.sleep(0.05)
    raise AssertionError(f"the service printed no question in time: {output.read_text()}{errors.read_text()}")


def _await_ready(process: subprocess.Popen[bytes], url: str, errors: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise AssertionError(f"the service did not become ready: {errors.read_text()}")


def steps_of(page: str) -> Iterator[File | Command]:
    """What a page has its reader do, in order: write its titled blocks, and type its console blocks."""
    for kind, title, block in _BLOCK.findall(page):
        if title:
            yield File(title, block)
        elif kind == "console":
            yield from _commands(block)


def _commands(block: str) -> list[Command]:
    commands: list[Command] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            commands.append(Command(line[2:]))
        elif line.startswith("> ") or (commands and not commands[-1].fragments and _goes_on(commands[-1].text)):
            commands[-1].text += "\n" + line.removeprefix("> ")
        elif line.strip():
            commands[-1].fragments.append(line.strip())
    return commands


def _goes_on(text: str) -> bool:
    return text.endswith("\\")


@pytest.mark.slow
def test_the_line_that_the_demo_prints_answers_permit(demo: Demo) -> None:
    assert '"decision":"permit"' in demo.run(demo.first_question)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/audit.md", "docs/check-guide.md", "docs/policy-guide.md"])
def test_a_page_that_is_followed_by_hand_does_what_it_says(demo: Demo, name: str) -> None:
    steps = [*steps_of((ROOT / name).read_text(encoding="utf-8"))]
    assert len(steps) > 3
    for step in steps:
        if isinstance(step, File):
            (demo.folder / step.name).write_text(step.text, encoding="utf-8")
            continue
        output = demo.run(step.text)
        missing = [fragment for fragment in step.fragments if fragment not in output]
        if missing:
            pytest.fail(f"{name}: the output lacks {missing}\n$ {step.text}\n{output}", pytrace=False)


def test_each_promise_of_the_readme_names_tests_that_exist() -> None:
    rows = _PROMISE.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    named = [re.findall(r"`(tests/[\w./]+)(?:::(\w+))?`", row) for row in rows]
    assert rows
    assert all(named), "a promise names no test"

    for path, function in (one for row in named for one in row):
        assert (ROOT / path).is_file(), f"README.md names {path}, which does not exist"
        if function:
            assert f"def {function}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path} has no {function}"


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
    ],
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    path = ROOT / page
    links = [
        link
        for link in _LINK.findall(path.read_text(encoding="utf-8"))
        if "://" not in link and not link.startswith("mailto:")
    ]

    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_policy_that_the_reference_shows_can_be_published() -> None:
    page = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
    shown = [block for kind, _, block in _BLOCK.findall(page) if kind == "yaml"]

    assert [lint(text, SHIPPED).findings for text in shown] == [()]
