"""What the server does with hostile bytes, before any route sees them: the conformance suite that decides about upgrades."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from volenti.api.guard import HEAD_BYTES, HEADERS, QUEUED, URL_BYTES, Guard

PATIENCE = 15.0
"""Longer than anything takes here, on a busy machine too."""
HOST = b"Host: volenti.test\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: volenti.test\r\nConnection: close\r\n\r\n"
INNER = b"GET /inner HTTP/1.1\r\nHost: volenti.test\r\n\r\n"
"""A request that stands where a body does, or may: no handler must ever see it."""
CHUNKED = b"Transfer-Encoding: chunked\r\n"


class Hasty(Guard):
    """The guard with short deadlines."""

    HEAD_SECONDS = 0.5
    PROGRESS_SECONDS = 1.0
    SWEEP_SECONDS = 0.1


class Slow(Guard):
    """The guard whose deadlines do not come: what ends a connection here is something else."""

    HEAD_SECONDS = 600
    PROGRESS_SECONDS = 600


@dataclass
class Echo:
    """An application that notes each request it is called for, and answers with what it saw."""

    hits: list[str] = field(default_factory=list)
    told: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.hits.append(path)
        body = b""
        while not path.startswith("/early"):
            message = await receive()
            if message["type"] == "http.disconnect":
                self.told.set()
                return
            body += message["body"]
            if not message["more_body"] and path != "/watch":
                break
        if path.startswith("/slow"):
            await asyncio.sleep(float(scope["query_string"] or b"0.3"))
        seen = {
            "method": scope["method"],
            "path": path,
            "headers": {name.decode(): value.decode("latin-1") for name, value in scope["headers"]},
            "body": body.decode("latin-1"),
        }
        content = b"x" * 8_000_000 if path == "/large" else json.dumps(seen).encode()
        length = (b"content-length", str(len(content)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": content})


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def seen(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A server in a thread of this process."""

    address: tuple[str, int]
    app: Echo
    server: uvicorn.Server

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(self.address, timeout=PATIENCE) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield connection

    def exchange(self, *segments: bytes, pause: float = 0.05) -> tuple[list[Answer], list[str]]:
        """The answers to what is sent until the server closes, and the paths that the application was called for."""
        before = len(self.app.hits)
        with self.connected() as connection:
            for number, segment in enumerate(segments):
                if number and pause:
                    time.sleep(pause)
                if not sent(connection, segment):
                    break
            answers = list(parsed(received(connection)))
        return answers, self.hits(before)

    def hits(self, before: int) -> list[str]:
        """The calls of the application since then; all that came before this one are counted."""
        with self.connected() as connection:
            connection.sendall(b"GET /barrier HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert b"/barrier" in received(connection)
        return [path for path in self.app.hits[before:] if path != "/barrier"]

    def wait_until_alone(self) -> None:
        until = time.monotonic() + PATIENCE
        while self.server.server_state.connections and time.monotonic() < until:
            time.sleep(0.02)
        assert not self.server.server_state.connections


def sent(connection: socket.socket, data: bytes) -> bool:
    """False if the server has closed: what it refuses it need not read."""
    try:
        connection.sendall(data)
    except (ConnectionResetError, BrokenPipeError):
        return False
    return True


def received(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    data = b""
    try:
        while some := connection.recv(1 << 20):
            data += some
    except ConnectionResetError:
        pass
    return data


def parsed(data: bytes) -> Iterator[Answer]:
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", 0))
        assert len(rest) >= length, "an answer is cut"
        yield Answer(int(status.split()[1]), headers, rest[:length])
        data = rest[length:]


@contextmanager
def serving(protocol: type[HttpToolsProtocol], **options: Any) -> Iterator[Running]:
    app = Echo()
    bound = socket.create_server(("127.0.0.1", 0), backlog=512)
    server = uvicorn.Server(configured(app, protocol, **{"timeout_graceful_shutdown": 1, **options}))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    address = bound.getsockname()
    thread.start()
    try:
        yield Running(address, app, server)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def configured(app: Echo, protocol: type[HttpToolsProtocol], **options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app, loop="uvloop", http=protocol, ws="none", lifespan="off", interface="asgi3", access_log=False,
        proxy_headers=False, server_header=False, date_header=False, log_config=None, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(Hasty, timeout_keep_alive=1) as running:
        yield running


def get(path: bytes = b"/", more: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"GET " + path + b" HTTP/" + version + b"\r\n" + HOST + more + b"\r\n"


def post(more: bytes, body: bytes = b"", path: bytes = b"/", version: bytes = b"1.1") -> bytes:
    return b"POST " + path + b" HTTP/" + version + b"\r\n" + HOST + more + b"\r\n" + body


def sized(body: bytes = b"hello", more: bytes = b"", path: bytes = b"/") -> bytes:
    return post(b"Content-Length: %d\r\n" % len(body) + more, body, path)


def field_of(size: int) -> bytes:
    return b"X-Long: " + b"a" * size + b"\r\n"


LENGTH = b"Content-Length: %d\r\n" % len(INNER)
CHUNK = b"%x\r\n" % len(INNER) + INNER + b"\r\n"
EMPTY = b"0\r\n\r\n"

REFUSED_BY_HEAD = {
    "length, then coding": (400, post(LENGTH + CHUNKED, EMPTY)),
    "coding, then length": (400, post(CHUNKED + LENGTH, EMPTY)),
    "length of zero and coding": (400, post(b"Content-Length: 0\r\n" + CHUNKED, CHUNK + EMPTY)),
    "two lengths that differ": (400, post(LENGTH + b"Content-Length: 0\r\n", INNER)),
    "two lengths that are equal": (400, post(LENGTH + LENGTH, INNER)),
    "two lengths in one field": (400, post(b"Content-Length: 5, 5\r\n", b"hello")),
    "length with a plus sign": (400, post(b"Content-Length: +5\r\n", b"hello")),
    "length with a minus sign": (400, post(b"Content-Length: -5\r\n", b"hello")),
    "length with a space inside": (400, post(b"Content-Length: 1 0\r\n", b"hello")),
    "length with a space behind": (400, post(b"Content-Length: 5 \r\n", b"hello")),
    "length in hexadecimal": (400, post(b"Content-Length: 0x5\r\n", b"hello")),
    "length past 64 bits": (400, post(b"Content-Length: 18446744073709551621\r\n", b"hello")),
    "length without a value": (400, post(b"Content-Length:\r\n", b"hello")),
    "two codings in two fields": (400, post(CHUNKED + CHUNKED, EMPTY)),
    "coding xchunked": (400, post(b"Transfer-Encoding: xchunked\r\n", EMPTY)),
    "coding gzip, chunked": (400, post(b"Transfer-Encoding: gzip, chunked\r\n", EMPTY)),
    "coding chunked, identity": (400, post(b"Transfer-Encoding: chunked, identity\r\n", EMPTY)),
    "coding identity": (400, post(b"Transfer-Encoding: identity\r\n", EMPTY)),
    "coding chunked with a vertical tab": (400, post(b"Transfer-Encoding: \x0bchunked\r\n", EMPTY)),
    "coding chunked with a space behind": (400, post(b"Transfer-Encoding: chunked \r\n", EMPTY)),
    "coding without a value": (400, post(b"Transfer-Encoding:\r\n", EMPTY)),
    "coding in quotes": (400, post(b'Transfer-Encoding: "chunked"\r\n', EMPTY)),
    "coding in HTTP/1.0": (400, post(CHUNKED, CHUNK + EMPTY, version=b"1.0")),
    "space before the colon": (400, post(b"Transfer-Encoding : chunked\r\n", EMPTY)),
    "folded field": (400, get(more=b"X-A: b\r\n folded: c\r\n")),
    "folded coding": (400, post(b"Transfer-Encoding:\r\n chunked\r\n", EMPTY)),
    "bare LF at the ends of lines": (400, b"GET / HTTP/1.1\nHost: volenti.test\n\n"),
    "bare LF in a value": (400, get(more=b"X-A: b\nTransfer-Encoding: chunked\r\n")),
    "bare CR in a value": (400, get(more=b"X-A: b\rTransfer-Encoding: chunked\r\n")),
    "NUL in a value": (400, get(more=b"X-A: b\x00c\r\n")),
    "field without a name": (400, get(more=b": b\r\n")),
    "no Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, get(more=b"Host: other.test\r\n")),
    "two Hosts in HTTP/1.0": (400, get(more=HOST, version=b"1.0")),
    "HTTP/2.0": (400, get(version=b"2.0")),
    "HTTP/0.9": (400, get(version=b"0.9")),
    "no version": (400, b"GET /\r\n\r\n"),
    "an unknown method": (400, b"SMUGGLE / HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a URL that is not ASCII": (400, get("/ü".encode())),
    "a URL without a path": (400, get(b"http://volenti.test")),
    "CONNECT": (400, b"CONNECT volenti.test:443 HTTP/1.1\r\n" + HOST + b"\r\n"),
    "upgrade with a length": (400, post(b"Connection: upgrade\r\nUpgrade: h2c\r\n" + LENGTH, INNER)),
    "upgrade with a coding": (400, post(b"Connection: upgrade\r\nUpgrade: h2c\r\n" + CHUNKED, CHUNK + EMPTY)),
    "a TLS greeting": (400, bytes.fromhex("1603010200010001fc0303") + bytes(64)),
    "65 fields": (431, get(more=b"X-A: b\r\n" * HEADERS)),
    "10,000 fields": (431, get(more=b"X-A: b\r\n" * 10_000)),
    "a head of 16 KiB and more": (431, get(more=field_of(HEAD_BYTES))),
    "a head of many fields of 1 KiB": (431, get(more=field_of(1024) * 20)),
    "a URL of 9 KiB": (414, get(b"/" + b"a" * 9 * 1024)),
}  # fmt: skip

REFUSED_BY_BODY = {
    "chunk size that is no number": post(CHUNKED, b"zz\r\n"),
    "chunk size with a sign": post(CHUNKED, b"+5\r\nhello\r\n" + EMPTY),
    "chunk size with 0x": post(CHUNKED, b"0x5\r\nhello\r\n" + EMPTY),
    "chunk size past 64 bits": post(CHUNKED, b"f" * 17 + b"\r\nhello\r\n" + EMPTY),
    "chunk size with a space behind": post(CHUNKED, b"5 \r\nhello\r\n" + EMPTY),
    "chunk that is longer than its size": post(CHUNKED, b"1\r\nhello\r\n" + EMPTY),
    "chunk that ends in LF": post(CHUNKED, b"5\r\nhello\n" + EMPTY),
    "chunk extension with LF": post(CHUNKED, b"5;a\nb\r\nhello\r\n" + EMPTY),
    "chunk size that ends in LF": post(CHUNKED, b"5\nhello\r\n" + EMPTY),
    "trailer with a length": post(CHUNKED, b"0\r\nContent-Length: 5\r\n\r\n"),
    "trailer with a space before the colon": post(CHUNKED, b"0\r\nX-A : b\r\n\r\n"),
}

SERVED = {
    "a request without a body": get(),
    "a body with a length": sized(),
    "a chunked body": post(CHUNKED, b"5\r\nhello\r\n" + EMPTY),
    "a chunked body, in capitals": post(b"TRANSFER-ENCODING: Chunked\r\n", b"5\r\nhello\r\n" + EMPTY),
    "a chunk extension": post(CHUNKED, b"5;a=b\r\nhello\r\n" + EMPTY),
    "a body that looks like a request": sized(INNER),
    "chunks that look like requests": post(CHUNKED, CHUNK * 3 + EMPTY),
    "a trailer": post(CHUNKED, b"5\r\nhello\r\n0\r\nAuthorization: Bearer stolen\r\nX-Forwarded-For: ::1\r\n\r\n"),
    "a trailer with the last field of the head": post(CHUNKED + b"X-A: b\r\n", b"0\r\nX-A: c\r\n\r\n"),
    "an upgrade without a body": get(more=b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"),
    "an upgrade to a WebSocket": get(more=b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n"),
    "CRLFs before a request": b"\r\n\r\n" + get(),
    "a field that is there twice": get(more=b"Accept: a\r\nAccept: b\r\n"),
    "64 fields": get(more=b"X-A: b\r\n" * (HEADERS - 1)),
    "a head of nearly 16 KiB": get(more=field_of(HEAD_BYTES - 200)),
    "a URL of 8 KiB": get(b"/" + b"a" * (URL_BYTES - 1)),
    "a body of 1 MB": sized(b"x" * 1_000_000),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_BY_HEAD)
def test_a_refused_head_never_reaches_the_application_nor_does_what_follows_it(running: Running, name: str) -> None:
    status, request = REFUSED_BY_HEAD[name]

    answers, hits = running.exchange(request + LAST)

    assert ([status], []) == ([answer.status for answer in answers], hits)
    assert answers[0].headers["content-type"] == "application/problem+json"
    assert answers[0].headers["connection"] == "close"
    assert answers[0].seen["status"] == status


@pytest.mark.parametrize("name", REFUSED_BY_BODY)
def test_a_body_that_is_broken_in_its_first_segment_never_reaches_the_application(running: Running, name: str) -> None:
    answers, hits = running.exchange(REFUSED_BY_BODY[name] + LAST)

    assert ([answer.status for answer in answers], hits) == ([400], [])


@pytest.mark.parametrize("name", SERVED)
def test_a_valid_request_is_answered_and_so_is_the_one_behind_it(running: Running, name: str) -> None:
    answers, hits = running.exchange(SERVED[name] + LAST)

    assert ([answer.status for answer in answers], len(hits)) == ([200, 200], 2)
    assert answers[1].seen["path"] == "/last"
    assert not {"authorization", "x-forwarded-for"} & set(answers[0].seen["headers"])
    assert answers[0].seen["headers"].get("x-a") in (None, "b")


def test_bytes_that_come_one_at_a_time_mean_the_same(running: Running) -> None:
    for name, (_, request) in REFUSED_BY_HEAD.items():
        if len(request) < 300:
            answers, hits = running.exchange(*(bytes([byte]) for byte in request + LAST), pause=0)
            assert (set(), []) == ({answer.status for answer in answers} - {400}, hits), name
    for name, request in REFUSED_BY_BODY.items():
        answers, hits = running.exchange(*(bytes([byte]) for byte in request + LAST), pause=0)
        assert set() == {answer.status for answer in answers} - {400}, name
        assert hits in ([], ["/"]), name
    for name, request in SERVED.items():
        if len(request) < 300:
            answers, hits = running.exchange(*(bytes([byte]) for byte in request + LAST), pause=0)
            assert ([answer.status for answer in answers], len(hits)) == ([200, 200], 2), name
            assert "authorization" not in answers[0].seen["headers"]


@pytest.mark.parametrize("split", [0, 3], ids=["with the last chunk", "behind the last chunk"])
def test_a_trailer_in_a_segment_of_its_own_is_never_seen(running: Running, split: int) -> None:
    last = b"0\r\nAuthorization: x\r\n\r\n"

    answers, _ = running.exchange(post(CHUNKED, b"5\r\nhello\r\n" + last[:split]), last[split:] + LAST)

    assert [answer.status for answer in answers] == [200, 200]
    assert all("authorization" not in answer.seen["headers"] for answer in answers)


def test_the_field_of_a_pipelined_head_is_no_trailer(running: Running) -> None:
    answers, _ = running.exchange(post(CHUNKED, EMPTY) + get(b"/second", b"Authorization: mine\r\n") + LAST)

    assert answers[1].seen["headers"]["authorization"] == "mine"


def test_the_body_of_an_upgrade_is_never_a_request(running: Running) -> None:
    """With uvicorn 0.54 alone it is: llhttp takes an upgrade to have no body, so what comes next is the next request."""
    head, body = post(b"Connection: upgrade\r\nUpgrade: h2c\r\n" + LENGTH), INNER

    _, hits = running.exchange(head, body)

    assert hits == []


@pytest.mark.parametrize("number", [1, 20])
def test_the_nth_answer_belongs_to_the_nth_request(running: Running, number: int) -> None:
    choice = random.Random(number)
    paths = [choice.choice(["/slow", "/early", "/plain"]) + f"/{n}" for n in range(number)]
    requests = [
        sized(INNER, path=path.encode()) if choice.random() < 0.5 else get(path.encode() + b"?0.05") for path in paths
    ]

    answers, hits = running.exchange(b"".join(requests) + LAST)

    assert [*paths, "/last"] == [answer.seen["path"] for answer in answers]
    assert [*paths, "/last"] == hits


@pytest.mark.parametrize("pause", [0.0, 0.1])
@pytest.mark.parametrize(
    "bad",
    [
        b"garbage\r\n\r\n",
        get(more=HOST),
        post(CHUNKED, b"zz\r\n"),
        post(CHUNKED, b"1\r\na\r\n") + b"zz\r\n",
        get(more=field_of(HEAD_BYTES)),
    ],
    ids=["garbage", "two Hosts", "bad chunk", "bad second chunk", "large head"],
)
def test_what_is_bad_behind_an_open_request_is_refused_after_its_answer(
    running: Running, bad: bytes, pause: float
) -> None:
    segments = [get(b"/slow/1") + get(b"/2"), bad + LAST] if pause else [get(b"/slow/1") + get(b"/2") + bad + LAST]

    answers, hits = running.exchange(*segments, pause=pause)

    assert hits == ["/slow/1", "/2"]
    assert [answer.seen["path"] for answer in answers[:2]] == ["/slow/1", "/2"]
    assert [answer.status for answer in answers[:2]] == [200, 200]
    assert [answer.status for answer in answers[2:]] in ([400], [431])


def test_a_queued_body_that_breaks_later_is_refused_after_the_open_answer(running: Running) -> None:
    answers, hits = running.exchange(get(b"/slow") + post(CHUNKED, b"1\r\na\r\n", b"/broken"), b"zz\r\n" + LAST)

    assert (hits, [answer.status for answer in answers]) == (["/slow"], [200, 400])


def test_a_body_that_breaks_under_the_application_is_not_called_refused(running: Running) -> None:
    """It may have acted already: a cut connection says that the outcome is unknown, a 400 would deny it."""
    running.app.told.clear()

    answers, hits = running.exchange(post(CHUNKED, b"1\r\na\r\n"), b"zz\r\n" + LAST)

    assert (answers, hits) == ([], ["/"])
    assert running.app.told.wait(PATIENCE)


def test_a_body_that_breaks_after_its_answer_gets_no_second_answer(running: Running) -> None:
    answers, hits = running.exchange(post(CHUNKED, b"1\r\na\r\n", b"/early"), b"zz\r\n" + LAST)

    assert ([answer.status for answer in answers], hits) == ([200], ["/early"])


def test_more_requests_than_may_wait_are_refused_behind_those_that_do(running: Running) -> None:
    answers, hits = running.exchange(b"".join(get(b"/%d" % n) for n in range(QUEUED * 3)))

    assert [answer.status for answer in answers] == [200] * (QUEUED + 1) + [429]
    assert [f"/{n}" for n in range(QUEUED + 1)] == hits


def test_a_client_that_waits_for_100_continue_gets_it(running: Running) -> None:
    with running.connected() as connection:
        connection.sendall(post(b"Expect: 100-continue\r\nContent-Length: 5\r\n"))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello" + LAST)
        answers = list(parsed(received(connection)))

    assert [answer.seen["body"] for answer in answers] == ["hello", ""]


ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "URL": (b"GET /", b"a" * 1000),
    "field": (b"GET / HTTP/1.1\r\nX-A: ", b"a" * 1000),
    "fields": (b"GET / HTTP/1.1\r\n", b"X-A: b\r\n" * 100),
    "CRLFs": (b"", b"\r\n" * 500),
    "chunk size": (post(CHUNKED), b"0" * 1000),
    "chunk extension": (post(CHUNKED, b"1;"), b"a" * 1000),
    "trailer field": (post(CHUNKED, b"0\r\nX-A: "), b"a" * 1000),
    "trailer fields": (post(CHUNKED, b"0\r\n"), b"X-A: b\r\n" * 100),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_does_not_end_is_cut_off_before_it_takes_memory(name: str) -> None:
    begin, more = ENDLESS[name]
    with serving(Slow) as running, running.connected() as connection:
        connection.sendall(begin)
        taken = 0
        while taken < 3_000_000 and sent(connection, more):
            taken += len(more)
            time.sleep(0.0002)
        data = received(connection)

    assert taken < 3_000_000
    assert b"200 OK" not in data


STALLED: dict[str, tuple[bytes, float]] = {
    "silent": (b"", 0.5),
    "one byte": (b"G", 0.5),
    "half a head": (b"GET / HTTP/1.1\r\nHost: a\r\nX-", 0.5),
    "CRLFs": (b"\r\n\r\n", 0.5),
    "half a body": (sized()[:-1], 1.0),
    "no body": (sized()[:-5], 1.0),
    "half a chunk": (post(CHUNKED, b"5\r\nhe"), 1.0),
    "half a trailer": (post(CHUNKED, b"0\r\nX-A: b\r\n"), 1.0),
    "idle": (get(), 1.0),
    "idle, then CRLF": (get() + b"\r\n", 0.5),
    "idle with half a body": (sized(path=b"/early")[:-1], 1.0),
    "idle with half a head": (get() + b"GET / HT", 0.5),
}


def test_every_kind_of_stalled_connection_is_closed_by_its_deadline_and_no_request_waits_for_them(
    running: Running,
) -> None:
    with ExitStack() as stack:
        begun = time.monotonic()
        stalled = [(name, stack.enter_context(running.connected())) for name in STALLED for _ in range(10)]
        for name, connection in stalled:
            connection.sendall(STALLED[name][0])
        answers, _ = running.exchange(get(b"/while", b"Connection: close\r\n"))
        assert [answer.status for answer in answers] == [200]
        assert time.monotonic() - begun < PATIENCE / 2
        for name, connection in stalled:
            data = received(connection)
            assert time.monotonic() - begun >= STALLED[name][1], name
            assert data.count(b"HTTP/1.1 ") == (name.startswith("idle")), name


def test_a_lone_crlf_after_an_answer_does_not_stop_the_clock(running: Running) -> None:
    with running.connected() as connection:
        connection.sendall(get())
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        time.sleep(0.1)
        begun = time.monotonic()
        while time.monotonic() - begun < PATIENCE and sent(connection, b"\r\n"):
            time.sleep(0.1)

    assert 0.4 < time.monotonic() - begun < PATIENCE


def test_bytes_that_drip_do_not_extend_the_deadline_of_a_head(running: Running) -> None:
    with running.connected() as connection:
        begun = time.monotonic()
        connection.sendall(b"GET / HTTP/1.1\r\nX-A: ")
        while time.monotonic() - begun < PATIENCE and sent(connection, b"a"):
            time.sleep(0.05)

    assert 0.4 < time.monotonic() - begun < PATIENCE


def test_bytes_that_drip_into_a_body_that_was_answered_do_not_hold_the_connection(running: Running) -> None:
    with running.connected() as connection:
        begun = time.monotonic()
        connection.sendall(post(b"Content-Length: 100000\r\n", path=b"/early"))
        while time.monotonic() - begun < PATIENCE and sent(connection, b"a"):
            time.sleep(0.05)

    assert 0.9 < time.monotonic() - begun < PATIENCE


@pytest.mark.slow
def test_a_body_that_makes_progress_may_take_longer_than_its_deadline(running: Running) -> None:
    answers, _ = running.exchange(post(b"Content-Length: 12\r\n"), *[b"a"] * 12, LAST, pause=0.12)

    assert [answer.seen["body"] for answer in answers] == ["a" * 12, ""]


@pytest.mark.slow
def test_an_application_may_take_longer_than_the_deadlines_of_its_peer(running: Running) -> None:
    behind: dict[bytes, list[int]] = {
        b"": [200],
        b"GET / HT": [200],
        sized()[:-1]: [200],
        b"\r\n": [200],
        LAST: [200, 200],
    }
    with ExitStack() as stack:
        connections = [stack.enter_context(running.connected()) for _ in behind]
        for connection, second in zip(connections, behind, strict=True):
            connection.sendall(get(b"/slow?1.3"))
            time.sleep(0.02)
            connection.sendall(second)
        answers = [[answer.status for answer in parsed(received(connection))] for connection in connections]

    assert list(behind.values()) == answers


def test_a_connection_is_kept_alive_between_requests(running: Running) -> None:
    answers, _ = running.exchange(get(b"/1"), get(b"/2"), sized(path=b"/3"), LAST, pause=0.3)

    assert [answer.seen["path"] for answer in answers] == ["/1", "/2", "/3", "/last"]


@pytest.mark.slow
def test_a_peer_that_never_takes_its_answer_is_cut_off(running: Running) -> None:
    running.wait_until_alone()
    with running.connected() as connection:
        connection.sendall(get(b"/large"))
        time.sleep(0.2)
        assert running.server.server_state.connections
        running.wait_until_alone()


@pytest.mark.slow
def test_a_peer_that_takes_its_answer_slowly_gets_all_of_it(running: Running) -> None:
    with running.connected() as connection:
        connection.sendall(get(b"/large", b"Connection: close\r\n"))
        size = 0
        for _ in range(13):
            time.sleep(0.1)
            size += len(connection.recv(300_000))
        size += len(received(connection))

    assert size > 8_000_000


@pytest.mark.slow
def test_no_mutation_of_a_valid_request_kills_the_server(running: Running) -> None:
    choice = random.Random(42)
    originals = [request for request in SERVED.values() if len(request) < 400]
    with ExitStack() as stack:
        connections = [stack.enter_context(running.connected()) for _ in range(200)]
        for connection in connections:
            connection.sendall(mutated(choice.choice(originals) + choice.choice(originals), choice))
        for connection in connections:
            for answer in parsed(received(connection)):
                assert answer.status in (100, 200, 400, 414, 429, 431)

    assert running.hits(len(running.app.hits)) == []


def mutated(request: bytes, choice: random.Random) -> bytes:
    changed = bytearray(request)
    for _ in range(choice.randint(1, 4)):
        place = choice.randrange(len(changed))
        match choice.randrange(4):
            case 0:
                changed[place] = choice.randrange(256)
            case 1:
                changed.insert(place, choice.choice(b"\r\n\x00 :,;0a\xff"))
            case 2:
                del changed[place]
            case _:
                changed[place:place] = changed[max(0, place - choice.randrange(40)) : place]
    return bytes(changed)


def _serve_until_told(bound: socket.socket) -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)
    uvicorn.Server(configured(Echo(), Slow, timeout_graceful_shutdown=1)).run(sockets=[bound])


@pytest.mark.slow
def test_sigterm_ends_the_server_in_time_whatever_its_connections_wait_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        process = multiprocessing.get_context("spawn").Process(target=_serve_until_told, args=(bound,))
        process.start()
        address = bound.getsockname()
    try:
        with ExitStack() as stack:
            first, *stalled = [
                stack.enter_context(socket.create_connection(address, timeout=PATIENCE)) for _ in range(6)
            ]
            first.sendall(LAST)
            assert b"/last" in received(first)
            for connection, request in zip(
                stalled,
                [b"", get() + b"\r\n", sized()[:-1], get(b"/watch") + sized()[:-1], get(b"/slow?600")],
                strict=True,
            ):
                connection.sendall(request)
            time.sleep(0.1)
            begun = time.monotonic()
            os.kill(process.pid or 0, signal.SIGTERM)
            process.join(PATIENCE)
            assert process.exitcode == 0
            assert time.monotonic() - begun < 1 + PATIENCE / 3
    finally:
        process.kill()
        process.join()
        process.close()
