from tests.unit.test_session_audit import *  # noqa: F403
