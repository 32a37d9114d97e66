"""The server that unmodified clients of other people's making are tried against."""

from collections.abc import Iterator

import pytest

from tests.clients.greedy_model import greedy_model
from tests.valet_process import MODEL, ValetProcess


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValetProcess]:
    """A real server of the default model. Clients that cannot be told how to sample get the same
    short answers each time, so that a failure is a failure and not a whim of the model."""
    folder = tmp_path_factory.mktemp("clients")
    settings = {
        "VALET_MODEL": str(greedy_model(folder / MODEL)),
        "VALET_MAX_MODEL_LEN": "8192",
    }
    with ValetProcess(folder / "home", settings) as process:
        yield process
        assert process.stop() == 0
