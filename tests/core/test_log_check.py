"""A log that was touched anywhere is found, the place is named, and one fault does not hide the next."""

import ast
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from volenti import core
from volenti.core.audit.verify import (
    CHECKPOINT_FILE,
    Finding,
    KeyPeriod,
    LogCheck,
    Report,
    SignedHead,
    check_files,
    expected_files,
    read_checkpoints,
)
from volenti.core.entry import Leaf, encode, id_text
from volenti.core.ledger import tile
from volenti.core.ledger.checkpoint import TreeHead, render
from volenti.core.ledger.merkle import EMPTY_ROOT, TreeSize, append, leaf_hash, root
from volenti.core.ledger.note import (
    ED25519,
    VerifierKey,
    assemble,
    cosigned_text,
    parse_vkey,
    signature_line,
)
from volenti.core.ledger.tile import Bundle, Edge, FullTile
from volenti.errors import Invalid

FROZEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "c2sp.json").read_text(encoding="utf-8"))
ORIGIN = "volenti.example/acme"
LOG, WITNESS = parse_vkey(FROZEN["log"]["vkey"]), parse_vkey(FROZEN["witness"]["vkey"])
LOG_KEY, WITNESS_KEY = (
    Ed25519PrivateKey.from_private_bytes(bytes.fromhex(FROZEN[who]["seed"])) for who in ("log", "witness")
)
THIEF_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
SIZE = 600
START_MS = 1_790_000_000_000
SECOND = 1000


@cache
def leaf(n: int) -> bytes:
    return encode(
        Leaf(id_text(n.to_bytes(16, "big")), START_MS + n * SECOND, "consent.granted", (), None, None, bytes(32))
    )


LEAVES = [leaf(n) for n in range(SIZE)]


def checkpoint_of(head: TreeHead, key: Ed25519PrivateKey = LOG_KEY, witnessed_at: int | None = None) -> str:
    text = render(head)
    lines = [signature_line(LOG.name, LOG.key_id, key.sign(text.encode()))]
    if witnessed_at is not None:
        value = witnessed_at.to_bytes(8, "big") + WITNESS_KEY.sign(cosigned_text(text, witnessed_at))
        lines.append(signature_line(WITNESS.name, WITNESS.key_id, value))
    return assemble(text, lines)


def head_of(leaves: list[bytes]) -> TreeHead:
    edge = Edge()
    for encoded in leaves:
        edge.append(leaf_hash(encoded))
    return TreeHead(ORIGIN, edge.size, edge.root())


def heads_at(*sizes: int, leaves: list[bytes] = LEAVES) -> list[SignedHead]:
    return [SignedHead(head_of(leaves[:size])) for size in sizes]


def checked(leaves: list[bytes], heads: list[SignedHead]) -> Report:
    check = LogCheck(ORIGIN, heads)
    for encoded in leaves:
        check.add(encoded)
    return check.report()


@dataclass
class Directory:
    """The files of a log in the C2SP layout, and what else its verifier is given."""

    size: int
    files: dict[str, bytes]
    notes: list[str] = field(default_factory=list)

    def verify(self) -> Report:
        """The loop of the module's description."""
        heads, findings = read_checkpoints(
            ORIGIN, [*self.notes, self.files[CHECKPOINT_FILE].decode()], [KeyPeriod(LOG)], [WITNESS]
        )
        findings += check_files(self.files, TreeSize(self.size))
        check = LogCheck(ORIGIN, heads, findings)
        for bundle in tile.expected_bundles(TreeSize(self.size)):
            entries, hashes = self.files.get(bundle.path), self.files.get(bundle.tile.path)
            for full, computed in check.add_bundle(bundle, entries, hashes):
                check.compare(full, computed, self.files.get(full.path))
        for partial, computed in check.partial_tiles():
            check.compare(partial, computed, self.files.get(partial.path))
        return check.report()

    def write_entries(self, leaves: list[bytes]) -> None:
        for bundle in tile.expected_bundles(TreeSize(len(leaves))):
            self.files[bundle.path] = tile.encode_bundle(leaves[bundle.index * 256 :][: bundle.width])

    def write_tiles(self, leaves: list[bytes]) -> None:
        edge = Edge()
        for encoded in leaves:
            for full in edge.append(leaf_hash(encoded)):
                self.files[full.tile.path] = full.hashes
        for partial, hashes in edge.partial_tiles():
            self.files[partial.path] = hashes


