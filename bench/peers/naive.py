"""The naive service: a request is a transaction that locks the head, writes every table an append writes, and commits.

It stands on the same server with the same flags, reads the same body, seals the same sizes and gives the same answer as
`POST /v1/consents` does for a new person; it logs nothing, decides nothing, finds no duplicates and builds no tree, and
its role passes by row-level security. What it leaves out favours it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import socket
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import uvicorn

from volenti.api import wire
from volenti.flows.clock import instant, uuid7, wall_clock
from volenti.flows.record_consents import revision_token
from volenti.keys.sealer import NONCE_BYTES, TAG_BYTES, Context, seal

FLAGS: dict[str, Any] = {
    "loop": "uvloop", "http": "httptools", "ws": "none", "lifespan": "on", "interface": "asgi3",
    "proxy_headers": False, "server_header": False, "date_header": False, "access_log": False, "log_config": None,
    "backlog": 2048,
}  # fmt: skip
"""Those of `volenti serve`."""


class Sizes(msgspec.Struct, frozen=True):
    """Bytes of what Volenti stores for the same request; leaves and bodies in the entries' order."""

    leaves: tuple[int, ...]
    bodies: tuple[int, ...]
    wrapped_key: int
    identifier: int
    state: int
    answer: int


class Naive:
    """The ASGI application."""

    def __init__(self, url: str, workspace_id: UUID, secret: str, sizes: Sizes, *, connections: int) -> None:
        self._url, self._workspace, self._sizes, self._connections = url, workspace_id, sizes, connections
        self._authorization = f"Bearer {secret}".encode()
        self._pool: Any = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        headers = dict(scope["headers"])
        assert (scope["method"], scope["path"]) == ("POST", "/v1/consents")
        assert headers[b"authorization"] == self._authorization
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        answer = await self._record(msgspec.json.decode(body, type=wire.ConsentsRequest), headers[b"idempotency-key"])
        await send(
            {
                "type": "http.response.start",
                "status": 201,
                "headers": [
                    (b"content-type", b"application/json"),
                    (b"cache-control", b"no-store"),
                    (b"content-length", str(len(answer)).encode()),
                ],
            }
        )
        await send({"type": "http.response.body", "body": answer})

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        self._pool = await asyncpg.create_pool(
            self._url, min_size=self._connections, max_size=self._connections, reset=_keep
        )
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._pool.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _record(self, asked: wire.ConsentsRequest, key: bytes) -> bytes:
        sizes, now = self._sizes, wall_clock()
        workspace, holder, holder_key = self._workspace, uuid4(), os.urandom(32)
        ids = [uuid7(now, os.urandom(10)) for _ in sizes.leaves]
        leaves = [entry_id.bytes + bytes(size - 16) for entry_id, size in zip(ids, sizes.leaves, strict=True)]
        hashes = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]
        bodies = [_sealed(holder_key, size) for size in sizes.bodies]
        wrapped, state = _sealed(holder_key, sizes.wrapped_key), _sealed(holder_key, sizes.state)
        identifier, answer = _sealed(holder_key, sizes.identifier), _sealed(holder_key, sizes.answer)
        index, print_ = hashlib.sha256(str(asked.data_subject.id).encode()).digest(), hashlib.sha256(key).digest()
        async with self._pool.acquire() as connection, connection.transaction():
            first, root = await connection.fetchrow(
                "SELECT size, root FROM ledger_head WHERE workspace_id = $1 AND log_id = 1 FOR UPDATE", workspace
            )
            indexes = list(range(first, first + len(ids)))
            await connection.execute(
                "INSERT INTO ledger_entry SELECT $1, 1, u.idx, u.id, u.hash, u.leaf, clock_timestamp()"
                " FROM unnest($2::bigint[], $3::uuid[], $4::bytea[], $5::bytea[]) u(idx, id, hash, leaf)",
                workspace, indexes, ids, hashes, leaves,
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO entry_payload SELECT $1, 1, u.idx, u.body FROM unnest($2::bigint[], $3::bytea[]) u(idx, body)",
                workspace, indexes, bodies,
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO data_subject_entry SELECT $1, $2, 1, u.idx FROM unnest($3::bigint[]) u(idx)",
                workspace, holder, indexes,
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO ledger_change SELECT $1, 1, u.idx, $2 FROM unnest($3::bigint[]) u(idx)",
                workspace, holder, indexes,
            )  # fmt: skip
            await connection.execute("INSERT INTO data_subject VALUES ($1, $2, $3)", workspace, holder, wrapped)
            await connection.execute(
                "INSERT INTO data_subject_identifier VALUES ($1, $2, $3, $4)", workspace, index, holder, identifier
            )
            await connection.execute(
                "INSERT INTO data_subject_state VALUES ($1, $2, $3, $4, $5)",
                workspace, holder, first + len(ids), ids[-1], state,
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO idempotency VALUES ($1, $1, $2, $3, $4, $5, $6, $7)",
                workspace, print_, hashes[0], first, len(ids), answer, instant(now),
            )  # fmt: skip
            root = hashlib.sha256(root + hashes[-1]).digest()
            await connection.execute(
                "UPDATE ledger_head SET size = $2, root = $3::bytea, frontier = ARRAY[$3::bytea], updated_at = $4 WHERE workspace_id = $1 AND log_id = 1",
                workspace, first + len(ids), root, instant(now),
            )  # fmt: skip
        kinds = ("data_subject.updated", "consent.granted")
        return msgspec.json.encode(
            wire.RecordedAnswer(
                data_subject=asked.data_subject.id,
                entries=tuple(
                    wire.RecordedEntry(
                        entry=str(entry_id), index=first + position, kind=kind, leaf_hash=leaf_hash.hex(), applied=True, why=None
                    )
                    for position, (entry_id, kind, leaf_hash) in enumerate(zip(ids, kinds, hashes, strict=True))
                ),
                revision=revision_token(1, first + len(ids)),
                receipt=f"/v1/ledger/entries/{ids[-1]}/proof",
            )
        )  # fmt: skip


def _sealed(key: bytes, size: int) -> bytes:
    return seal(key, os.urandom(NONCE_BYTES), bytes(size - NONCE_BYTES - TAG_BYTES), Context(b"naive"))


async def _keep(_: Any) -> None:
    """No reset at release, as in Volenti's pools."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--workspace", type=UUID, required=True)
    parser.add_argument("--secret", required=True)
    parser.add_argument("--sizes", required=True, help="JSON")
    parser.add_argument("--connections", type=int, default=32)
    given = parser.parse_args()
    sizes = msgspec.json.decode(given.sizes, type=Sizes)
    application = Naive(given.url, given.workspace, given.secret, sizes, connections=given.connections)
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        print(f"naive on http://127.0.0.1:{bound.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(application, **FLAGS)).run(sockets=[bound])


if __name__ == "__main__":
    main()
