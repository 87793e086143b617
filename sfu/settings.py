"""Every setting: its default, its bounds and its sentence.

Read from `config/sfu.toml` or another TOML file, then from the environment
(`SFU_<SECTION>__<NAME>`), which wins. Parsed once, at the start; frozen afterwards.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

# HS256 wants a key as long as its hash, RFC 7518 section 3.2.
MIN_SECRET_BYTES = 32


class SettingsError(Exception):
    """The settings cannot be used; the message says which and why."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Http(_Section):
    """The TCP port of pages, WebSockets, health and metrics."""

    host: str = Field("127.0.0.1", description="Address that HTTP and WebSockets listen on.")
    port: int = Field(
        8080, ge=0, le=65535, description="TCP port of HTTP and WebSockets; 0 takes a free one."
    )
    public_url: str = Field(
        "", description="The URL by which clients reach this server; empty: taken from each request."
    )
    allowed_origins: list[str] = Field(
        [],
        description="Web origins whose pages may open the socket; empty: only pages of this server.",
    )
    max_sockets: int = Field(10_000, ge=1, description="WebSockets at once; more are closed with 1013.")
    resume_window_s: float = Field(
        30, ge=0, le=600, description="How long a session waits for its socket to come back after a cut."
    )


class Auth(_Section):
    """Whose tokens are believed."""

    secret: str = Field(
        "", description="Secret of HS256 tokens, at least 32 bytes. Needed unless --dev.", repr=False
    )
    public_key_file: str = Field(
        "", description="PEM file of a public key for RS256, ES256 or EdDSA tokens; empty: HS256 only."
    )
    algorithms: list[Literal["HS256", "RS256", "ES256", "EdDSA"]] = Field(
        ["HS256"], description="Algorithms that are accepted; each needs its key."
    )
    issuer: str = Field("", description="The `iss` that a token must carry; empty: any.")
    audience: str = Field("sfu", description="The `aud` that a token must carry.")
    leeway_s: float = Field(5, ge=0, le=60, description="Clock difference forgiven in `exp` and `nbf`.")


class Media(_Section):
    """The UDP port of everybody's audio and video."""

    listen_ip: str = Field("0.0.0.0", description="Address that media listens on.")
    public_ip: str = Field(
        "", description="Address that clients are told; empty: every address of the listening interfaces."
    )
    udp_port: int = Field(7882, ge=0, le=65535, description="UDP port of all media; 0 takes a free one.")
    tcp_port: int = Field(
        7881, ge=0, le=65535, description="TCP port of media for networks that block UDP; 0 takes a free one."
    )
    certificate_file: str = Field(
        "",
        description="PEM file of the DTLS key and certificate, made if missing; empty: new at each start.",
    )
    codecs: list[Literal["opus", "red", "vp8", "h264", "vp9", "av1"]] = Field(
        ["opus", "red", "vp8", "h264", "vp9", "av1"],
        description="Codecs that a room allows; they pass through, none is decoded.",
    )
    max_peers: int = Field(1_000, ge=1, description="Peer connections at once; more are refused.")
    connect_timeout_s: float = Field(
        15, gt=0, le=120, description="How long ICE and DTLS together may take before a peer is closed."
    )
    expiry_s: float = Field(
        30, gt=5, le=300, description="How long a peer may be silent before it is closed (RFC 7675 says 30)."
    )
    ice_servers: list[dict[str, Any]] = Field(
        [], description="TURN and STUN servers that clients are told, as RTCIceServer dictionaries."
    )


class Calls(_Section):
    """The life of a call."""

    ring_timeout_s: float = Field(45, ge=1, le=600, description="How long a call rings before it is missed.")
    max_participants: int = Field(50, ge=2, le=1_000, description="People in one call.")
    directory: bool = Field(
        False, description="Whether presence.watch may ask for everybody ('*'). --dev turns it on."
    )


class Store(_Section):
    """Where calls are kept."""

    url: str = Field(
        "memory://", description="Only memory:// in this version: calls do not survive a restart."
    )


class Bus(_Section):
    """How events reach the sockets."""

    url: str = Field("memory://", description="Only memory:// in this version: one process.")


class Recorder(_Section):
    """Where recordings will be kept."""

    path: str = Field("", description="Reserved for the recorder; this version records nothing.")


class Log(_Section):
    """What is told on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is written."
    )


class Settings(BaseSettings):
    """All sections."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="SFU_", env_nested_delimiter="__", case_sensitive=False
    )

    http: Http = Http()
    auth: Auth = Auth()
    media: Media = Media()
    calls: Calls = Calls()
    store: Store = Store()
    bus: Bus = Bus()
    recorder: Recorder = Recorder()
    log: Log = Log()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return env_settings, init_settings


def load(path: Path | None = None) -> Settings:
    """Return the settings of a TOML file (or the defaults) under the environment.

    Raises:
        SettingsError: the file cannot be read, or a value is wrong; names the setting.

    """
    values: dict[str, Any] = {}
    try:
        if path is not None:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        return Settings(**values)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)]
        raise SettingsError("; ".join(lines)) from error
