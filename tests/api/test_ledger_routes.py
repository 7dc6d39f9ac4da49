"""/v1/ledger and /log: what anybody needs to check the log without trusting us."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest

from conftest import Api
from volenti.api.app import application
from volenti.core.ledger import checkpoint, merkle, note, proof, tile
from volenti.core.ledger.checkpoint import TreeHead
from volenti.core.ledger.merkle import LeafIndex, TreeSize
from volenti.core.ledger.note import VerifierKey
from volenti.flows.manage_credentials import issue
from volenti.flows.services import Services
from volenti.settings import Settings


async def keys(api: Api) -> list[VerifierKey]:
    return [note.parse_vkey(key["vkey"]) for key in (await api.get("/v1/ledger/keys")).json()["data"]]


async def signed(api: Api) -> TreeHead:
    """The newest checkpoint, verified."""
    answer = await api.get("/v1/ledger/checkpoint")
    assert answer.headers["content-type"].startswith("text/plain")
    return checkpoint.verify(answer.text, await keys(api))


async def grown(api: Api, people: int = 3) -> TreeHead:
    for number in range(people):
        assert (await api.choose(f"cus_{number}", "withdraw")).status_code == 201
    return await settled(api)


async def settled(api: Api) -> TreeHead:
    """The checkpoint that covers everything written so far."""
    newest = (await api.get("/v1/data-subjects/cus_0/history")).json()["data"][-1]["index"]
    await api.get(f"/v1/ledger/entries/{newest}/proof")
    return await signed(api)


async def log_of(api: Api) -> str:
    origin: str = (await api.get("/v1/ledger/keys")).json()["data"][0]["origin"]
    return origin.rpartition("/")[2]


async def test_every_entry_is_proved_in_both_forms_against_the_signed_root(api: Api) -> None:
    head = await grown(api)
    for index in range(head.size):
        entry = (await api.get(f"/v1/ledger/entries/{index}")).json()
        leaf = base64.b64decode(entry["leaf"])
        assert merkle.leaf_hash(leaf).hex() == entry["leaf_hash"]
        answer = (await api.get(f"/v1/ledger/entries/{index}/proof")).json()
        root = checkpoint.verify(answer["checkpoint"], await keys(api)).root
        path = [bytes.fromhex(node) for node in answer["path"]]
        assert (root.hex(), answer["index"]) == (answer["root"], index)
        assert merkle.verify_inclusion(LeafIndex(index), TreeSize(answer["size"]), merkle.leaf_hash(leaf), path, root)
        text = await api.get(f"/v1/ledger/entries/{index}/proof", accept="text/plain")
        assert text.headers["content-type"].startswith("text/plain")
        assert proof.verify(text.text, merkle.leaf_hash(leaf), await keys(api)).size == answer["size"]


async def test_an_entry_is_the_same_by_its_index_and_by_its_id(api: Api) -> None:
    await grown(api, 1)
    by_index = (await api.get("/v1/ledger/entries/2")).json()
    assert (await api.get(f"/v1/ledger/entries/{by_index['entry']}")).json() == by_index
    assert by_index["content"]["id"] == by_index["entry"]


async def test_an_entry_can_be_proved_as_soon_as_it_is_acknowledged(api: Api) -> None:
    for number in range(5):
        receipt = (await api.choose(f"cus_{number}", "withdraw")).json()["receipt"]
        assert (await api.get(receipt)).status_code == 200


async def test_each_tree_extends_every_one_before_it(api: Api) -> None:
    head = await grown(api, 4)
    roots = {}
    leaves = [bytes.fromhex((await api.get(f"/v1/ledger/entries/{index}")).json()["leaf_hash"]) for index in range(head.size)]  # fmt: skip
    frontier: list[bytes] = []
    for size, leaf in enumerate(leaves):
        frontier = merkle.append(frontier, TreeSize(size), leaf)
        roots[size + 1] = merkle.root(frontier)
    assert roots[head.size] == head.root
    for old in range(1, head.size + 1):
        for new in range(old, head.size + 1):
            answer = (await api.get(f"/v1/ledger/consistency?from={old}&to={new}")).json()
            path = [bytes.fromhex(node) for node in answer["path"]]
            assert (answer["from"], answer["to"]) == (old, new)
            assert merkle.verify_consistency(TreeSize(old), TreeSize(new), path, roots[old], roots[new])


async def test_tiles_and_bundles_are_the_tree_that_was_signed(api: Api) -> None:
    head = await grown(api)
    prefix = f"/log/{await log_of(api)}"
    same = checkpoint.verify((await api.get(f"{prefix}/checkpoint")).text, await keys(api))
    assert same.size >= head.size
    for width in range(1, head.size + 1):
        hashes = await api.get(f"{prefix}/tile/0/000.p/{width}")
        assert hashes.headers["content-type"] == "application/octet-stream"
        bundle = await api.get(f"{prefix}/tile/entries/000.p/{width}")
        leaves = tile.decode_bundle(bundle.content, width)
        assert [merkle.leaf_hash(leaf) for leaf in leaves] == tile.hashes_of(hashes.content)
    frontier: list[bytes] = []
    for index, leaf in enumerate(leaves):
        frontier = merkle.append(frontier, TreeSize(index), merkle.leaf_hash(leaf))
    assert merkle.root(frontier) == head.root


@pytest.mark.parametrize("rest", ["tile/0/000.p/200", "tile/0/000", "tile/1/000.p/1", "tile/0/001.p/1", "tile/entries/000", "tile/entries/001", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/0", "tile/0/00a", "tile/64/000.p/1", "tile/-1/000.p/1", "tile/0/x001", "tile/0", "tile/entries", "tile/0/entries/000.p/1", "tile/0/x1000000000000000000000/000", "tile/00/000.p/1"])  # fmt: skip
async def test_a_tile_that_the_signed_tree_does_not_reach_is_404(api: Api, rest: str) -> None:
    await grown(api, 1)
    answer = await api.get(f"/log/{await log_of(api)}/{rest}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.slow
async def test_a_full_tile_may_be_kept_for_ever_and_a_partial_one_not_at_all(api: Api) -> None:
    body = {"events": [{"kind": "deny", "purpose": purpose} for purpose in ("newsletter", "analytics", "advertising", "personalisation", "model_training")] * 10, "actor": {"type": "data_subject"}}  # fmt: skip
    for number in range(6):
        assert (await api.post("/v1/consents", {"data_subject": {"id": f"cus_{number}"}, **body})).status_code == 201
    head = await settled(api)
    assert head.size > tile.FULL_WIDTH
    prefix = f"/log/{await log_of(api)}/tile"
    full, bundle, partial = [await api.get(f"{prefix}/{rest}") for rest in ("0/000", "entries/000", "0/001.p/1")]
    assert "immutable" in full.headers["cache-control"]
    assert "immutable" in bundle.headers["cache-control"]
    assert partial.headers["cache-control"] == "no-store"
    upper = await api.get(f"{prefix}/1/000.p/1")
    frontier: list[bytes] = []
    for index, leaf in enumerate(tile.hashes_of(full.content)):
        frontier = merkle.append(frontier, TreeSize(index), leaf)
    assert tile.hashes_of(upper.content) == [merkle.root(frontier)]


async def test_the_entries_of_a_log_need_the_scope_of_exports(api: Api) -> None:
    await grown(api, 1)
    reader = await issue(api.services, api.workspace, component="reader", scopes=["ledger:read"])
    headers = {"authorization": f"Bearer {reader.secret}"}
    prefix = f"/log/{await log_of(api)}"
    assert (await api.get(f"{prefix}/tile/0/000.p/1", **headers)).status_code == 200
    assert (await api.get(f"{prefix}/tile/entries/000.p/1", **headers)).status_code == 403


@pytest.fixture
async def public(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    """An application whose logs are public."""
    settings = Settings(data_dir=services.settings.data_dir, log_level="error", public_log=True)
    app = application(replace(services, settings=settings))
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with app.started(), httpx.AsyncClient(transport=transport, base_url="http://volenti.test") as http:
        yield http


async def test_a_public_log_shows_its_hashes_to_everybody_and_its_entries_to_nobody(
    api: Api, public: httpx.AsyncClient
) -> None:
    head = await grown(api)
    prefix = f"/log/{await log_of(api)}"
    assert checkpoint.verify((await public.get(f"{prefix}/checkpoint")).text, await keys(api)).size >= head.size
    assert (await public.get(f"{prefix}/tile/0/000.p/1")).status_code == 200
    assert (await public.get(f"{prefix}/tile/entries/000.p/1")).status_code == 401
    assert (await public.get("/v1/ledger/checkpoint")).status_code == 401
    assert (await public.get("/log/nobody/checkpoint")).status_code == 404


async def test_a_log_is_not_public_unless_the_deployment_says_so(api: Api) -> None:
    prefix = f"/log/{await log_of(api)}"
    for rest in ("checkpoint", "tile/0/000.p/1"):
        assert (await api.http.get(f"{prefix}/{rest}")).status_code == 401


async def test_the_public_keys_of_tokens_are_those_that_sign_offers(api: Api) -> None:
    (key,) = (await api.http.get("/.well-known/jwks.json")).json()["keys"]
    assert (key["kty"], key["crv"], key["use"]) == ("OKP", "Ed25519", "sig")
    assert len(base64.urlsafe_b64decode(key["x"] + "=")) == 32
    assert "d" not in key
    offer = await api.post("/v1/offers", {"purposes": ["newsletter"], "surface": "x", "language": "en"})
    assert key["kid"] in base64.urlsafe_b64decode(offer.json()["offer"].split(".")[0] + "==").decode()
