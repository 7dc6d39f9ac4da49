"""Tiles of the tree and bundles of entries as C2SP tlog-tiles lays them out: their paths, what they hold, how they grow.

A tile holds up to 256 neighbouring hashes of every eighth level of the tree; the levels between are recomputed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

from volenti.core.ledger import merkle
from volenti.core.ledger.merkle import HASH_SIZE, Coordinate, TreeSize
from volenti.errors import Invalid, LedgerDamaged

HEIGHT = 8
FULL_WIDTH = 1 << HEIGHT
MAX_ENTRY_SIZE = 0xFFFF
MAX_LEVEL = 63
MAX_INDEX = (1 << 63) - 1

TileKey: TypeAlias = tuple[int, int]  # (tile level, tile index)


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """The tile `index` of tile level `level`; level 0 holds leaf hashes. Narrower than 256: a partial tile."""

    level: int
    index: int
    width: int = FULL_WIDTH

    @property
    def path(self) -> str:
        return f"tile/{self.level}/{_index_path(self.index, self.width)}"


@dataclass(frozen=True, slots=True, order=True)
class Bundle:
    """The entries under the level-0 tile `index`."""

    index: int
    width: int = FULL_WIDTH

    @property
    def path(self) -> str:
        return f"tile/entries/{_index_path(self.index, self.width)}"

    @property
    def tile(self) -> Tile:
        """The tile with the hashes of these entries."""
        return Tile(0, self.index, self.width)


_PATH = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/(?P<index>(?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


def parse(path: str) -> Tile | Bundle:
    """Return what a path names. There is exactly one path for each tile; anything else is Invalid."""
    match = _PATH.fullmatch(path)
    if match is None or match["index"].startswith("x000/"):
        raise Invalid("not the path of a tile")
    index = int(match["index"].replace("x", "").replace("/", ""))
    width = int(match["width"] or FULL_WIDTH)
    if index > MAX_INDEX or (match["width"] and width >= FULL_WIDTH):
        raise Invalid("not the path of a tile")
    if match["level"] == "entries":
        return Bundle(index, width)
    if int(match["level"]) > MAX_LEVEL:
        raise Invalid("not the path of a tile")
    return Tile(int(match["level"]), index, width)


def width_of(size: TreeSize, level: int, index: int) -> int:
    """Return how many hashes the tile has in a tree of `size` leaves: 0 if the tree does not reach it, at most 256."""
    return max(0, min(FULL_WIDTH, (size >> (HEIGHT * level)) - index * FULL_WIDTH))


def expected_bundles(size: TreeSize) -> Iterator[Bundle]:
    """Name the entry bundles of a tree of `size` leaves, in order."""
    return (Bundle(tile.index, tile.width) for tile in _level(size, 0))


def expected_tiles(size: TreeSize) -> Iterator[Tile]:
    """Name the hash tiles of a tree of `size` leaves: level by level, each from left to right, empty ones left out."""
    levels = range((int(size).bit_length() + HEIGHT - 1) // HEIGHT)
    return chain.from_iterable(_level(size, level) for level in levels)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node's hash comes from: the hashes [start, stop) of one tile, which are its perfect subtree's leaves."""

    tile: TileKey
    start: int
    stop: int


def place_of(node: Coordinate) -> Place:
    """Say which tile holds a node of the tree, and where in it."""
    level, index = node
    tile_level, height = divmod(level, HEIGHT)
    tile_index, start = divmod(index << height, FULL_WIDTH)
    return Place((tile_level, tile_index), start, start + (1 << height))


def node_in(hashes: bytes, place: Place) -> bytes:
    """Compute a node's hash from the bytes of its tile. Raises LedgerDamaged if the tile does not reach that far."""
    if len(hashes) % HASH_SIZE or len(hashes) < place.stop * HASH_SIZE:
        level, index = place.tile
        raise LedgerDamaged(f"tile {index} of level {level} is too short")
    row = hashes_of(hashes[place.start * HASH_SIZE : place.stop * HASH_SIZE])
    while len(row) > 1:
        row = [merkle.node_hash(left, right) for left, right in zip(row[::2], row[1::2], strict=True)]
    return row[0]


def tiles_of(nodes: Iterable[Coordinate]) -> tuple[TileKey, ...]:
    """Name the tiles that hold these nodes, each once, in order."""
    return tuple(sorted({place_of(node).tile for node in nodes}))


