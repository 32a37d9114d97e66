from tests.unit.test_session_service import *  # noqa: F403
