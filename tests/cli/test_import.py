"""`volenti import`: a file's choices as ordinary entries, once, with a report of everything that was not carried over."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from deployments import services_on, with_keys_bound
from volenti.cli.main import run
from volenti.core.data_subject import Identifier
from volenti.core.decision import Permit, Question
from volenti.core.policy.document import Action, Channel
from volenti.core.policy.starter import starter_policy
from volenti.flows.check_policy import Asked, Checked, check
from volenti.flows.create_workspace import by_name
from volenti.flows.find_data_subject import find
from volenti.flows.read_data_subject import history
from volenti.flows.services import Services
from volenti.store import ledger
from volenti.store.embedded import Embedded

T = TypeVar("T")
_numbers = itertools.count()

HEADER = "identifier,timestamp,Sales,Marketing,SalesCommunications,MarketingCommunications"
LIKE_TRANSCEND = f"""{HEADER}
ana@example.org,2025-03-21 10:49:21.192000000 -07:00,true,true,"EmailOutreach","ProductNewsletter,EventsNewsletter"
ben@example.org,2025-03-21 10:49:21.192000000 -07:00,true,false,"EmailOutreach",
eva@example.org,2025-03-21 11:49:21.192000000 -07:00,false,true,,"ProductNewsletter,EventsNewsletter"
kim@example.org,2025-03-21 10:49:21.192000000 -07:00,false,false,,
"""
MAPPED = ["--format", "transcend", "--map", "Sales=advertising", "--map", "Marketing=newsletter"]
SAID = {"ana": (True, True), "ben": (True, False), "eva": (False, True), "kim": (False, False)}
"""Of the file: whether advertising and newsletter are permitted."""
REAL = Path(__file__).parents[3] / "shared" / "data" / "peers" / "transcend-preferences.csv"


class House:
    """One workspace of a data directory on which a database runs, and files to import into it."""

    def __init__(self, server: Embedded, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.server, self.folder, self.capsys = server, folder, capsys
        self.name = f"import-{os.getpid()}-{next(_numbers)}"
        policy = folder / "policy.yaml"  # without the law of each place: it lets grants as old as these expire
        policy.write_text(starter_policy("Acme GmbH").replace('\njurisdictions: "2026.11"', ""))
        create = ["workspace", "create", self.name, "--policy", str(policy), "--data-dir", str(server.data_dir)]
        assert run(create) == 0

    def imports(self, content: str | bytes | Path, *options: str) -> tuple[int, str]:
        """Import a file; returns the exit code and what was printed."""
        file = content if isinstance(content, Path) else self.folder / "file"
        if isinstance(content, str | bytes):
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        self.capsys.readouterr()
        code = run(["import", str(file), "--workspace", self.name, *options, "--data-dir", str(self.server.data_dir)])
        shown = self.capsys.readouterr()
        return code, shown.out + shown.err

    def report(self, content: str | bytes | Path, *options: str) -> dict[str, Any]:
        _, printed = self.imports(content, *options, "--json")
        assert printed.startswith("{"), printed
        report: dict[str, Any] = json.loads(printed)
        return report

    def within(self, work: Callable[[Services, Any], Coroutine[Any, Any, T]]) -> T:
        async def opening() -> T:
            async with services_on(self.server) as services:
                return await work(services, await by_name(services, self.name))

        return asyncio.run(opening())

    def size(self) -> int:
        async def look(services: Services, workspace: Any) -> int:
            async with services.database.workspace("volenti_app", workspace) as connection:
                return (await ledger.head(connection, workspace)).size

        return self.within(look)

    def permits(self, *emails: str, channel: Channel | None = Channel.EMAIL) -> list[tuple[bool, bool]]:
        """For each address: may its data be shared for advertising, and may the newsletter be sent."""

        async def ask(services: Services, workspace: Any) -> list[tuple[bool, bool]]:
            questions = (
                Question(action=Action.SHARE, purpose="advertising"),
                Question(action=Action.SEND, purpose="newsletter", channel=channel),
            )
            answers = []
            for email in emails:
                who = Identifier("email", email)
                first, second = [
                    isinstance(answered, Checked) and isinstance(answered.decision, Permit)
                    for answered in await check(
                        services, workspace, [Asked(who, one) for one in questions], deadline_ms=5000
                    )
                ]
                answers.append((first, second))
            return answers

        return self.within(ask)


@pytest.fixture(scope="module")
def server() -> Iterator[Embedded]:
    """A deployment of this module's own: its commands look at everything in it."""
    with with_keys_bound() as running:
        yield running


