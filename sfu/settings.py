"""Every setting: its default, its bounds and its sentence.

Read from `config/sfu.toml` or another TOML file, then from the environment
(`SFU_<SECTION>__<NAME>`), which wins. Parsed once, at the start; frozen afterwards.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
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
    requests_per_minute: int = Field(
        1_200, ge=1, description="REST requests of one user in a minute; more get 429."
    )
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
    jwks_url: str = Field(
        "",
        description="Instead, the JSON Web Key Set (RFC 7517) of an identity provider, at an https address.",
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
    grace_s: float = Field(
        30,
        ge=1,
        le=600,
        description="How long participants may be gone with their server process before they have left.",
    )
    max_participants: int = Field(50, ge=2, le=1_000, description="People in one call.")
    directory: bool = Field(
        False, description="Whether presence.watch may ask for everybody ('*'). --dev turns it on."
    )


class Store(_Section):
    """Where calls are kept."""

    url: str = Field(
        "sqlite+aiosqlite:///sfu.db",
        description="sqlite+aiosqlite:///FILE, postgresql+asyncpg://…, or memory:// (the default of --dev), "
        "which keeps nothing over a restart.",
    )


class Bus(_Section):
    """How events reach the sockets."""

    url: str = Field(
        "memory://",
        description="memory:// for one process, redis://HOST:PORT/DB for several that serve the same users.",
    )


class Webhooks(_Section):
    """How the host application is told what happens to calls."""

    allow_private: bool = Field(
        False,
        description="Whether webhooks may be at private, loopback and link-local addresses: for development.",
    )
    timeout_s: float = Field(10, ge=1, le=60, description="How long a webhook may take to answer.")


class RecordingPolicy(_Section):
    """Which calls are recorded, on what terms, and for how long that is kept."""

    mode: Literal["off", "on_request", "always"] = Field(
        "on_request",
        description="Which calls are recorded: none, those for which somebody with the grant `record` asks, "
        "all.",
    )
    required: Literal["no", "before_ring", "before_answer", "during"] = Field(
        "no",
        description='With mode = "always": from when on there is no call without a recorder. during: a call '
        "ends when its recording fails; the others include that.",
    )
    consent: Literal["none", "notify", "require_ack"] = Field(
        "notify",
        description="none: people are told nothing; notify: everybody is told before anything is kept; "
        "require_ack: nothing is kept of who has not accepted.",
    )
    consent_timeout_s: float = Field(
        30,
        ge=1,
        le=600,
        description="Where a recorder is required: who has not accepted after this leaves the call.",
    )
    recorders: int = Field(
        1, ge=1, le=2, description="How many recorders write a call; two on two disks, of which one may fail."
    )
    keep_days: int = Field(
        0, ge=0, le=36_500, description="A recording is erased after so many days; 0: it is kept for ever."
    )
    keep_at_least_days: int = Field(
        0, ge=0, le=36_500, description="Nobody erases a recording before it is so many days old."
    )

    @model_validator(mode="after")
    def _keeps(self) -> Self:
        """Refuse what erases what must be kept."""
        if 0 < self.keep_days < self.keep_at_least_days:
            raise ValueError("keep_days is less than keep_at_least_days")
        if self.required != "no" and self.mode != "always":
            raise ValueError('required wants mode = "always"')
        return self


class RecordingRule(RecordingPolicy):
    """What is otherwise for some calls, with what tells them from others; the rest is as for all."""

    conversations: list[str] = Field(
        ["*"], description="Ids of conversations, with * and ?; calls of none are meant by *."
    )
    call_type: Literal["any", "voice", "video"] = Field("any", description="How the call began.")

    @model_validator(mode="after")
    def _keeps(self) -> Self:
        """Look at it only together with what it changes."""
        return self

    @property
    def changes(self) -> dict[str, Any]:
        """What it says, without what it leaves out."""
        return {n: getattr(self, n) for n in self.model_fields_set & RecordingPolicy.model_fields.keys()}


class Recorder(RecordingPolicy):
    """What is recorded, and where it is kept."""

    path: str = Field(
        "",
        description="Folder of the recordings and of the key that signs them; empty: nothing is recorded.",
    )
    second_path: str = Field("", description="Folder of the second recorder, on another disk.")
    rules: list[RecordingRule] = Field(
        [], description="Other policies for some conversations or types of calls; the first that fits holds."
    )
    signing_key_file: str = Field(
        "", description="PEM file of the Ed25519 key; made if missing. Empty: signing.pem in the folder."
    )
    max_pause_s: float = Field(
        600, ge=1, le=86_400, description="A pause ends by itself after this, unless it named a shorter time."
    )
    stores: list[str] = Field(
        [],
        description="Where sealed recordings go, encrypted, each to all of them: file:///FOLDER, "
        "s3://BUCKET/PREFIX, gs://…, az://…. Empty: the folder archive, if there is a master key; else they "
        "stay as they are.",
    )
    master_key_file: str = Field(
        "",
        description="File of the key that wraps the keys of recordings: 64 hexadecimal digits a line, the "
        "first wraps, all unwrap.",
    )
    master_key: str = Field(
        "", description="The same, from the environment (SFU_RECORDER__MASTER_KEY).", repr=False
    )
    key_service: str = Field(
        "", description="The same, from a key management service: MODULE:CALLABLE, see docs/recording.md."
    )
    timestamp_url: str = Field(
        "", description="Time-stamping authority (RFC 3161) that is asked to date each manifest; empty: none."
    )

    def policy(self, changes: Mapping[str, Any]) -> RecordingPolicy:
        """Return the policy of all calls with some changes.

        Raises:
            ValueError: they do not go with the rest.

        """
        values = {name: getattr(self, name) for name in RecordingPolicy.model_fields}
        return RecordingPolicy.model_validate(values | dict(changes))

    @property
    def has_master_key(self) -> bool:
        """Whether recordings are encrypted."""
        return bool(self.master_key_file or self.master_key or self.key_service)

    @model_validator(mode="after")
    def _can_be_required(self) -> Self:
        """Refuse what would let calls go unrecorded that must not, or store them for all to read."""
        policies = [self.policy(rule.changes) for rule in (RecordingRule(), *self.rules)]
        if not self.path and any(policy.required != "no" for policy in policies):
            raise ValueError("required wants a path")
        if not self.second_path and any(policy.recorders > 1 for policy in policies):
            raise ValueError("two recorders want a second_path")
        if self.stores and not self.has_master_key:
            raise ValueError("stores want a master_key_file (openssl rand -hex 32)")
        return self


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
    webhooks: Webhooks = Webhooks()
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
