"""Independent implementations agree with ours: on roots, proofs, notes, checkpoints and the whole receipt."""

import json
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from volenti.core.ledger import merkle, note, tile
from volenti.core.ledger.merkle import LeafIndex, TreeSize

pytestmark = pytest.mark.interop

VECTORS = Path(__file__).parents[1] / "vectors"
FROZEN: dict[str, Any] = json.loads((VECTORS / "c2sp.json").read_text(encoding="utf-8"))
LOG, WITNESS = FROZEN["log"]["vkey"], FROZEN["witness"]["vkey"]
RECEIPT: str = FROZEN["proof_of_leaf_5"]["text"]
COSIGNED = RECEIPT.partition("\n\n")[2]
CHECKPOINT = COSIGNED[: COSIGNED.index("\u2014 witness")]
LEAVES = [bytes.fromhex(leaf) for leaf in json.loads((VECTORS / "rfc6962.json").read_text())["leaves"]]
LEAVES += [b"leaf %d" % n for n in range(len(LEAVES), 33)]
SIZES = range(1, len(LEAVES) + 1)


def package(name: str) -> ModuleType:
    """Import an interop package. What it warns about when it is imported is its own matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: ModuleType = pytest.importorskip(name, reason=f"{name} is not installed: pip install --group interop")
    return module


@cache
def edge(size: int) -> tile.Edge:
    grown = tile.Edge()
    for leaf in LEAVES[:size]:
        grown.append(merkle.leaf_hash(leaf))
    return grown


def root(size: int) -> bytes:
    return edge(size).root()


def tiles(size: int) -> dict[tuple[int, int], bytes]:
    return {(partial.level, partial.index): hashes for partial, hashes in edge(size).partial_tiles()}


def inclusion(index: int, size: int) -> list[bytes]:
    plan = merkle.inclusion_plan(LeafIndex(index), TreeSize(size))
    return merkle.finish(plan, tile.nodes_from(tiles(size), plan.nodes))


def consistency(old: int, new: int) -> list[bytes]:
    plan = merkle.consistency_plan(TreeSize(old), TreeSize(new))
    return merkle.finish(plan, tile.nodes_from(tiles(new), plan.nodes))


def hexed(hashes: list[bytes]) -> list[str]:
    return [hash_.hex() for hash_ in hashes]


def test_pymerkle_has_our_roots_and_our_paths() -> None:
    pymerkle = package("pymerkle")
    tree = pymerkle.InmemoryTree.init_from_entries(LEAVES, algorithm="sha256")

    for size in SIZES:
        assert root(size) == tree.get_root(size)
        for index in range(size):
            proof = tree.prove_inclusion(index + 1, size)  # it counts from one, and puts the leaf's hash in front

            assert {merkle.leaf_hash(LEAVES[index]), *inclusion(index, size)} == set(proof.path)


def test_scitt_cose_makes_and_accepts_our_proofs() -> None:
    scitt = package("scitt_cose.merkle")
    for size in SIZES:
        entries = hexed(LEAVES[:size])

        assert root(size).hex() == scitt.merkle_root(entries)
        for index in range(size):
            path = hexed(inclusion(index, size))

            assert path == scitt.inclusion_proof(entries, index)
            assert scitt.verify_inclusion(entries[index], index, size, path, root(size).hex())
        for old in range(1, size + 1):
            path = hexed(consistency(old, size))

            assert path == scitt.consistency_proof(entries, old, size)
            assert scitt.verify_consistency(root(old).hex(), root(size).hex(), old, size, path)


def test_tamperlog_makes_and_accepts_our_proofs() -> None:
    tamperlog = package("tamperlog")
    for size in SIZES:
        hashes = [merkle.leaf_hash(leaf) for leaf in LEAVES[:size]]

        assert root(size) == tamperlog.merkle_root(hashes)
        for index in range(size):
            assert inclusion(index, size) == tamperlog.inclusion_proof(index, hashes)
            tamperlog.verify_inclusion(index, size, hashes[index], inclusion(index, size), root(size))
        for old in range(1, size + 1):
            assert consistency(old, size) == tamperlog.consistency_proof(old, hashes)
            tamperlog.verify_consistency(old, root(old), size, root(size), consistency(old, size))


def test_proofbundle_makes_and_accepts_our_proofs() -> None:
    proofbundle = package("proofbundle.merkle")
    for size in SIZES:
        assert root(size) == proofbundle.merkle_tree_hash(LEAVES[:size])
        for index in range(size):
            assert inclusion(index, size) == proofbundle.inclusion_proof(LEAVES[:size], index)
            assert proofbundle.verify_inclusion(LEAVES[index], index, size, inclusion(index, size), root(size))
        for old in range(1, size + 1):
            assert proofbundle.verify_consistency(old, size, consistency(old, size), root(old), root(size))


def test_proofbundle_accepts_our_receipt_from_the_leaf_to_the_witness() -> None:
    tlogproof = package("proofbundle.tlogproof")

    def verdict(text: str) -> dict[str, Any]:
        answer: dict[str, Any] = tlogproof.verify_tlog_proof(
            text, LEAVES[5], LOG, [WITNESS], threshold=1, expected_origin="volenti.example/acme"
        )
        return answer

    good = verdict(RECEIPT)
    assert tuple(good[name] for name in ("ok", "log_ok", "witnesses_ok", "inclusion_ok")) == (True, True, True, True)
    assert (good["index"], good["tree_size"]) == (5, 8)
    assert not verdict(RECEIPT.replace("index 5", "index 4"))["ok"]
    assert not verdict(RECEIPT.replace("\n8\n", "\n9\n"))["ok"]


def test_proofbundle_writes_our_verifier_keys_and_receipts() -> None:
    checkpoint, tlogproof = package("proofbundle.checkpoint"), package("proofbundle.tlogproof")

    assert checkpoint.vkey("volenti.example/acme", bytes.fromhex(FROZEN["log"]["public_key"])) == LOG
    assert checkpoint.cosign_vkey("witness.example/w1", bytes.fromhex(FROZEN["witness"]["public_key"])) == WITNESS
    assert tlogproof.format_tlog_proof(5, inclusion(5, 8), COSIGNED) == RECEIPT


def test_tlog_scales_accepts_our_keys_checkpoints_and_consistency_proofs() -> None:
    tlog, signing = package("tlog_scales.tlog"), package("tlog_scales.signing")
    for text in (CHECKPOINT, COSIGNED):
        checkpoint = tlog.Checkpoint.from_text(text)
        checkpoint.verify(signing.Vkey.from_string(LOG))

        assert ("volenti.example/acme", 8, root(8)) == (checkpoint.origin, checkpoint.size, checkpoint.root_hash)
        assert text == checkpoint.serialize()
    for vkey in (LOG, WITNESS):
        assert vkey == signing.Vkey.from_string(vkey).serialize() == note.parse_vkey(vkey).vkey
    for size in SIZES:
        for old in range(1, size):
            tlog.ConsistencyProof(old, size, consistency(old, size)).check(root(old), root(size))


def test_tlog_scales_counts_our_witness() -> None:
    tlog, signing = package("tlog_scales.tlog"), package("tlog_scales.signing")
    checkpoint = tlog.Checkpoint.from_text(COSIGNED)
    keys = signing.VkeySet(signing.Vkey.from_string(LOG), signing.Vkey.from_string(WITNESS))

    assert len(keys.verify(checkpoint.signatures, checkpoint)) == 2


def test_sigstore_accepts_our_inclusion_proofs() -> None:
    sigstore = package("sigstore._internal.merkle")
    for size in SIZES:
        for index in range(size):
            proof = SimpleNamespace(
                log_index=index, tree_size=size, hashes=inclusion(index, size), root_hash=root(size)
            )

            sigstore.verify_merkle_inclusion(
                SimpleNamespace(_inner=SimpleNamespace(inclusion_proof=proof, canonicalized_body=LEAVES[index]))
            )


def test_sigstore_reads_our_checkpoint() -> None:
    signed = package("sigstore._internal.rekor.checkpoint").SignedCheckpoint.from_text(CHECKPOINT)

    assert (signed.checkpoint.origin, signed.checkpoint.log_size) == ("volenti.example/acme", 8)
    assert root(8).hex() == signed.checkpoint.log_hash
    assert note.parse(CHECKPOINT).text == signed.signed_note.note
    assert [note.parse_vkey(LOG).key_id] == [signature.sig_hash for signature in signed.signed_note.signatures]