def directory(leaves: list[bytes] = LEAVES, key: Ed25519PrivateKey = LOG_KEY) -> Directory:
    made = Directory(len(leaves), {})
    made.write_entries(leaves)
    made.write_tiles(leaves)
    made.files[CHECKPOINT_FILE] = checkpoint_of(head_of(leaves), key).encode()
    made.notes = [checkpoint_of(head_of(leaves[:size])) for size in (0, 1, 256, 300) if size <= len(leaves)]
    return made


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 512, SIZE])
def test_an_untouched_directory_is_clean(size: int) -> None:
    head = head_of(LEAVES[:size])

    assert Report(ORIGIN, TreeSize(size), head.root, (), TreeSize(size)) == directory(LEAVES[:size]).verify()


def test_an_untouched_stream_is_clean_and_says_how_far_it_is_signed() -> None:
    report = checked(LEAVES, heads_at(0, 1, 256, 300))

    assert report.clean
    assert (report.size, report.signed_size) == (SIZE, 300)


def test_a_log_without_checkpoints_is_signed_nowhere() -> None:
    assert Report(ORIGIN, TreeSize(0), EMPTY_ROOT, (), TreeSize(0)) == checked([], [])
    assert checked(LEAVES, []).signed_size == 0


def test_a_directory_of_65536_has_the_files_of_every_level() -> None:
    files = set(expected_files(TreeSize(65_536)))

    assert len(files) == 1 + 256 + 256 + 1 + 1
    assert {CHECKPOINT_FILE, "tile/entries/255", "tile/0/255", "tile/1/000", "tile/2/000.p/1"} <= files


def test_full_tiles_come_back_as_they_are_filled() -> None:
    check, full = LogCheck(ORIGIN), list[FullTile]()
    frontier: list[bytes] = []
    for n, encoded in enumerate(LEAVES):
        full += check.add(encoded, leaf_hash(encoded))
        frontier = append(frontier, TreeSize(n), leaf_hash(encoded))

        assert (n + 1, frontier, root(frontier)) == (check.size, check.frontier, check.root())
    assert [(grown.level, grown.index) for grown in full] == [(0, 0), (0, 1)]
    assert all(len(grown.hashes) == 8192 for grown in full)
    assert check.report().clean


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def flip_entry(log: Directory) -> None:
    log.files["tile/entries/001"] = flip(log.files["tile/entries/001"], 2 + len(LEAVES[0]) + 40)


def flip_tile(log: Directory) -> None:
    log.files["tile/0/001"] = flip(log.files["tile/0/001"], 32 * 7 + 5)


def flip_partial_tile(log: Directory) -> None:
    log.files["tile/1/000.p/2"] = flip(log.files["tile/1/000.p/2"], 33)


def flip_checkpoint(log: Directory) -> None:
    text = checkpoint_of(head_of(LEAVES))
    log.files[CHECKPOINT_FILE] = text.replace("\n600\n", "\n601\n").encode()


def flip_both_entry_and_hash(log: Directory) -> None:
    changed = [*LEAVES[:20], LEAVES[20].replace(b"granted", b"refused"), *LEAVES[21:]]
    log.write_entries(changed)
    log.write_tiles(changed)


def swap_two(log: Directory) -> None:
    swapped = [*LEAVES[:3], LEAVES[4], LEAVES[3], *LEAVES[5:]]
    log.write_entries(swapped)
    log.write_tiles(swapped)


def drop_one(log: Directory) -> None:
    log.write_entries([*LEAVES[:3], *LEAVES[4:], leaf(SIZE)])
    log.write_tiles([*LEAVES[:3], *LEAVES[4:], leaf(SIZE)])


