from tests.unit.test_histories import *  # noqa: F403
