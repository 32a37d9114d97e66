"""How tests are spread over processes."""

from xdist.scheduler import LoadScopeScheduling

_WITH_ENGINES = (
    "tests/clients/",
    "tests/compose/",
    "tests/e2e/",
    "tests/integration/test_exactness.py",
    "tests/integration/test_forks_and_pins.py",
    "tests/integration/test_tenant_timing.py",
)
_WITH_SHARED_SERVICES = "tests/integration/"


class OneProcessForEngines(LoadScopeScheduling):
    """Tests that start engines are all of one process: they share engines, and two at once would
    need twice the memory and each other's processors. Other files that need a service stay whole.
    All else goes to whoever is free."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(_WITH_ENGINES):
            return "engines"
        file, _, _ = nodeid.partition("::")
        return file if file.startswith(_WITH_SHARED_SERVICES) else nodeid
