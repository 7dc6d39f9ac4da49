"""Verification of a whole log in one pass: the same steps for the live database and for a directory of C2SP tiles.

1. `read_checkpoints`: every checkpoint is signed by a key that was valid at its size. What remains are heads.
2. `check_files` (a directory only): exactly the files of a log of that size are there.
3. `LogCheck.add`, or `add_bundle`, for each entry in order of its index: it reads as a leaf of a known version,
   its id is new, its time does not run backwards, and it has the hash that is stored for it.
4. `LogCheck.compare` for each tile that becomes full by it, and for `partial_tiles` after the last entry: what is
   stored is what was computed.
5. `LogCheck.report`: each head has the root that the log had at its size; no size has two roots; no head is longer
   than the log; no entry is dated after a witness saw it.

Nothing is read here: who calls fetches the bytes. For a directory of size n the whole is

    check = LogCheck(origin, heads)
    for bundle in tile.expected_bundles(n):
        for full, computed in check.add_bundle(bundle, read(bundle.path), read(bundle.tile.path)):
            check.compare(full, computed, read(full.path))
    for partial, computed in check.partial_tiles():
        check.compare(partial, computed, read(partial.path))
    report = check.report()

and `read` gives None for a file that is not there. Every problem is collected, not only the first.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from volenti.core import entry
from volenti.core.ledger import checkpoint, merkle, note, tile
from volenti.core.ledger.checkpoint import TreeHead
from volenti.core.ledger.merkle import HASH_SIZE, TreeSize
from volenti.core.ledger.note import VerifierKey
from volenti.core.ledger.tile import Bundle, Edge, FullTile, Tile
from volenti.errors import Invalid, VerificationError

CLOCK_TOLERANCE_MS = 30_000  # also how far the append lets an entry's time be from the database's clock

CHECKPOINT_FILE = "checkpoint"


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem: where (a file, an entry, a checkpoint) and what."""

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a pass over the log found. `size` and `root` are computed from its entries.

    signed_size: the largest size for which a checkpoint agreed; nothing vouches for the entries from there on.
    """

    origin: str
    size: TreeSize
    root: bytes
    findings: tuple[Finding, ...]
    signed_size: TreeSize

    @property
    def clean(self) -> bool:
        return not self.findings


@dataclass(frozen=True, slots=True)
class KeyPeriod:
    """A key of the log, and the sizes that it may sign: from `first_size` to `last_size`, both included.

    A key that was rotated out, or revoked, has a `last_size`: what it signed up to there stays good.
    """

    key: VerifierKey
    first_size: int = 0
    last_size: int | None = None

    def covers(self, size: int) -> bool:
        return self.first_size <= size and (self.last_size is None or size <= self.last_size)


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A tree head whose signature is good. `witnessed_at`: the earliest time (seconds) of a known witness, if any."""

    head: TreeHead
    witnessed_at: int | None = None


def read_checkpoints(
    origin: str, notes: Iterable[str], periods: Sequence[KeyPeriod], witnesses: Sequence[VerifierKey] = ()
) -> tuple[list[SignedHead], list[Finding]]:
    """Verify the signatures of checkpoints; return the heads of the good ones, and what is wrong with the others."""
    heads: list[SignedHead] = []
    findings: list[Finding] = []
    for number, text in enumerate(notes):
        where = f"checkpoint number {number}"
        try:
            parsed = note.parse(text)
            claimed = checkpoint.parse(parsed.text)
            where = f"checkpoint of size {claimed.size}"
            if claimed.origin != origin:
                raise VerificationError("it is the checkpoint of another log")
            keys = [period.key for period in periods if period.covers(claimed.size)]
            head, verified = checkpoint.verify_all(parsed, (*keys, *witnesses))
        except VerificationError as exc:
            findings.append(Finding(where, str(exc)))
            continue
        times = [signature.timestamp for signature in verified if signature.timestamp is not None]
        heads.append(SignedHead(head, min(times, default=None)))
    return heads, findings


