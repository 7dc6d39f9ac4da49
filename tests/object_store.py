"""An S3-compatible store on 127.0.0.1 that a test can make fail: moto's server behind a switch."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

_numbers = itertools.count()
_NOBODY = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "tests",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


def forget_the_cloud(patch: pytest.MonkeyPatch) -> None:
    """Credentials that are nobody's and nothing of the machine's, so that no client looks beyond 127.0.0.1."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    for name, value in _NOBODY.items():
        patch.setenv(name, value)


Fault = Literal[
    "500 before",
    "500 after",
    "409 before",
    "dropped before",
    "dropped after",
    "silent before",
    "silent after",
    "garbage after",
]
"""What a write is answered with, and whether it was done: `before` it is not, `after` it is."""
App = Callable[[dict[str, Any], Any], Iterable[bytes]]


@dataclass
class ObjectStore:
    """The store. `fault` falls on the next write only (`late`: it is done when `released`); `ignores_conditions` makes it one that knows neither header."""

    app: App = field(default_factory=lambda: DomainDispatcherApplication(create_backend_app))
    url: str = ""
    bucket: str = field(default_factory=lambda: f"volenti-tests-{next(_numbers)}")  # moto has one world a process
    fault: Fault | Literal["late"] | None = None
    ignores_conditions: bool = False
    writes: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    landed: threading.Event = field(default_factory=threading.Event)
    _one: threading.Lock = field(default_factory=threading.Lock)

    def client(self) -> Any:
        return boto3.client("s3", endpoint_url=self.url)

    def objects(self) -> Mapping[str, str]:
        """What the bucket holds."""
        client = self.client()
        keys = [one["Key"] for one in client.list_objects_v2(Bucket=self.bucket).get("Contents", [])]
        kept = {key: client.get_object(Bucket=self.bucket, Key=key)["Body"].read().decode() for key in keys}
        client.close()
        return kept

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT" or environ["PATH_INFO"].count("/") == 1:
            return self.app(environ, start_response)
        if "HTTP_CONTENT_MD5" not in environ:
            start_response("400 Bad Request", [("Content-Type", "application/xml")])
            return [
                b"<Error><Code>InvalidRequest</Code><Message>as a bucket with Object Lock answers</Message></Error>"
            ]
        if self.fault == "late":
            return self._late(environ, start_response)
        with self._one:  # moto looks at the condition and writes in two steps; a store does it in one
            self.writes += 1
            fault, self.fault = self.fault, None
            if self.ignores_conditions:
                environ = {k: v for k, v in environ.items() if k not in ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH")}
            if fault is None:
                return self.app(environ, start_response)
            if fault.endswith("after"):
                list(self.app(environ, lambda *_: None))
        return self._fail(fault, environ, start_response)

    def _late(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Do the write when the test says so, long after who asked has given up."""
        self.fault = None
        self.released.wait(30)
        with self._one:
            answer = self.app(environ, start_response)
        self.landed.set()
        return answer

    def _fail(self, fault: Fault, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        match fault.split()[0]:
            case "dropped":
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            case "silent":
                self.released.wait(30)
            case "garbage":
                start_response("200 OK", [("Content-Length", "1000")])
                return [b"<"]
            case "409":
                start_response("409 Conflict", [("Content-Type", "application/xml")])
                return [b"<Error><Code>ConditionalRequestConflict</Code><Message>retry</Message></Error>"]
            case _:
                pass
        start_response("500 Internal Server Error", [("Content-Type", "application/xml")])
        return [b"<Error><Code>InternalError</Code><Message>again</Message></Error>"]


class _Quiet(MotoRequestHandler):
    def log(self, *_: Any) -> None: ...


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A store with one empty bucket and credentials for it, for as long as the block lasts."""
    with pytest.MonkeyPatch.context() as patched:
        forget_the_cloud(patched)
        with _served(ObjectStore()) as store:
            yield store


@contextmanager
def _served(store: ObjectStore) -> Iterator[ObjectStore]:
    server: Any = make_server("127.0.0.1", 0, store, threaded=True, request_handler=_Quiet)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        store.url = f"http://127.0.0.1:{server.server_port}"
        client = store.client()
        client.create_bucket(Bucket=store.bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        client.close()
        yield store
    finally:
        store.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
