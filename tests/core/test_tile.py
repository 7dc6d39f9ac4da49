"""Tiles are C2SP's: the same bytes under the same paths, and a node is found in exactly one of them."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volenti.core.ledger.merkle import (
    EMPTY_ROOT,
    LeafIndex,
    TreeSize,
    append,
    consistency_plan,
    finish,
    inclusion_plan,
    leaf_hash,
    node_hash,
    root,
    verify_consistency,
    verify_inclusion,
)
from volenti.core.ledger.tile import (
    FULL_WIDTH,
    MAX_INDEX,
    Bundle,
    Edge,
    FullTile,
    Tile,
    decode_bundle,
    encode_bundle,
    expected_bundles,
    expected_tiles,
    hashes_of,
    node_in,
    nodes_from,
    parse,
    place_of,
    tiles_of,
    width_of,
)
from volenti.errors import Invalid, LedgerDamaged

FROZEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "c2sp.json").read_text(encoding="utf-8"))
DECIMAL = FROZEN["decimal_leaves"]


class Grown:
    """A tree of decimal leaves, with its tiles as they came, and its roots at some sizes."""

    def __init__(self, size: int) -> None:
        edge, full = Edge(), list[FullTile]()
        self.roots = {0: edge.root()}
        for n in range(size):
            full += edge.append(leaf_hash(b"%d" % n))
            if str(n + 1) in DECIMAL["roots"] or n < 600:
                self.roots[n + 1] = edge.root()
        self.full = full
        self.edge = edge
        self.tiles = {grown.tile: grown.hashes for grown in full} | dict(edge.partial_tiles())

    @property
    def by_key(self) -> dict[tuple[int, int], bytes]:
        return {(tile.level, tile.index): hashes for tile, hashes in self.tiles.items()}


@pytest.fixture(scope="module")
def grown() -> Grown:
    return Grown(70_000)


@pytest.mark.parametrize(
    ("named", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 0, 1), "tile/0/000.p/1"),
        (Tile(1, 273, 112), "tile/1/273.p/112"),
        (Tile(63, 999), "tile/63/999"),
        (Tile(0, 1000), "tile/0/x001/000"),
        (Tile(2, 1234067), "tile/2/x001/x234/067"),
        (Tile(0, 1234067, 255), "tile/0/x001/x234/067.p/255"),
        (Tile(0, MAX_INDEX), "tile/0/x009/x223/x372/x036/x854/x775/807"),
        (Bundle(0), "tile/entries/000"),
        (Bundle(1234067, 8), "tile/entries/x001/x234/067.p/8"),
    ],
)
def test_a_tile_has_one_path(named: Tile | Bundle, path: str) -> None:
    assert path == named.path
    assert named == parse(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0",
        "/tile/0/000",
        "tile/0/000/",
        "tile/0/000\n",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/x000/000",
        "tile/0/001/234",
        "tile/0/x001/x234",
        "tile/0/x1/000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/000.P/1",
        "tile/Entries/000",
        "tile/0/\u0660\u0661\u0662",
        "tile/0/x009/x223/x372/x036/x854/x775/808",
        "tile/0/x001/x000/x000/x000/x000/x000/x000/000",
        "tile/entries/../checkpoint",
    ],
)
def test_any_other_path_is_refused(path: str) -> None:
    with pytest.raises(Invalid):
        parse(path)


@given(st.integers(0, 63), st.integers(0, MAX_INDEX), st.integers(1, FULL_WIDTH))
def test_every_path_reads_back(level: int, index: int, width: int) -> None:
    assert Tile(level, index, width) == parse(Tile(level, index, width).path)
    assert Bundle(index, width) == parse(Bundle(index, width).path)


def test_a_tree_of_70000_has_the_tiles_of_the_specification() -> None:
    tiles = list(expected_tiles(TreeSize(70_000)))

    assert sum(tile.level == 0 and tile.width == FULL_WIDTH for tile in tiles) == 273
    assert [Tile(0, 273, 112), Tile(1, 0), Tile(1, 1, 17), Tile(2, 0, 1)] == tiles[273:]
    assert [Bundle(n) for n in range(273)] + [Bundle(273, 112)] == list(expected_bundles(TreeSize(70_000)))


@pytest.mark.parametrize(
    ("size", "paths"),
    [
        (0, []),
        (1, ["tile/0/000.p/1"]),
        (255, ["tile/0/000.p/255"]),
        (256, ["tile/0/000", "tile/1/000.p/1"]),
        (257, ["tile/0/000", "tile/0/001.p/1", "tile/1/000.p/1"]),
    ],
)
def test_empty_tiles_are_no_tiles(size: int, paths: list[str]) -> None:
    assert paths == [tile.path for tile in expected_tiles(TreeSize(size))]


def test_the_width_of_a_tile_follows_from_the_size() -> None:
    size = TreeSize(70_000)

    assert {tile: tile.width for tile in expected_tiles(size)} == {
        tile: width_of(size, tile.level, tile.index) for tile in expected_tiles(size)
    }
    assert [width_of(size, 0, 274), width_of(size, 2, 1), width_of(size, 3, 0)] == [0, 0, 0]


@pytest.mark.parametrize("size", DECIMAL["roots"])
def test_the_roots_of_decimal_leaves_are_the_frozen_ones(grown: Grown, size: str) -> None:
    assert DECIMAL["roots"][size] == grown.roots[int(size)].hex()


@pytest.mark.parametrize("path", DECIMAL["tile_sha256_at_70000"])
def test_the_tiles_of_decimal_leaves_are_the_frozen_ones(grown: Grown, path: str) -> None:
    named = parse(path)
    assert isinstance(named, Tile)

    assert DECIMAL["tile_sha256_at_70000"][path] == sha256(grown.tiles[named]).hexdigest()


def test_a_growing_tree_hands_out_exactly_the_expected_tiles(grown: Grown) -> None:
    assert set(expected_tiles(TreeSize(70_000))) == set(grown.tiles)
    for tile, hashes in grown.tiles.items():
        assert tile.width * 32 == len(hashes)


def test_the_root_of_a_full_tile_is_a_hash_of_the_tile_above(grown: Grown) -> None:
    above = grown.by_key
    for full in grown.full:
        index, position = divmod(full.index, FULL_WIDTH)

        assert full.root == hashes_of(above[full.level + 1, index])[position]


def test_tiles_arrive_with_the_leaf_that_fills_them_lower_levels_first() -> None:
    edge = Edge()
    arrivals = [(n, [(full.level, full.index) for full in edge.append(leaf_hash(b"%d" % n))]) for n in range(65_536)]

    assert [arrivals[n][1] for n in (255, 511, 65_535)] == [[(0, 0)], [(0, 1)], [(0, 255), (1, 0)]]
    assert sum(bool(full) for _, full in arrivals) == 256
    assert [(Tile(2, 0, 1), edge.root())] == edge.partial_tiles()


def test_an_edge_has_the_frontier_and_root_of_the_plain_tree_at_every_size() -> None:
    edge, frontier = Edge(), list[bytes]()
    assert (edge.size, edge.root()) == (0, EMPTY_ROOT)
    for n in range(600):
        frontier = append(frontier, TreeSize(n), leaf_hash(b"%d" % n))
        edge.append(leaf_hash(b"%d" % n))

        assert (n + 1, frontier, root(frontier)) == (edge.size, edge.frontier, edge.root())


@pytest.mark.parametrize(
    ("node", "tile", "start", "stop"),
    [
        ((0, 0), (0, 0), 0, 1),
        ((0, 257), (0, 1), 1, 2),
        ((1, 127), (0, 0), 254, 256),
        ((7, 3), (0, 1), 128, 256),
        ((8, 0), (1, 0), 0, 1),
        ((9, 128), (1, 1), 0, 2),
        ((16, 5), (2, 0), 5, 6),
    ],
)
def test_a_node_has_one_place(node: tuple[int, int], tile: tuple[int, int], start: int, stop: int) -> None:
    place = place_of(node)

    assert (tile, start, stop) == (place.tile, place.start, place.stop)


def test_proofs_made_from_tiles_verify(grown: Grown) -> None:
    size = TreeSize(70_000)
    for index in (0, 255, 256, 65_535, 65_536, 69_887, 69_888, 69_999):
        plan = inclusion_plan(LeafIndex(index), size)
        tiles = {key: grown.by_key[key] for key in tiles_of(plan.nodes)}
        proof = finish(plan, nodes_from(tiles, plan.nodes))

        assert verify_inclusion(LeafIndex(index), size, leaf_hash(b"%d" % index), proof, grown.roots[size])
    for old in (1, 255, 256, 257, 300, 599, 65_536):
        plan = consistency_plan(TreeSize(old), size)
        proof = finish(plan, nodes_from(grown.by_key, plan.nodes))

        assert verify_consistency(TreeSize(old), size, proof, grown.roots[old], grown.roots[size])


def test_a_missing_tile_raises_and_never_shortens_a_proof(grown: Grown) -> None:
    plan = inclusion_plan(LeafIndex(300), TreeSize(70_000))
    for left_out in tiles_of(plan.nodes):
        tiles = {key: hashes for key, hashes in grown.by_key.items() if key != left_out}

        with pytest.raises(LedgerDamaged):
            nodes_from(tiles, plan.nodes)


def test_a_tile_that_is_too_short_raises(grown: Grown) -> None:
    hashes = grown.tiles[Tile(0, 0)]
    place = place_of((7, 1))

    assert node_in(hashes, place_of((1, 3))) == node_hash(leaf_hash(b"6"), leaf_hash(b"7"))
    for cut in (hashes[:-32], hashes[:-1], b""):
        with pytest.raises(LedgerDamaged):
            node_in(cut, place)


@given(st.lists(st.binary(max_size=300), max_size=FULL_WIDTH))
def test_a_bundle_reads_back(entries: list[bytes]) -> None:
    assert entries == decode_bundle(encode_bundle(entries), len(entries))


def test_lengths_are_big_endian() -> None:
    assert b"\x01\x02" + bytes(258) + b"\x00\x00" == encode_bundle([bytes(258), b""])


@pytest.mark.parametrize(
    ("bundle", "width"),
    [
        (b"", 1),
        (b"\x00", 1),
        (b"\x00\x01", 1),
        (b"\x00\x02a", 1),
        (b"\x00\x01a", 2),
        (b"\x00\x01a\x00", 2),
        (b"\x00\x01a\x00\x01b", 1),
        (b"\x00\x01a\x00", 1),
        (b"\x01\x00a", 1),
        (b"\x00", 0),
    ],
)
def test_a_bundle_holds_exactly_its_entries(bundle: bytes, width: int) -> None:
    with pytest.raises(Invalid):
        decode_bundle(bundle, width)


def test_an_entry_that_does_not_fit_is_refused() -> None:
    assert len(encode_bundle([bytes(65_535)])) == 65_537
    with pytest.raises(Invalid):
        encode_bundle([bytes(65_536)])
