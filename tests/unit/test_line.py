"""The line in front of a database: in order, left in any case, hurried by who waits."""

import asyncio

import pytest

from sessions.line import Line


async def test_turns_come_in_the_order_of_the_tickets() -> None:
    line, order = Line(wait_s=60), list[int]()
    tickets = [line.join() for _ in range(3)]

    async def one(number: int) -> None:
        await tickets[number].turn()
        order.append(number)
        tickets[number].give_up()

    await asyncio.gather(*(one(number) for number in (2, 0, 1)))
    assert order == [0, 1, 2]


async def test_a_ticket_that_is_not_used_keeps_nobody() -> None:
    line = Line(wait_s=60)
    first, second, third = line.join(), line.join(), line.join()
    second.give_up()
    second.give_up()
    assert not third.called.is_set()
    first.give_up()
    assert third.called.is_set()
    third.give_up()
    assert line.join().called.is_set()


async def test_who_is_waited_for_is_told() -> None:
    line = Line(wait_s=60)
    first = line.join()
    assert not first.hurry.is_set()
    second = line.join()
    assert first.hurry.is_set()
    assert not second.hurry.is_set()


async def test_waiting_has_an_end() -> None:
    line = Line(wait_s=0)
    first, second = line.join(), line.join()
    with pytest.raises(TimeoutError):
        await second.turn()
    second.give_up()
    await first.turn()
