from tests.unit.test_tenancy import *  # noqa: F403
