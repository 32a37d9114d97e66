"""What computing costs, read from the engine's steps."""

from collections.abc import Sequence

import pytest

from engine.core_plugin.steps import MOST_STEPS, Piece, Prefill, Steps


class Engine:
    """Steps of known length; ``late``: a step is known to be over one step later."""

    def __init__(self, *, late: bool = False) -> None:
        self.learned: list[tuple[list[Piece], float]] = []
        self.steps = Steps(self.learn)
        self.now = 100.0
        self.states: dict[str, Prefill] = {}
        self._late = late
        self._over: list[list[str]] = []

    def learn(self, pieces: Sequence[Piece], seconds: float) -> None:
        self.learned.append((list(pieces), seconds))

    def step(
        self,
        seconds: float,
        *,
        answers: Sequence[str] = (),
        computes: bool = True,
        **pieces: Piece,
    ) -> None:
        self.states.update(dict.fromkeys(pieces, Prefill.RUNS))
        self.look()
        self.steps.begin(pieces, computes=computes, now=self.now)
        self.now += seconds
        self._over.append(list(answers))
        if len(self._over) > self._late:
            self.states.update(dict.fromkeys(self._over.pop(0), Prefill.OVER))
            self.look()

    def look(self) -> None:
        self.steps.look(lambda request: self.states[request], self.now)


@pytest.mark.parametrize("late", [False, True])
def test_a_prefill_is_what_it_takes_beyond_its_steps(late: bool) -> None:
    engine = Engine(late=late)
    for _ in range(5):
        engine.step(0.03)
    engine.step(1.03, a=(0, 2048))
    engine.step(0.53, a=(2048, 3000), answers=["a"])
    engine.step(0.03)
    assert engine.steps.step_s == pytest.approx(0.03)
    ((pieces, seconds),) = engine.learned
    assert pieces == [(0, 2048), (2048, 3000)]
    assert seconds == pytest.approx(1.5)


def test_prefills_that_overlap_are_learned_together() -> None:
    engine = Engine()
    engine.step(1.0, a=(0, 500))
    engine.step(1.0, a=(500, 700), b=(0, 300), answers=["a"])
    engine.step(1.0, b=(300, 800), answers=["b"])
    ((pieces, seconds),) = engine.learned
    assert pieces == [(0, 500), (500, 700), (0, 300), (300, 800)]
    assert seconds == pytest.approx(3.0)


def test_what_the_engine_does_not_do_takes_no_time() -> None:
    engine = Engine()
    engine.step(0.02)
    engine.now += 500
    engine.step(0.0, computes=False)
    engine.step(0.02)
    assert engine.steps.step_s == pytest.approx(0.02)


def test_one_that_is_gone_teaches_nothing() -> None:
    engine = Engine()
    engine.step(1.0, a=(0, 500))
    engine.states["a"] = Prefill.GONE
    engine.step(0.02)
    engine.step(2.0, b=(0, 700), answers=["b"])
    ((pieces, seconds),) = engine.learned
    assert pieces == [(0, 700)]
    assert seconds == pytest.approx(1.98)


def test_one_that_is_over_may_go_while_others_run() -> None:
    engine = Engine()
    engine.step(1.0, a=(0, 500), b=(0, 300), answers=["a"])
    engine.states["a"] = Prefill.GONE
    engine.step(1.0, b=(300, 800), answers=["b"])
    ((pieces, seconds),) = engine.learned
    assert pieces == [(0, 500), (0, 300), (300, 800)]
    assert seconds == pytest.approx(2.0)


@pytest.mark.parametrize("late", [False, True])
def test_prefills_that_overlap_without_end_are_learned(late: bool) -> None:
    engine = Engine(late=late)
    for _ in range(MOST_STEPS):
        engine.step(0.5, a=(100, 200), b=(0, 100), answers=["a"])
        engine.step(0.5, b=(100, 200), c=(0, 100), answers=["b"])
        engine.step(0.5, c=(100, 200), a=(0, 100), answers=["c"])
    assert len(engine.learned) == 2
    for pieces, seconds in engine.learned:
        assert len(pieces) == 2 * MOST_STEPS
        assert seconds == pytest.approx(0.5 * MOST_STEPS)


def test_before_any_plain_step_all_is_computing() -> None:
    engine = Engine()
    engine.step(2.0, a=(0, 700), answers=["a"])
    assert engine.steps.step_s == 0
    ((_, seconds),) = engine.learned
    assert seconds == pytest.approx(2.0)
