from tests.unit.test_session_database import *  # noqa: F403
