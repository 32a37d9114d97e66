"""How tests are spread over processes."""

from xdist.scheduler import LoadScopeScheduling

_WITH_ENGINES = tuple(f"tests/{name}/" for name in ("clients", "compose", "e2e", "integration"))


class OneProcessForEngines(LoadScopeScheduling):
    """The folders in which tests start engines are all of one process: tests share engines, and two
    at once would need twice the memory and each other's processors. All else goes to whoever is
    free."""

    def _split_scope(self, nodeid: str) -> str:
        return "engines" if nodeid.startswith(_WITH_ENGINES) else nodeid
