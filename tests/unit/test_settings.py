from pathlib import Path

import pytest

from app.setting_sources import SettingsError
from app.settings import Settings, load_settings

HOME = {"HOME": "/home/ada"}


def load(cwd: Path, **environ: str) -> Settings:
    return load_settings(HOME | environ, cwd)


def problem(cwd: Path, **environ: str) -> str:
    with pytest.raises(SettingsError) as raised:
        load(cwd, **environ)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_defaults_need_nothing(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.home == Path("/home/ada/.local/share/valet")
    assert settings.store_dir == settings.home / "store"
    assert settings.models_dir == settings.home / "models"
    assert settings.secret_file == settings.home / "secret"
    assert settings.database_path == settings.home / "valet.db"
    assert (settings.device_kv, settings.dram, settings.ssd) == (2**30, 2**29, 2**33)
    assert (settings.model, settings.served_model_name) == ("", "SmolLM2-135M-Instruct")
    assert settings.max_model_len == 8192
    assert settings.block_size is None
    assert settings.api_keys == ()


def test_environment_wins_over_file(tmp_path: Path) -> None:
    (tmp_path / "valet.toml").write_text('port = 1111\nssd = "2GiB"\ndrain_s = 1.5')
    settings = load(tmp_path, VALET_PORT="2222")
    assert (settings.port, settings.ssd, settings.drain_s) == (2222, 2 * 2**30, 1.5)


def test_the_more_specific_port_wins(tmp_path: Path) -> None:
    assert load(tmp_path, PORT="3333").port == 3333
    assert load(tmp_path, PORT="3333", VALET_PORT="4444").port == 4444


def test_empty_variable_is_not_set(tmp_path: Path) -> None:
    (tmp_path / "valet.toml").write_text("port = 1111")
    assert load(tmp_path, VALET_PORT="", PORT="", VALET_SSD=" ").port == 1111


def test_config_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('log_level = "DEBUG"')
    assert load(tmp_path, VALET_CONFIG="other.toml").log_level == "debug"
    assert "no file" in problem(tmp_path, VALET_CONFIG="missing.toml")


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512MiB", 2**29), ("1.5GiB", 3 * 2**29), ("64 kib", 2**16), ("4096B", 4096)],
)
def test_sizes(tmp_path: Path, text: str, size: int) -> None:
    assert load(tmp_path, VALET_SSD=text).ssd == size


@pytest.mark.parametrize(
    "text", ["8", "-1GiB", "8GB", "GiB", "1e3MiB", "٣GiB", "inf", "9" * 400 + "TiB"]
)
def test_bad_size_says_what_is_expected(tmp_path: Path, text: str) -> None:
    message = problem(tmp_path, VALET_SSD=text)
    assert message.startswith("VALET_SSD: expected a size such as")
    assert text in message


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PORT", "http"),
        ("VALET_PORT", "0"),
        ("VALET_PORT", "65536"),
        ("VALET_MAX_MODEL_LEN", "0"),
        ("VALET_BLOCK_SIZE", "24"),
        ("VALET_DEVICE_KV", "0"),
        ("VALET_DRAM", "0"),
        ("VALET_DRAIN_S", "nan"),
        ("VALET_DRAIN_S", "-1"),
        ("VALET_LOG_LEVEL", "loud"),
        ("VALET_DATABASE_URL", "valet.db"),
        ("VALET_ENCRYPTION", "yes"),
        ("VALET_PREFETCH", "1"),
        ("VALET_SSD_COMPRESSION", "1"),
        ("VALET_SSD_FREE_FLOOR", "1GB"),
        ("VALET_SSD_READ_BANDWIDTH", "200MB"),
        ("VALET_SSD_MINIMUM_TOKENS", "-1"),
        ("VALET_SSD_WRITES_PER_DAY", "200GB"),
        ("VALET_SSD_WRITES_PER_DAY", "0DWPD"),
        ("VALET_MASTER_KEY", "master.key"),
        ("VALET_MASTER_KEY", "file:master.key"),
        ("VALET_API_KEYS", "one,,two"),
        ("VALET_API_KEYS", "one,one"),
        ("VALET_API_KEYS", "with space"),
        ("VALET_ALLOW_ANONYMOUS", "yes"),
        ("VALET_OPERATOR_KEY", "fifteen-letters"),
        ("VALET_QUOTA_SESSIONS", "-1"),
        ("VALET_QUOTA_TOKENS_PER_MINUTE", "1e6"),
        ("VALET_QUOTA_DRAM", "1GB"),
    ],
)
def test_bad_value_names_its_setting(tmp_path: Path, variable: str, text: str) -> None:
    assert problem(tmp_path, **{variable: text}).startswith(variable)


