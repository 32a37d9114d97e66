"""What tests of several kinds share: one real server for all that do not need their own."""

from collections.abc import Iterator

import pytest

from tests.valet_process import ValetProcess


@pytest.fixture(scope="session")
def valet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValetProcess]:
    """A running real server. Shared: use sessions and prompts of your own; do not stop it."""
    with ValetProcess(tmp_path_factory.mktemp("shared") / "home") as server:
        yield server
        assert server.stop() == 0