def sign_with_another_key(log: Directory) -> None:
    log.files[CHECKPOINT_FILE] = checkpoint_of(head_of(LEAVES), THIEF_KEY).encode()


def truncate(log: Directory) -> None:
    shorter = directory(LEAVES[:590])
    log.size, log.files = 590, shorter.files
    log.notes.append(checkpoint_of(head_of(LEAVES)))


def fork(log: Directory) -> None:
    log.notes.append(checkpoint_of(head_of([*LEAVES[:299], leaf(7000)])))


def duplicate(log: Directory) -> None:
    known_id = id_text((100).to_bytes(16, "big"))
    again = encode(Leaf(known_id, START_MS + SIZE * SECOND, "consent.denied", (), None, None, bytes(32)))
    replaced = directory([*LEAVES[:-1], again])
    log.files, log.notes = replaced.files, replaced.notes


def unknown_version(log: Directory) -> None:
    replaced = directory([*LEAVES[:-1], LEAVES[-1].replace(b"entry/1", b"entry/2")])
    log.files, log.notes = replaced.files, replaced.notes


def bad_length(log: Directory) -> None:
    log.files["tile/entries/000"] = flip(log.files["tile/entries/000"], 1)


def missing_bundle(log: Directory) -> None:
    del log.files["tile/entries/000"]


def missing_tile(log: Directory) -> None:
    del log.files["tile/0/002.p/88"]


def short_tile(log: Directory) -> None:
    log.files["tile/0/001"] = log.files["tile/0/001"][:-32]


def missing_upper_tile(log: Directory) -> None:
    del log.files["tile/1/000.p/2"]


def extra_file(log: Directory) -> None:
    log.files["tile/0/002.p/44"] = log.files["tile/0/002.p/88"][: 44 * 32]


NOTHING_BESIDE_IT = (  # in these cases no other part of the log is to be blamed
    flip_tile,
    flip_partial_tile,
    sign_with_another_key,
    duplicate,
    unknown_version,
    bad_length,
    short_tile,
    extra_file,
)
LAST = "checkpoint of size 600"
WRONG_ROOT = "its root is not that of the entries"
MISSING = "the file is missing"


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (flip_entry, {("entry 257", "its hash is not the one that is stored for it"), (LAST, WRONG_ROOT)}),
        (flip_tile, {("entry 263", "its hash is not the one that is stored for it")}),
        (flip_partial_tile, {("tile/1/000.p/2", "wrong hashes in the tile: 1")}),
        (flip_checkpoint, {("checkpoint of size 601", f"the signature of {ORIGIN} does not verify")}),
        (flip_both_entry_and_hash, {(LAST, WRONG_ROOT), ("checkpoint of size 256", WRONG_ROOT)}),
        (swap_two, {(LAST, WRONG_ROOT), ("checkpoint of size 256", WRONG_ROOT)}),
        (drop_one, {(LAST, WRONG_ROOT), ("checkpoint of size 256", WRONG_ROOT)}),
        (sign_with_another_key, {(LAST, f"the signature of {ORIGIN} does not verify")}),
        (truncate, {(LAST, "it signs more entries than the 590 that are there")}),
        (
            fork,
            {
                ("checkpoint of size 300", "two roots are signed for one size: a fork"),
                ("checkpoint of size 300", WRONG_ROOT),
            },
        ),
        (duplicate, {("entry 599", "an earlier entry has the same id")}),
        (unknown_version, {("entry 599", "the version of the leaf is not known")}),
        (bad_length, {("tile/entries/000", "the bundle ends inside entry 2 of 256")}),
        (missing_bundle, {("tile/entries/000", MISSING), ("tile/entries/000", "the bundle is missing")}),
        (missing_tile, {("tile/0/002.p/88", MISSING), ("tile/0/002.p/88", "the tile is missing")}),
        (short_tile, {("tile/0/001", "the tile has 8160 bytes, not 8192")}),
        (missing_upper_tile, {("tile/1/000.p/2", MISSING), ("tile/1/000.p/2", "the tile is missing")}),
        (extra_file, {("tile/0/002.p/44", "the file does not belong to a log of this size")}),
    ],
)
def test_tampering_is_found_and_named(tamper: Callable[[Directory], None], expected: set[tuple[str, str]]) -> None:
    log = directory()
    tamper(log)

    found = {(finding.where, finding.what) for finding in log.verify().findings}

    assert expected <= found
    if tamper in NOTHING_BESIDE_IT:
        assert expected == found