def test_unknown_names_stop_the_start(tmp_path: Path) -> None:
    assert "VALET_DRAM" in problem(tmp_path, VALET_DRAMM="1GiB")
    assert "VALET_PORT" in problem(tmp_path, VALET_port="1")
    file = tmp_path / "valet.toml"
    file.write_text('databse_url = "x"')
    message = problem(tmp_path)
    assert str(file) in message
    assert message.endswith("database_url")


@pytest.mark.parametrize(
    "text", ["port = true", "[port]\na = 1", "port = ", "api_keys = [1]", "port = 1979-05-27"]
)
def test_bad_file_names_itself(tmp_path: Path, text: str) -> None:
    (tmp_path / "valet.toml").write_text(text)
    assert str(tmp_path / "valet.toml") in problem(tmp_path)


def test_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "valet.toml").write_bytes(b"\xff\xfe")
    assert "not TOML" in problem(tmp_path)


def test_whether_other_machines_reach_it(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "10.1.2.3", "valet.example", "::ffff:10.1.2.3"):
        assert load(tmp_path, VALET_HOST=host).reachable
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert not load(tmp_path, VALET_HOST=host).reachable


def test_quotas_of_the_installation(tmp_path: Path) -> None:
    assert load(tmp_path).quotas.limits() == {}
    settings = load(
        tmp_path,
        VALET_QUOTA_REQUESTS_PER_MINUTE="60",
        VALET_QUOTA_TOKENS_PER_MINUTE="90000",
        VALET_QUOTA_SESSIONS="0",
        VALET_QUOTA_DRAM="1GiB",
        VALET_QUOTA_SSD="2GiB",
        VALET_QUOTA_DEVICE="3GiB",
    )
    assert settings.quotas.limits() == {
        "requests_per_minute": 60,
        "tokens_per_minute": 90_000,
        "dram": 2**30,
        "ssd": 2**31,
        "device": 3 * 2**30,
    }


def test_an_operators_key_is_nobody_elses(tmp_path: Path) -> None:
    key = "k" * 16
    assert load(tmp_path, VALET_OPERATOR_KEY=key, VALET_API_KEYS="a").operator_key == key
    message = problem(tmp_path, VALET_OPERATOR_KEY=key, VALET_API_KEYS=f"a,{key}")
    assert message.startswith("VALET_OPERATOR_KEY")
    assert key not in message
    assert key not in repr(load(tmp_path, VALET_OPERATOR_KEY=key))
    assert "short" not in problem(tmp_path, VALET_OPERATOR_KEY="short")


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    url = "postgresql+asyncpg://ada:hunter2@db/valet"
    settings = load(tmp_path, VALET_API_KEYS="sesame, tahini", VALET_DATABASE_URL=url)
    assert settings.api_keys == ("sesame", "tahini")
    assert "sesame" not in repr(settings)
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in problem(tmp_path, VALET_DATABASE_URL="postgresql://ada:hunter2@db")
    assert "sesame" not in problem(tmp_path, VALET_API_KEYS="sesame,sesame")


def test_keys_as_a_list_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "valet.toml").write_text('api_keys = ["a", "b"]')
    assert load(tmp_path).api_keys == ("a", "b")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("owner/model", "owner/model"),
        ("/models/mine", "mine"),
        ("./mine", "mine"),
        ("a/b/mine", "mine"),
        ("mine", "mine"),
    ],
)
def test_model_gives_its_name_and_its_own_length(tmp_path: Path, model: str, name: str) -> None:
    settings = load(tmp_path, VALET_MODEL=model)
    assert (settings.served_model_name, settings.max_model_len) == (name, None)


def test_home_follows_the_user_and_the_working_folder(tmp_path: Path) -> None:
    assert load(tmp_path, VALET_HOME="~/v").home == Path("/home/ada/v")
    assert load(tmp_path, VALET_HOME="v").home == tmp_path / "v"


def test_nothing_is_public_unless_a_folder_says_so(tmp_path: Path) -> None:
    assert load(tmp_path).public_prefixes is None
    assert load(tmp_path, VALET_PUBLIC_PREFIXES="shared").public_prefixes == tmp_path / "shared"


