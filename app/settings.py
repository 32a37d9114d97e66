"""Every setting of Valet, read once, before anything starts.

A setting is named ``VALET_PORT`` in the environment and ``port`` in ``valet.toml``; the environment
wins. The file is the one that ``VALET_CONFIG`` names, or ``valet.toml`` in the working folder if
there is one. An empty variable counts as not set.
"""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from app import setting_values as value
from app.setting_sources import SettingsError, read_values
from cache_tiers.types import Tier
from sessions.tenancy.quotas import Quotas
from sessions.types import Terms

if TYPE_CHECKING:
    from cache_tiers.ssd.installation import Installation

DEFAULT_MODEL_MAX_LEN = 8192

_KIB = 1024
_DEFAULT_SSD = 8 * _KIB**3
_SQLITE = "sqlite+aiosqlite:///"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole tree; sizes in bytes, times in seconds. Its ``repr`` shows no secret."""

    host: str
    port: int
    home: Path
    """Absolute. Everything Valet keeps is below it."""
    model: str
    """A folder or a hub name; empty for the default model."""
    served_model_name: str
    """What clients write as ``model``."""
    max_model_len: int | None
    """Tokens of prompt and answer together; None leaves it to the model's own config."""
    block_size: int | None
    """Tokens in a KV block; None leaves it to the engine."""
    device_kv: int
    dram: int
    ssd: int
    """0 turns the store off."""
    ssd_free_floor: int
    """Free bytes of the store's filesystem that are left to its other users."""
    ssd_writes_per_day: int | None
    """Bytes; None for as many as come. Written as ``200GiB``, as ``0.5DWPD`` of ``ssd``, or 0."""
    ssd_minimum_tokens: int
    """A session with fewer is not written to the SSD."""
    ssd_compression: bool
    """Lossless: more capacity, slower reads."""
    ssd_read_bandwidth: int
    """Bytes a second that are read from the store at most; 0 for no limit."""
    encryption: bool
    """Of the store."""
    master_key: str = field(repr=False)
    """Where the key comes from that opens all others: see ``MasterKeySource``."""
    secret: str = field(repr=False)
    """Where the installation's secret comes from, by which its processes derive salts and keys:
    written as the master key's source."""
    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    """What several processes agree by; empty: this one is alone."""
    public_prefixes: Path | None
    """A folder of system prompts (``*.txt``) whose KV all tenants share; None for none."""
    api_keys: tuple[str, ...] = field(repr=False)
    """Beside those of the database. Where there are neither, no key is asked for, and only this
    machine may connect."""
    allow_anonymous: bool
    """Where there are no keys, other machines may connect too."""
    operator_key: str = field(repr=False)
    """Opens ``/metrics`` where keys are asked for; empty: nobody's then."""
    quota_requests_per_minute: int
    """Of a tenant that has no quotas of its own; 0 for no limit, as for those below."""
    quota_tokens_per_minute: int
    quota_sessions: int
    quota_dram: int
    quota_ssd: int
    quota_device: int
    responses_ttl: timedelta
    """How long a stored response can be had, and a conversation that nobody uses."""
    responses_limit: int
    """Bytes of stored responses and conversations a tenant."""
    session_ttl: timedelta
    """Without a turn, until a session that has no time of its own expires; 0s for never."""
    session_retention: timedelta
    """From then on, until it is forgotten; 0s for never."""
    park_after: timedelta
    """Without a turn, until a session is parked by itself; 0s for never."""
    pin_share: float
    """Of each tier's bytes, what one tenant may pin."""
    prefetch: bool
    """Off: nothing comes up before a request asks for it, to compare with."""
    load_slowdown: float
    """By how much of itself a token of others may take longer while a session loads; 0 for any."""
    sessions: bool
    """Off: requests pass without any work for sessions, to compare with; keys and salts stay."""
    resolve_wait_s: float
    """How long a request waits to learn from the database which session it belongs to."""
    drain_s: float
    """How long a stopping server waits for running requests and for the store."""
    log_level: str

    @property
    def store_dir(self) -> Path:
        """The SSD tier's segments."""
        return self.home / "store"

    @property
    def installation(self) -> "Installation":
        """The SSD store that these settings describe. Imports what is heavy."""
        from cache_tiers.ssd.installation import Installation

        return Installation(
            root=self.store_dir,
            bytes_limit=self.ssd,
            free_floor=self.ssd_free_floor,
            master_key=self.master_key if self.encryption else None,
            bytes_per_day=self.ssd_writes_per_day,
            compress=self.ssd_compression,
            read_bytes_per_s=self.ssd_read_bandwidth or None,
        )

    @property
    def quotas(self) -> Quotas:
        """Of a tenant that has none of its own."""
        return Quotas(
            requests_per_minute=self.quota_requests_per_minute,
            tokens_per_minute=self.quota_tokens_per_minute,
            sessions=self.quota_sessions,
            dram=self.quota_dram,
            ssd=self.quota_ssd,
            device=self.quota_device,
        )

    @property
    def reachable(self) -> bool:
        """Whether other machines can reach the server."""
        return not _is_loopback(self.host)

    @property
    def terms(self) -> Terms:
        """How long sessions are kept."""
        return Terms(
            ttl_s=int(self.session_ttl.total_seconds()) or None,
            retention_s=int(self.session_retention.total_seconds()) or None,
        )

    @property
    def pin_budgets(self) -> dict[Tier, int]:
        """Bytes that one tenant may pin, by tier."""
        sizes = {Tier.DEVICE: self.device_kv, Tier.DRAM: self.dram, Tier.SSD: self.ssd}
        return {tier: int(size * self.pin_share) for tier, size in sizes.items()}

    @property
    def models_dir(self) -> Path:
        """Models that Valet made itself."""
        return self.home / "models"

    @property
    def secret_file(self) -> Path:
        """Where the secret is if nothing else is said."""
        return self.home / "secret"

    @property
    def instance_file(self) -> Path:
        """The name of the process that has this home."""
        return self.home / "instance"

    @property
    def database_path(self) -> Path | None:
        """The database's file; None when the database is in memory or on a server."""
        path = self.database_url.removeprefix(_SQLITE).partition("?")[0]
        if path == self.database_url or path in ("", ":memory:"):
            return None
        return Path(path)