def test_every_fault_is_reported_not_only_the_first() -> None:
    log = directory()
    for tamper in (flip_tile, flip_partial_tile, extra_file, missing_tile, fork):
        tamper(log)

    found = {finding.where for finding in log.verify().findings}

    assert {"entry 263", "tile/1/000.p/2", "tile/0/002.p/88", "tile/0/002.p/44", "checkpoint of size 300"} <= found


def test_the_rest_is_still_checked_where_a_bundle_cannot_be_read() -> None:
    log = directory()
    missing_bundle(log)
    report = log.verify()

    assert {"tile/entries/000"} == {finding.where for finding in report.findings}
    assert (report.size, report.signed_size) == (SIZE, SIZE)


def test_where_neither_entries_nor_hashes_are_left_no_root_agrees() -> None:
    log = directory()
    missing_bundle(log)
    del log.files["tile/0/000"]
    report = log.verify()

    assert Finding(LAST, WRONG_ROOT) in report.findings
    assert report.size == SIZE
    assert report.signed_size == 0


@pytest.mark.parametrize("position", [0, 1, 2, 30, 100, 150, -1])
def test_a_byte_flipped_anywhere_in_a_bundle_is_found(position: int) -> None:
    log = directory(LEAVES[:3])
    log.files["tile/entries/000.p/3"] = flip(log.files["tile/entries/000.p/3"], position % 150)

    assert not log.verify().clean


def test_bundles_are_taken_in_order_only() -> None:
    with pytest.raises(Invalid):
        LogCheck(ORIGIN).add_bundle(Bundle(1), b"", b"")


def dated(*seconds: float) -> list[bytes]:
    return [
        encode(Leaf(id_text(n.to_bytes(16, "big")), START_MS + int(s * SECOND), "k", (), None, None, bytes(32)))
        for n, s in enumerate(seconds)
    ]


@pytest.mark.parametrize(
    ("seconds", "late"),
    [
        ((0, 1, 0.5, 2), []),
        ((40, 10, 40), []),
        ((40, 9.999, 40), ["entry 1"]),
        ((100, 71, 69, 68), ["entry 2", "entry 3"]),
        ((0, 10**6, 0), ["entry 2"]),
    ],
)
def test_time_runs_backwards_by_half_a_minute_at_most(seconds: tuple[float, ...], late: list[str]) -> None:
    assert late == [finding.where for finding in checked(dated(*seconds), []).findings]