def test_database_that_is_no_file(tmp_path: Path) -> None:
    for url in ("sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:", "postgresql+asyncpg://h/d"):
        assert load(tmp_path, VALET_DATABASE_URL=url).database_path is None
    absolute = load(tmp_path, VALET_DATABASE_URL="sqlite+aiosqlite:////data/v.db?timeout=5")
    assert absolute.database_path == Path("/data/v.db")


def test_the_store_of_the_defaults_is_encrypted(tmp_path: Path) -> None:
    settings = load(tmp_path)
    installation = settings.installation
    assert installation.root == settings.store_dir
    assert installation.bytes_limit == settings.ssd
    assert installation.free_floor == 2**30
    assert installation.master_key == "file:/home/ada/.local/share/valet/master.key"
    assert installation.bytes_per_day is None
    assert not installation.compress
    assert installation.read_bytes_per_s is None
    assert settings.ssd_minimum_tokens == 128


def test_a_store_as_one_wants_it(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        VALET_SSD="4GiB",
        VALET_SSD_FREE_FLOOR="0",
        VALET_SSD_WRITES_PER_DAY="200GiB",
        VALET_SSD_COMPRESSION="on",
        VALET_SSD_MINIMUM_TOKENS="0",
        VALET_SSD_READ_BANDWIDTH="200MiB",
        VALET_MASTER_KEY="env:STORE_KEY",
    )
    installation = settings.installation
    assert (installation.bytes_limit, installation.free_floor) == (4 * 2**30, 0)
    assert installation.bytes_per_day == 200 * 2**30
    assert installation.compress
    assert installation.read_bytes_per_s == 200 * 2**20
    assert installation.master_key == "env:STORE_KEY"
    assert settings.ssd_minimum_tokens == 0


def test_without_encryption_no_key_is_asked_for(tmp_path: Path) -> None:
    off = load(tmp_path, VALET_ENCRYPTION="Off", VALET_MASTER_KEY="env:STORE_KEY")
    assert off.installation.master_key is None
    assert load(tmp_path, VALET_ENCRYPTION="on").installation.master_key is not None


@pytest.mark.parametrize(
    ("ssd", "text", "per_day"),
    [
        ("4GiB", "0.5DWPD", 2 * 2**30),
        ("4GiB", "2 dwpd", 8 * 2**30),
        ("4GiB", "", None),
        ("4GiB", "0", None),
        ("0", "200GiB", 200 * 2**30),
    ],
)
def test_writes_a_day(tmp_path: Path, ssd: str, text: str, per_day: int | None) -> None:
    settings = load(tmp_path, VALET_SSD=ssd, VALET_SSD_WRITES_PER_DAY=text)
    assert settings.ssd_writes_per_day == per_day


def test_a_store_that_is_off_may_have_a_share_to_write(tmp_path: Path) -> None:
    assert load(tmp_path, VALET_SSD="0", VALET_SSD_WRITES_PER_DAY="0.5DWPD").ssd == 0


def test_a_master_key_is_never_shown(tmp_path: Path) -> None:
    key = "0123456789abcdef" * 4
    assert key not in problem(tmp_path, VALET_MASTER_KEY=key)
    assert key not in problem(tmp_path, VALET_MASTER_KEY=f"env:{key}")
    settings = load(tmp_path, VALET_MASTER_KEY=f"command:vault read --token {key}")
    assert key not in repr(settings)


def test_the_secret_comes_from_where_it_is_said(tmp_path: Path) -> None:
    assert load(tmp_path).secret == f"file:{load(tmp_path).home}/secret"
    assert load(tmp_path, VALET_SECRET="env:KEY").secret == "env:KEY"
    key = "0123456789abcdef" * 4
    assert key not in problem(tmp_path, VALET_SECRET=key)
    assert key not in repr(load(tmp_path, VALET_SECRET=f"command:vault read {key}"))


def test_the_url_of_redis(tmp_path: Path) -> None:
    assert load(tmp_path).redis_url == ""
    url = "redis://:hush@host:6379/0"
    assert load(tmp_path, VALET_REDIS_URL=url).redis_url == url
    assert "hush" not in repr(load(tmp_path, VALET_REDIS_URL=url))
    assert "hush" not in problem(tmp_path, VALET_REDIS_URL="http://:hush@host")