def load_settings(environ: Mapping[str, str], cwd: Path) -> Settings:
    """The settings of a process with this environment in this working folder.

    Reads at most one file and no global state. Raises SettingsError.
    """
    values = read_values([each.name for each in fields(Settings)], environ, cwd)

    def setting(name: str, parse: Callable[[str], T], default: T) -> T:
        if name not in values:
            return default
        text, source = values[name]
        try:
            return parse(text)
        except ValueError as error:
            raise SettingsError(f"{source}: {error}") from None

    def path(text: str) -> Path:
        return value.absolute(text, environ, cwd)

    home = setting("home", path, path("~/.local/share/valet"))
    model = setting("model", str, "")
    ssd = setting("ssd", value.size, _DEFAULT_SSD)
    settings = Settings(
        host=setting("host", str, "127.0.0.1"),
        port=setting("port", value.port, 8000),
        home=home,
        model=model,
        served_model_name=setting("served_model_name", str, value.model_name(model)),
        max_model_len=setting(
            "max_model_len", value.tokens, None if model else DEFAULT_MODEL_MAX_LEN
        ),
        block_size=setting("block_size", value.block_size, None),
        device_kv=setting("device_kv", value.size, 1 * _KIB**3),
        dram=setting("dram", value.size, 512 * _KIB**2),
        ssd=ssd,
        ssd_free_floor=setting("ssd_free_floor", value.size, 1 * _KIB**3),
        ssd_writes_per_day=setting("ssd_writes_per_day", value.writes_of(ssd), None),
        ssd_minimum_tokens=setting("ssd_minimum_tokens", value.minimum_tokens, 128),
        ssd_compression=setting("ssd_compression", value.switch, False),
        ssd_read_bandwidth=setting("ssd_read_bandwidth", value.size, 0),
        encryption=setting("encryption", value.switch, True),
        master_key=setting("master_key", value.master_key, f"file:{home / 'master.key'}"),
        database_url=setting("database_url", value.database_url, f"{_SQLITE}{home / 'valet.db'}"),
        secret=setting("secret", value.secret, f"file:{home / 'secret'}"),
        redis_url=setting("redis_url", value.redis_url, ""),
        public_prefixes=setting("public_prefixes", path, None),
        api_keys=setting("api_keys", value.api_keys, ()),
        allow_anonymous=setting("allow_anonymous", value.switch, False),
        operator_key=setting("operator_key", value.operator_key, ""),
        quota_requests_per_minute=setting("quota_requests_per_minute", value.quota, 0),
        quota_tokens_per_minute=setting("quota_tokens_per_minute", value.quota, 0),
        quota_sessions=setting("quota_sessions", value.quota, 0),
        quota_dram=setting("quota_dram", value.size, 0),
        quota_ssd=setting("quota_ssd", value.size, 0),
        quota_device=setting("quota_device", value.size, 0),
        responses_ttl=setting("responses_ttl", value.duration, timedelta(days=30)),
        responses_limit=setting("responses_limit", value.size, 1 * _KIB**3),
        session_ttl=setting("session_ttl", value.duration, timedelta(days=30)),
        session_retention=setting("session_retention", value.duration, timedelta(days=90)),
        park_after=setting("park_after", value.duration, timedelta()),
        pin_share=setting("pin_share", value.share, 0.25),
        prefetch=setting("prefetch", value.switch, True),
        load_slowdown=setting("load_slowdown", value.share, 0.05),
        sessions=setting("sessions", value.switch, True),
        resolve_wait_s=setting("resolve_wait_s", value.seconds, 0.25),
        drain_s=setting("drain_s", value.seconds, 20.0),
        log_level=setting("log_level", value.log_level, "info"),
    )
    _check_together(settings)
    return settings


def _check_together(settings: Settings) -> None:
    if settings.device_kv == 0:
        raise SettingsError("VALET_DEVICE_KV: expected more than 0: the engine computes in it")
    if settings.dram == 0:
        raise SettingsError("VALET_DRAM: expected more than 0: KV leaves the device through it")
    if settings.operator_key in settings.api_keys:
        raise SettingsError("VALET_OPERATOR_KEY: expected another key than those of VALET_API_KEYS")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