@pytest.fixture
def house(server: Embedded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> House:
    return House(server, tmp_path, capsys)


# ---- Transcend's preference file


def test_checks_answer_as_a_transcend_file_says(house: House) -> None:
    code, printed = house.imports(LIKE_TRANSCEND, *MAPPED)
    assert code == 0, printed
    assert "4 rows: 4 applied (0 of them without effect), 0 there already, 0 skipped" in printed
    assert house.permits(*(f"{name}@example.org" for name in SAID)) == list(SAID.values())


def test_imported_entries_keep_their_date_their_source_and_no_more_proof_than_there_is(house: House) -> None:
    house.imports(LIKE_TRANSCEND, *MAPPED)

    async def look(services: Services, workspace: Any) -> Any:
        found = (await find(services, workspace, (Identifier("email", "ana@example.org"),))).person
        assert found is not None
        return await history(services, workspace, str(found.state.caller_id()))

    past = house.within(look)
    assert [one.kind for one in past] == ["data_subject.updated", "consent.granted", "consent.granted"]
    for one in past[1:]:
        event = one.entry.event
        assert (event.actor, event.occurred_at, event.evidence_grade) == ("import", 1742579361192, 0)
        assert (event.source.system, event.source.row) == ("transcend", "2")


def test_a_second_run_adds_nothing(house: House) -> None:
    house.imports(LIKE_TRANSCEND, *MAPPED)
    before = house.size()
    code, printed = house.imports(LIKE_TRANSCEND, *MAPPED)
    assert (code, house.size()) == (0, before)
    assert "0 applied (0 of them without effect), 4 there already" in printed


def test_a_longer_file_adds_what_is_new(house: House) -> None:
    house.imports(LIKE_TRANSCEND, *MAPPED)
    before = house.size()
    more = LIKE_TRANSCEND + 'new@example.org,2025-03-22 10:00:00 Z,true,"true",,\n'
    report = house.report(more, *MAPPED)
    assert (report["applied"], report["already_there"]) == (1, 4)
    assert house.size() == before + 3


def test_the_order_of_the_rows_does_not_matter_a_second_time(house: House) -> None:
    house.imports(LIKE_TRANSCEND, *MAPPED)
    before = house.size()
    header, *rows = LIKE_TRANSCEND.splitlines()
    house.imports("\n".join([header, *reversed(rows)]), *MAPPED)
    assert house.size() == before


def test_the_rows_of_one_person_end_where_the_newest_says(house: House) -> None:
    rows = [f"ana@example.org,2025-03-{day} 10:00:00 +01:00,{said},{said},," for day, said in ((23, "true"), (21, "false"), (22, "true"), (24, "false"))]  # fmt: skip
    report = house.report("\n".join([HEADER, *rows]), *MAPPED)
    assert report["rows"] == report["applied"] + sum(report["skipped"].values()) == 4
    assert house.permits("ana@example.org") == [(False, False)]


def test_a_dry_run_decides_everything_and_writes_nothing(house: House) -> None:
    before = house.size()
    code, printed = house.imports(LIKE_TRANSCEND, *MAPPED, "--dry-run")
    assert (code, house.size()) == (0, before)
    assert "4 would be applied" in printed
    assert house.permits("ana@example.org") == [(False, False)]


def test_what_a_row_says_beyond_purposes_is_reported_as_lost(house: House) -> None:
    report = house.report(LIKE_TRANSCEND, *MAPPED)
    named = {what.split(":")[0]: count for what, count in report["lost"].items()}
    assert named == {
        "topic EmailOutreach of SalesCommunications": 2,
        "topic ProductNewsletter of MarketingCommunications": 2,
        "topic EventsNewsletter of MarketingCommunications": 2,
    }


def test_a_column_that_is_left_out_on_purpose_is_reported_as_lost(house: House) -> None:
    report = house.report(LIKE_TRANSCEND, "--format", "transcend", "--map", "Sales=-", "--map", "Marketing=newsletter")
    assert report["lost"]["purpose Sales: left out by --map"] == 4
    assert house.permits("ana@example.org", "kim@example.org") == [(False, True), (False, False)]


@pytest.mark.parametrize("options", [["--map", "Marketing=newsletter"], ["--map", "Sales=advertising", "--map", "Marketing=newsletter", "--map", "Nothing=newsletter"], ["--map", "Sales=advertising", "--map", "Marketing=no_such_purpose"]])  # fmt: skip
def test_a_column_that_nobody_mapped_or_mapped_to_nothing_refuses_the_file(house: House, options: list[str]) -> None:
    before = house.size()
    code, printed = house.imports(LIKE_TRANSCEND, "--format", "transcend", *options)
    assert (code, house.size()) == (2, before), printed
    assert "volenti: " in printed


def test_what_a_person_took_back_is_not_given_again_by_a_file(house: House) -> None:
    house.imports(f"{HEADER}\nana@example.org,2025-03-21 10:00:00 Z,false,false,,\n", *MAPPED)
    code, printed = house.imports(f"{HEADER}\nana@example.org,2025-03-22 10:00:00 Z,true,true,,\n", *MAPPED)
    assert code == 1
    assert "row 2: skipped: resubscribe_requires_data_subject_act" in printed
    assert house.permits("ana@example.org") == [(False, False)]


def test_an_address_that_is_none_is_skipped_and_the_others_are_applied(house: House) -> None:
    rows = "".join(f"{who},2025-03-21 10:00:00 Z,true,true,,\n" for who in ("nobody", "", "ana@example.org"))
    code, printed = house.imports(f"{HEADER}\n{rows}", *MAPPED)
    assert code == 1
    assert printed.count("skipped: identifier_invalid") == 2
    assert "nobody" not in printed
    assert house.permits("ana@example.org") == [(True, True)]


def test_a_row_that_says_nothing_changes_nothing(house: House) -> None:
    before = house.size()
    code, printed = house.imports(f"{HEADER}\nana@example.org,2025-03-21 10:00:00 Z,,,,\n", *MAPPED)
    assert (code, house.size()) == (1, before)
    assert "skipped: nothing_said" in printed


BROKEN: dict[str, str | bytes] = {
    "a timestamp without a zone": "eva@example.org,2025-03-21 10:00:00,true,true,,",
    "a timestamp of words": "eva@example.org,yesterday,true,true,,",
    "a day that does not exist": "eva@example.org,2025-02-30 10:00:00 Z,true,true,,",
    "a time before all years": "eva@example.org,0001-01-01 00:00:00 +12:00,true,true,,",
    "a time after all years": "eva@example.org,9999-12-31 23:59:59 -12:00,true,true,,",
    "an offset that is none": "eva@example.org,2025-03-21 10:00:00 +99:99,true,true,,",
    "a cell too few": "eva@example.org,2025-03-21 10:00:00 Z,true",
    "a cell too many": "eva@example.org,2025-03-21 10:00:00 Z,true,true,,,",
    "a quote that is not closed": 'eva@example.org,2025-03-21 10:00:00 Z,"true,true,,',
    "bytes that are no UTF-8": b"ev\xff@example.org,2025-03-21 10:00:00 Z,true,true,,",
    "a line of 70,000 letters": "e" * 70_000 + ",2025-03-21 10:00:00 Z,true,true,,",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_line_that_cannot_be_read_leaves_the_whole_file_unapplied(house: House, name: str) -> None:
    line = BROKEN[name]
    before = house.size()
    content = LIKE_TRANSCEND.encode() + (line if isinstance(line, bytes) else line.encode()) + b"\n"
    code, printed = house.imports(content, *MAPPED)
    assert (code, house.size()) == (1, before), printed
    assert "line 6: " in printed
    assert "cannot be read; nothing was applied" in printed
    assert "eva@" not in printed


@pytest.mark.parametrize("content", [b"", b"\n", b"email,time\n", b"\xff\xfe", b"{}"])
def test_a_file_of_another_kind_is_refused(house: House, content: bytes) -> None:
    before = house.size()
    code, _ = house.imports(content, *MAPPED)
    assert code in (1, 2)
    assert house.size() == before


def test_a_byte_order_mark_of_a_spreadsheet_is_no_part_of_the_first_column(house: House) -> None:
    assert house.imports(b"\xef\xbb\xbf" + LIKE_TRANSCEND.encode(), *MAPPED)[0] == 0


def test_the_real_file_of_transcend_is_answered_as_it_says(house: House) -> None:
    if not REAL.is_file():
        pytest.skip("the file transcend-preferences.csv of the peers' data is not beside this repository")
    code, printed = house.imports(REAL, *MAPPED)
    assert code == 0, printed
    assert house.permits(*(f"test-acme{number}@gmail.com" for number in (1, 2, 3, 4))) == list(SAID.values())
    before = house.size()
    assert house.imports(REAL, *MAPPED)[0] == 0
    assert house.size() == before


# ---- our own lines


def line(person: str, *events: dict[str, Any], **members: Any) -> str:
    return json.dumps({"data_subject": {"id": person}, "events": list(events), **members}) + "\n"


AT = "2025-05-02T09:11:00Z"


def test_our_own_lines_carry_every_kind_of_choice(house: House) -> None:
    content = (
        line("cus_1", {"kind": "grant", "purpose": "newsletter", "channels": ["email"], "occurred_at": AT})
        + "\n"
        + line("cus_2", {"kind": "withdraw", "purpose": "newsletter"}, {"kind": "object", "purpose": "advertising"})
        + json.dumps({"row": "r7", "data_subject": {"identifiers": [{"type": "email", "value": "eva@example.org"}], "jurisdiction": "DE"}, "events": [{"kind": "deny", "purpose": "newsletter"}]})
    )  # fmt: skip
    code, printed = house.imports(content, "--format", "native")
    assert code == 0, printed

    async def look(services: Services, workspace: Any) -> list[list[str]]:
        return [[one.kind for one in await history(services, workspace, name)] for name in ("cus_1", "cus_2")]

    assert house.within(look) == [
        ["data_subject.updated", "consent.granted"],
        ["data_subject.updated", "consent.withdrawn", "consent.objected"],
    ]
    before = house.size()
    assert "0 applied (0 of them without effect), 3 there already" in house.imports(content, "--format", "native")[1]
    assert house.size() == before


@pytest.mark.parametrize(
    "broken",
    [
        "{",
        "[]",
        '"text"',
        '{"data_subject": {"id": "a"}}',
        '{"data_subject": {"id": "a"}, "events": [], "more": 1}',
        line("a", {"kind": "grant", "purpose": "newsletter", "witdraw": True}),
        line("a", {"kind": "renew", "purpose": "newsletter"}),
        line("a", {"kind": "withdraw", "purpose": "newsletter", "channels": ["e-mail"]}),
        line("a", {"kind": "withdraw", "purpose": "newsletter", "channels": ["email"] * 9}),
        line("a", {"kind": "withdraw", "purpose": "Newsletter!"}),
        line("a", {"kind": "grant", "purpose": "newsletter", "notice": "newsletter"}),
        '{"data_subject": {"id": "a", "jurisdiction": "Germany"}, "events": [{"kind": "withdraw", "purpose": "newsletter"}]}',
        '{"data_subject": {"id": "a", "jurisdiction": "ZZ"}, "events": [{"kind": "withdraw", "purpose": "newsletter"}]}',
        line("a", {"kind": "deny", "purpose": "newsletter", "occurred_at": "2025-05-02T09:11:00"}),
        line("a", {"kind": "deny", "purpose": "newsletter", "occurred_at": "0001-01-01T00:00:00+12:00"}),
        line("a", {"kind": "deny", "purpose": "newsletter", "occurred_at": "9999-12-31T23:59:59-12:00"}),
        line("a", {"kind": "deny", "purpose": "newsletter", "occurred_at": AT}, {"kind": "deny", "purpose": "analytics", "occurred_at": "2025-05-03T09:11:00Z"}),
        '{"data_subject": {"id": "\\ud800"}, "events": []}',
        "[" * 60_000,
        '{"data_subject": {"id": "' + "a" * 70_000 + '"}, "events": []}',
    ],
)  # fmt: skip
def test_a_line_of_ours_that_cannot_be_read_leaves_the_whole_file_unapplied(house: House, broken: str) -> None:
    good = line("cus_1", {"kind": "withdraw", "purpose": "newsletter"})
    before = house.size()
    code, printed = house.imports(good + broken.rstrip("\n") + "\n" + good, "--format", "native")
    assert (code, house.size()) == (1, before), printed
    assert "line 2: " in printed


@pytest.mark.parametrize("person", ["a/b", "a\x00b", "a" * 129])
def test_an_id_that_cannot_be_one_is_skipped(house: House, person: str) -> None:
    before = house.size()
    code, printed = house.imports(line(person, {"kind": "withdraw", "purpose": "newsletter"}), "--format", "native")
    assert (code, house.size()) == (1, before)
    assert "skipped: identifier_invalid" in printed


def test_a_purpose_that_the_policy_does_not_have_refuses_the_file(house: House) -> None:
    code, printed = house.imports(line("a", {"kind": "withdraw", "purpose": "nothing"}), "--format", "native")
    assert code == 2
    assert "row 1" in printed


def test_the_same_rows_of_another_source_are_other_choices(house: House) -> None:
    content = line("cus_1", {"kind": "withdraw", "purpose": "newsletter", "occurred_at": AT})
    house.imports(content, "--format", "native")
    before = house.size()
    house.imports(content, "--format", "native", "--source", "old-shop")
    assert house.size() == before + 1


# ---- size


@pytest.mark.slow
def test_five_thousand_rows_stream_and_a_second_run_adds_nothing(house: House) -> None:
    rows = (f"person{number}@example.org,2025-03-21 10:49:21.192000000 -07:00,{'true' if number % 2 else 'false'},true,,\n" for number in range(5000))  # fmt: skip
    content = house.folder / "many.csv"
    content.write_text(HEADER + "\n" + "".join(rows))
    options = ["--format", "transcend", "--map", "Sales=advertising", "--map", "Marketing=-"]
    before = house.size()
    report = house.report(content, *options)
    assert (report["rows"], report["applied"], report["skipped"]) == (5000, 5000, {})
    assert house.size() == before + 2 * 5000
    again = house.report(content, *options)
    assert (again["already_there"], house.size()) == (5000, before + 2 * 5000)
    assert house.permits("person4999@example.org", "person4998@example.org") == [(True, False), (False, False)]
    assert run(["audit", "verify", "--data-dir", str(house.server.data_dir)]) == 0