@pytest.mark.parametrize(("witnessed_after", "clean"), [(70, True), (71, True), (69, False)])
def test_no_entry_is_dated_after_a_witness_saw_it(witnessed_after: int, clean: bool) -> None:
    leaves = dated(0, 50, 100)
    note = checkpoint_of(head_of(leaves), witnessed_at=START_MS // SECOND + witnessed_after)
    heads, findings = read_checkpoints(ORIGIN, [note], [KeyPeriod(LOG)], [WITNESS])

    assert findings == []
    assert clean == checked(leaves, heads).clean


def test_entries_after_the_witnessed_size_may_be_later() -> None:
    leaves = dated(0, 50, 1000)
    heads = [SignedHead(head_of(leaves[:2]), START_MS // SECOND + 60), SignedHead(head_of(leaves))]

    assert checked(leaves, heads).clean


def test_a_checkpoint_without_the_signature_of_the_log_is_none() -> None:
    head = head_of(LEAVES[:8])
    text = render(head)
    by_witness = assemble(text, [checkpoint_of(head, witnessed_at=7).splitlines(keepends=True)[-1]])
    for note, problem in (
        (by_witness, "the checkpoint is not signed by the log that it names"),
        (checkpoint_of(head, THIEF_KEY), f"the signature of {ORIGIN} does not verify"),
        (checkpoint_of(TreeHead("volenti.example/other", head.size, head.root)), "it is the checkpoint of another log"),
    ):
        assert ([], [Finding("checkpoint of size 8", problem)]) == read_checkpoints(
            ORIGIN, [note], [KeyPeriod(LOG)], [WITNESS]
        )


def test_a_note_that_cannot_be_read_is_named_by_its_position() -> None:
    heads, findings = read_checkpoints(ORIGIN, [checkpoint_of(head_of(LEAVES[:1])), "nonsense"], [KeyPeriod(LOG)])

    assert len(heads) == 1
    assert [finding.where for finding in findings] == ["checkpoint number 1"]


@pytest.mark.parametrize(
    ("first", "last", "accepted"), [(0, None, True), (8, 8, True), (0, 8, True), (0, 7, False), (9, None, False)]
)
def test_a_key_signs_only_within_its_period(first: int, last: int | None, accepted: bool) -> None:
    heads, findings = read_checkpoints(ORIGIN, [checkpoint_of(head_of(LEAVES[:8]))], [KeyPeriod(LOG, first, last)])

    assert (accepted, not accepted) == (bool(heads), bool(findings))


def test_during_a_rotation_either_key_is_enough() -> None:
    new_key = VerifierKey(ORIGIN, ED25519, THIEF_KEY.public_key().public_bytes_raw())
    text = render(head_of(LEAVES[:8]))
    lines = [
        signature_line(key.name, key.key_id, private.sign(text.encode()))
        for key, private in ((LOG, LOG_KEY), (new_key, THIEF_KEY))
    ]
    for periods in ([KeyPeriod(LOG)], [KeyPeriod(new_key)], [KeyPeriod(LOG), KeyPeriod(new_key)]):
        heads, findings = read_checkpoints(ORIGIN, [assemble(text, lines)], periods)

        assert (len(heads), findings) == (1, [])


def test_the_same_head_signed_twice_is_no_fork() -> None:
    assert checked(LEAVES, heads_at(300, 300)).clean


def test_what_the_database_keeps_beside_the_entries_is_compared() -> None:
    check, full = LogCheck(ORIGIN), list[FullTile]()
    for encoded in LEAVES[:256]:
        full += check.add(encoded)
    (first,) = full
    check.compare(first.tile, first.hashes, first.hashes)
    check.compare_root(first, first.root)
    check.compare_head(256, check.root(), check.frontier)
    assert check.report().clean

    check.compare(first.tile, first.hashes, None)
    check.compare(first.tile, first.hashes, flip(first.hashes, 33))
    check.compare(first.tile, first.hashes, first.hashes[32:])
    check.compare_root(first, bytes(32))
    check.compare_head(255, bytes(32), [])
    check.add(LEAVES[256], bytes(32))

    assert [
        Finding("tile/0/000", "the tile is missing"),
        Finding("tile/0/000", "wrong hashes in the tile: 1"),
        Finding("tile/0/000", "the tile has 8160 bytes, not 8192"),
        Finding("tile/0/000", "the root that is stored with the tile is wrong"),
        Finding("head", "the head counts 255 entries, the log has 256"),
        Finding("head", "the root of the head is not that of the entries"),
        Finding("head", "the frontier of the head is not that of the entries"),
        Finding("entry 256", "its hash is not the one that is stored for it"),
    ] == list(check.report().findings)


ROOM = Path(core.__file__).parent
VERIFIER = [*sorted((ROOM / "ledger").glob("*.py")), ROOM / "entry.py", ROOM / "audit" / "verify.py"]


@pytest.mark.parametrize("path", VERIFIER, ids=lambda path: path.name)
def test_a_verifier_of_its_own_needs_only_python_and_cryptography(path: Path) -> None:
    modules = set()
    for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.ImportFrom):
            modules.add(statement.module or "")
        elif isinstance(statement, ast.Import):
            modules |= {name.name for name in statement.names}

    for module in modules:
        top = module.partition(".")[0]
        assert top in sys.stdlib_module_names | {"cryptography"} or module.startswith(
            ("volenti.core", "volenti.errors")
        )
