"""Clients of the shared server, and a server that may be stopped."""

from collections.abc import Iterator

import anthropic
import httpx
import openai
import pytest

from tests.valet_process import ValetProcess

ALICE, BOB, OPERATOR = "key-of-alice", "key-of-bob", "key-of-the-operator"
DRAIN_S = 10


@pytest.fixture(scope="package")
def valet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValetProcess]:
    """A running real server. Shared: use sessions and prompts of your own; do not stop it."""
    with ValetProcess(tmp_path_factory.mktemp("shared") / "home") as server:
        yield server
        assert server.stop() == 0


@pytest.fixture
def http(valet: ValetProcess) -> Iterator[httpx.Client]:
    with valet.client() as client:
        yield client


@pytest.fixture
def openai_client(valet: ValetProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{valet.url}/v1", api_key="any", timeout=120, max_retries=0
    ) as client:
        yield client


@pytest.fixture
def anthropic_client(valet: ValetProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=valet.url, api_key="any", timeout=120, max_retries=0
    ) as client:
        yield client


@pytest.fixture(scope="package")
def _keyed_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValetProcess]:
    home = tmp_path_factory.mktemp("keyed") / "home"
    settings = {
        "VALET_API_KEYS": f"{ALICE},{BOB}",
        "VALET_OPERATOR_KEY": OPERATOR,
        "VALET_DRAIN_S": str(DRAIN_S),
    }
    server = ValetProcess(home, settings)
    yield server
    server.kill()


@pytest.fixture
def keyed(_keyed_process: ValetProcess) -> ValetProcess:
    """A running server with two tenants. A test may stop or kill it."""
    return _keyed_process if _keyed_process.process else _keyed_process.start()


@pytest.fixture
def alice(keyed: ValetProcess) -> Iterator[httpx.Client]:
    with keyed.client(headers={"authorization": f"Bearer {ALICE}"}) as client:
        yield client


@pytest.fixture
def bob(keyed: ValetProcess) -> Iterator[httpx.Client]:
    with keyed.client(headers={"x-api-key": BOB}) as client:
        yield client
