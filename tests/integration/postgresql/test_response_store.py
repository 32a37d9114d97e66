from tests.unit.test_response_store import *  # noqa: F403