def expected_files(size: TreeSize) -> Iterator[str]:
    """Name the files of a directory that holds a log of `size` entries in the C2SP layout, and only such a log."""
    yield CHECKPOINT_FILE
    yield from (bundle.path for bundle in tile.expected_bundles(size))
    yield from (expected.path for expected in tile.expected_tiles(size))


def check_files(present: Iterable[str], size: TreeSize) -> list[Finding]:
    """Compare the names below the log's directory with those that must be there. Partial tiles of the past are extra."""
    found, expected = set(present), set(expected_files(size))
    missing = [Finding(name, "the file is missing") for name in sorted(expected - found)]
    extra = [Finding(name, "the file does not belong to a log of this size") for name in sorted(found - expected)]
    return missing + extra


class LogCheck:
    """Takes the entries of a log in order of their index, and keeps what it found.

    It holds the edge of the tree, one root for each head, and the ids seen so far: about 100 bytes an entry.
    """

    def __init__(self, origin: str, heads: Sequence[SignedHead] = (), findings: Iterable[Finding] = ()) -> None:
        self.origin = origin
        self.findings = list(findings)
        self._heads = heads
        self._edge = Edge()
        self._ids: set[bytes] = set()
        self._latest_ms = 0
        self._prefixes: dict[int, tuple[bytes, int]] = {}  # at the size of each head: root, latest time so far
        self._signed_sizes = {signed.head.size for signed in heads}
        self._remember_prefix()

    @property
    def size(self) -> TreeSize:
        return self._edge.size

    @property
    def frontier(self) -> list[bytes]:
        return self._edge.frontier

    def root(self) -> bytes:
        return self._edge.root()

    def add(self, leaf: bytes, stored_hash: bytes | None = None) -> list[FullTile]:
        """Check and add the next entry; return the tiles that became full by it.

        stored_hash: what is stored as the hash of this leaf, where something is.
        """
        where = f"entry {self.size}"
        self._check_leaf(where, leaf)
        computed = merkle.leaf_hash(leaf)
        if stored_hash is not None and stored_hash != computed:
            self._found(where, "its hash is not the one that is stored for it")
        return self._grow(computed)

    def add_bundle(self, bundle: Bundle, entries: bytes | None, hashes: bytes | None) -> list[tuple[Tile, bytes]]:
        """Check and add a bundle of entries with the level-0 tile of their hashes; None is a file that is missing.

        Returns the tiles above level 0 that became full, with the bytes that they must have. If the entries cannot
        be read, the stored hashes stand in for them, so that the rest of the log can still be checked.
        """
        if bundle.index * tile.FULL_WIDTH != self.size:
            raise Invalid("the bundles of a log are added in order")
        stored = self._hashes(bundle, hashes)
        leaves = self._entries(bundle, entries)
        full: list[FullTile] = []
        for position in range(bundle.width):
            if leaves is not None:
                full += self.add(leaves[position], stored[position] if stored else None)
            else:
                full += self._grow(stored[position] if stored else bytes(HASH_SIZE))
        return [(grown.tile, grown.hashes) for grown in full if grown.level]

    def partial_tiles(self) -> list[tuple[Tile, bytes]]:
        """Return the tiles that are not full after the last entry. That of level 0 came with its bundle."""
        return [(partial, hashes) for partial, hashes in self._edge.partial_tiles() if partial.level]

    def compare(self, of: Tile, computed: bytes, stored: bytes | None) -> None:
        """Compare a stored tile with what was computed; None is a tile that is missing."""
        if stored is None:
            self._found(of.path, "the tile is missing")
        elif len(stored) != len(computed):
            self._found(of.path, f"the tile has {len(stored)} bytes, not {len(computed)}")
        else:
            pairs = zip(tile.hashes_of(computed), tile.hashes_of(stored), strict=True)
            wrong = [str(position) for position, (own, other) in enumerate(pairs) if own != other]
            if wrong:
                self._found(of.path, f"wrong hashes in the tile: {', '.join(wrong)}")

    def compare_root(self, full: FullTile, stored: bytes) -> None:
        """Compare the root that the database keeps beside a full tile."""
        if stored != full.root:
            self._found(full.tile.path, "the root that is stored with the tile is wrong")

    def compare_head(self, size: int, root: bytes, frontier: Sequence[bytes]) -> None:
        """Compare the head row of the database with the whole log."""
        if size != self.size:
            self._found("head", f"the head counts {size} entries, the log has {self.size}")
        if root != self.root():
            self._found("head", "the root of the head is not that of the entries")
        if list(frontier) != self.frontier:
            self._found("head", "the frontier of the head is not that of the entries")

    def report(self) -> Report:
        """Compare the signed heads with the log, and sum up. To be called once, after the last entry."""
        self._check_forks()
        agreed = [signed.head.size for signed in self._heads if self._check_head(signed)]
        return Report(self.origin, self.size, self.root(), tuple(self.findings), max(agreed, default=TreeSize(0)))

    def _found(self, where: str, what: str) -> None:
        self.findings.append(Finding(where, what))

    def _grow(self, leaf_hash: bytes) -> list[FullTile]:
        full = self._edge.append(leaf_hash)
        self._remember_prefix()
        return full

    def _remember_prefix(self) -> None:
        if self.size in self._signed_sizes:
            self._prefixes[self.size] = (self.root(), self._latest_ms)

    def _check_leaf(self, where: str, encoded: bytes) -> None:
        try:
            leaf = entry.decode(encoded)
        except Invalid as exc:
            self._found(where, str(exc))
            return
        raw_id = entry.id_bytes(leaf.id)
        if raw_id in self._ids:
            self._found(where, "an earlier entry has the same id")
        self._ids.add(raw_id)
        behind = self._latest_ms - leaf.at_ms
        if behind > CLOCK_TOLERANCE_MS:
            self._found(where, f"its time is {behind // 1000} s before that of an earlier entry")
        self._latest_ms = max(self._latest_ms, leaf.at_ms)

    def _entries(self, bundle: Bundle, data: bytes | None) -> list[bytes] | None:
        if data is None:
            self._found(bundle.path, "the bundle is missing")
            return None
        try:
            return tile.decode_bundle(data, bundle.width)
        except Invalid as exc:
            self._found(bundle.path, str(exc))
            return None

    def _hashes(self, bundle: Bundle, data: bytes | None) -> list[bytes] | None:
        if data is None:
            self._found(bundle.tile.path, "the tile is missing")
            return None
        if len(data) != bundle.width * HASH_SIZE:
            self._found(bundle.tile.path, f"the tile has {len(data)} bytes, not {bundle.width * HASH_SIZE}")
            return None
        return tile.hashes_of(data)

    def _check_forks(self) -> None:
        """Two good signatures over different roots of one size prove by themselves that the log showed two views."""
        roots: dict[int, bytes] = {}
        for signed in self._heads:
            if roots.setdefault(signed.head.size, signed.head.root) != signed.head.root:
                self._found(f"checkpoint of size {signed.head.size}", "two roots are signed for one size: a fork")

    def _check_head(self, signed: SignedHead) -> bool:
        """Say whether the log had this root at this size. A witness's time is an upper bound for all before."""
        where = f"checkpoint of size {signed.head.size}"
        prefix = self._prefixes.get(signed.head.size)
        if prefix is None:
            self._found(where, f"it signs more entries than the {self.size} that are there")
            return False
        root, latest_ms = prefix
        if root != signed.head.root:
            self._found(where, "its root is not that of the entries")
            return False
        if signed.witnessed_at is not None and latest_ms > signed.witnessed_at * 1000 + CLOCK_TOLERANCE_MS:
            self._found(where, "an entry below is dated after a witness saw it")
        return True
