"""Commands and hints as the engine's process gets them."""

import pytest

from cache_tiers import hints
from cache_tiers.returns.types import Awaits
from cache_tiers.types import SessionKey
from engine.control import Control
from engine.port import CommandFailed

SESSION = SessionKey("t/s")
HINTS: list[hints.Hint] = [
    hints.TurnEnded(SESSION, Awaits.TOOL, "pytest", turn=3, hour=23, expected_s=1.5),
    hints.TurnEnded(SESSION, Awaits.PERSON),
    hints.Arriving(SESSION),
    hints.Expect(SESSION, 30.0, "make"),
    hints.Expect(SESSION, None),
    hints.Poll(),
]
FORESIGHT = hints.Foresight(
    distrusted_tenants=1,
    gaps=3,
    within={"10": 0.1, "50": 0.5, "90": 1.0},
    ks=0.2,
    shifts=1,
    prefetched_chunks=4,
    used_chunks=3,
    late_chunks=1,
    wasted_bytes=4096,
    lead_s=0.02,
)


class _Engine:
    """The other end: keeps what was asked and gives one answer."""

    def __init__(self, reply: hints.Reply) -> None:
        self.asked: list[hints.Command] = []
        self._reply = reply

    async def __call__(self, command: bytes) -> bytes:
        self.asked.append(hints.decode_command(command))
        return hints.encode(self._reply)


@pytest.mark.parametrize("hint", HINTS)
@pytest.mark.parametrize("next_in_s", [None, 0.0, 2.5])
async def test_a_hint_arrives_as_it_was_told(hint: hints.Hint, next_in_s: float | None) -> None:
    engine = _Engine(hints.Pulse(next_in_s))
    assert await Control(engine).hint(hint) == hints.Pulse(next_in_s)
    assert engine.asked == [hint]


async def test_foresight_comes_back_as_it_was_sent() -> None:
    engine = _Engine(FORESIGHT)
    assert await Control(engine).foresight() == FORESIGHT
    assert engine.asked == [hints.GetForesight()]


@pytest.mark.parametrize("reply", [hints.Failure("no"), hints.Done()])
async def test_another_answer_is_a_failure(reply: hints.Reply) -> None:
    with pytest.raises(CommandFailed):
        await Control(_Engine(reply)).hint(hints.Poll())


async def test_when_a_session_is_back_comes_with_its_status() -> None:
    kv = hints.SessionKv(SESSION, known=True, back_in_s=12.0, back_by_s=80.0)
    assert await Control(_Engine(kv)).status(SESSION) == kv
