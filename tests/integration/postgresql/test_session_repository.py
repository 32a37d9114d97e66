from tests.integration.test_session_repository import *  # noqa: F403