def nodes_from(tiles: Mapping[TileKey, bytes], nodes: Iterable[Coordinate]) -> dict[Coordinate, bytes]:
    """Compute the hashes of these nodes from the tiles that hold them. Raises LedgerDamaged if a tile is missing."""
    found = {}
    for node in nodes:
        place = place_of(node)
        if place.tile not in tiles:
            level, index = place.tile
            raise LedgerDamaged(f"tile {index} of level {level} is missing")
        found[node] = node_in(tiles[place.tile], place)
    return found


def hashes_of(tile: bytes) -> list[bytes]:
    """Cut the bytes of a tile into its hashes."""
    return [tile[at : at + HASH_SIZE] for at in range(0, len(tile), HASH_SIZE)]


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """Return the entries, each with its length in front as a big-endian uint16."""
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > MAX_ENTRY_SIZE:
            raise Invalid(f"an entry of {len(entry)} bytes does not fit into a bundle")
        parts += (len(entry).to_bytes(2, "big"), entry)
    return b"".join(parts)


def decode_bundle(bundle: bytes, width: int) -> list[bytes]:
    """Return the entries of a bundle. It must hold exactly `width` of them and nothing after the last."""
    entries: list[bytes] = []
    at = 0
    for _ in range(width):
        start = at + 2
        at = start + int.from_bytes(bundle[at:start], "big")
        if at > len(bundle):
            raise Invalid(f"the bundle ends inside entry {len(entries)} of {width}")
        entries.append(bundle[start:at])
    if at != len(bundle):
        raise Invalid(f"the bundle goes on after its {width} entries")
    return entries


@dataclass(frozen=True, slots=True)
class FullTile:
    """A tile that has become full: its 8,192 bytes, and their root, which is one hash of the tile above."""

    level: int
    index: int
    hashes: bytes
    root: bytes

    @property
    def tile(self) -> Tile:
        return Tile(self.level, self.index)


class Edge:
    """The right edge of a growing tree: at each tile level the tile that is not full yet.

    It holds all that is needed to go on (at most 255 hashes a level), so a log of any length streams through it.
    """

    def __init__(self) -> None:
        self.size = TreeSize(0)
        self._rows: list[bytearray] = []  # the hashes of the partial tile of each level
        self._frontiers: list[list[bytes]] = []  # the frontier within that tile

    def append(self, leaf_hash: bytes) -> list[FullTile]:
        """Add a leaf; return the tiles that became full by it, from level 0 upwards: mostly none."""
        full: list[FullTile] = []
        hash_, level = leaf_hash, 0
        self.size = TreeSize(self.size + 1)
        while True:
            if level == len(self._rows):
                self._rows.append(bytearray())
                self._frontiers.append([])
            row, frontier = self._rows[level], self._frontiers[level]
            frontier = merkle.append(frontier, TreeSize(len(row) // HASH_SIZE), hash_)
            row += hash_
            self._frontiers[level] = frontier
            if len(row) < FULL_WIDTH * HASH_SIZE:
                return full
            (hash_,) = frontier
            index = (self.size >> HEIGHT * (level + 1)) - 1
            full.append(FullTile(level, index, bytes(row), hash_))
            row.clear()
            frontier.clear()
            level += 1

    @property
    def frontier(self) -> list[bytes]:
        """The frontier of the whole tree: that of the highest tile first."""
        return [hash_ for frontier in reversed(self._frontiers) for hash_ in frontier]

    def root(self) -> bytes:
        return merkle.root(self.frontier)

    def partial_tiles(self) -> list[tuple[Tile, bytes]]:
        """Return the partial tiles of the tree as it is now, with their bytes. An empty one is none."""
        return [
            (Tile(level, self.size >> HEIGHT * (level + 1), len(row) // HASH_SIZE), bytes(row))
            for level, row in enumerate(self._rows)
            if row
        ]


def _level(size: TreeSize, level: int) -> Iterator[Tile]:
    full, width = divmod(size >> (HEIGHT * level), FULL_WIDTH)
    yield from (Tile(level, index) for index in range(full))
    if width:
        yield Tile(level, full, width)


def _index_path(index: int, width: int) -> str:
    digits = str(index)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    path = "".join(f"x{group}/" for group in groups[:-1]) + groups[-1]
    return path if width == FULL_WIDTH else f"{path}.p/{width}"
