from tests.unit.test_upkeep_instances import *  # noqa: F403
