"""When what failed may be tried again."""

from sessions.outage import Outage


def test_one_caller_at_a_time_tries_again() -> None:
    now = [0.0]
    outage = Outage(2.0, lambda: now[0])
    assert outage.admits()
    assert outage.admits()
    assert (outage.failed(), outage.failed(), outage.lasts) == (True, False, True)
    assert not outage.admits()
    now[0] = 2.0
    assert [outage.admits(), outage.admits()] == [True, False]
    now[0] = 4.0
    assert outage.admits()
    assert (outage.ended(), outage.ended(), outage.lasts) == (True, False, False)
    assert outage.admits()
