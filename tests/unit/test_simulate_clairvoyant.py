"""The clairvoyant against exact optima of small instances."""

import random
from dataclasses import dataclass
from functools import cache

from load.simulate import (
    EngineModel,
    Hardware,
    Policies,
    Recorded,
    SimulationConfig,
    simulate,
)
from load.simulate.clairvoyant import Clairvoyant
from load.traces import Request

HORIZON_S = 14
INSTANT = EngineModel(
    prefill_s=0.0,
    prefill_s_per_position=0.0,
    decode_s=1e-9,
    decode_s_per_request=0.0,
    fixed_s=0.0,
    read_s=0.0,
)
"""Computes and answers at once, so that requests come at their times, and never wait for a load."""


@dataclass(frozen=True)
class Instance:
    """Sessions of a fixed size that come back at given seconds; a chunk is loaded in a second."""

    sizes: tuple[int, ...]
    returns: tuple[tuple[int, ...], ...]
    """The first of each is its first request: nothing of it is anywhere before."""
    capacity: int

    @property
    def reusable(self) -> int:
        return sum(
            size * (len(times) - 1) for size, times in zip(self.sizes, self.returns, strict=True)
        )


def drawn(dice: random.Random) -> Instance:
    """All begin at once; no two requests come in the same second."""
    sessions = 3
    sizes = tuple(dice.randint(1, 3) for _ in range(sessions))
    seconds = list(range(sessions, HORIZON_S))
    dice.shuffle(seconds)
    returns = tuple(
        (n, *sorted(seconds[n::sessions][: dice.randint(1, 3)])) for n in range(sessions)
    )
    return Instance(sizes, returns, dice.randint(max(sizes), max(sizes) + 3))


def exact(instance: Instance) -> int:
    """Most chunks that can be there when they are asked for: all decisions are tried. What a turn
    computes is there, so what is in its way goes."""
    asks = {second: session for session, times in enumerate(instance.returns) for second in times}

    @cache
    def best(second: int, there: tuple[int, ...], begun: frozenset[int]) -> int:
        if second == HORIZON_S:
            return 0
        session = asks.get(second)
        if session is None:
            return after(second, there, begun)
        gained = there[session] if session in begun else 0
        full = tuple(
            instance.sizes[n] if n == session else chunks for n, chunks in enumerate(there)
        )
        return gained + max(
            after(second, left, begun | {session}) for left in fitting(full, session)
        )

    def after(second: int, there: tuple[int, ...], begun: frozenset[int]) -> int:
        """What one chunk less of anything, or of nothing, makes room for."""
        results = [best(second + 1, there, begun)]
        for session in begun:
            if there[session] < instance.sizes[session]:
                grown = tuple(n + (i == session) for i, n in enumerate(there))
                results += [best(second + 1, left, begun) for left in fitting(grown, session)]
        return max(results)

    def fitting(there: tuple[int, ...], whole: int) -> list[tuple[int, ...]]:
        """Cuts that make it fit, none of ``whole``; not more than is needed."""
        if sum(there) <= instance.capacity:
            return [there]
        found: list[tuple[int, ...]] = []
        for session, chunks in enumerate(there):
            if session != whole and chunks:
                less = tuple(n - (i == session) for i, n in enumerate(there))
                found += fitting(less, whole)
        return list(dict.fromkeys(found))

    return best(0, (0,) * len(instance.sizes), frozenset())


def simulated(instance: Instance) -> int:
    """What the clairvoyant gets."""
    requests = [
        Request(
            session=str(session),
            at_s=float(second),
            input_tokens=size + 1,
            output_tokens=1,
            scope=str(session),
            runs=((0, size),),
        )
        for session, (size, times) in enumerate(zip(instance.sizes, instance.returns, strict=True))
        for second in times
    ]
    hardware = Hardware(
        dram_bytes=float(instance.capacity),
        ssd_bandwidth=1.01,
        device_bandwidth=1e12,
        kv_bytes=1,
        chunk_tokens=1,
    )
    knows = Clairvoyant()
    policies = Policies(dram=knows, planner=knows, foresight=knows)
    config = SimulationConfig(engine=INSTANT, hardware=hardware, plan_every_s=0.0)
    outcome = simulate(config, Recorded(requests), policies, block_tokens=1)
    assert outcome.steady.reusable_tokens == instance.reusable
    return outcome.steady.dram_tokens


def test_what_is_kept_and_brought_back_in_time() -> None:
    """One of two fits: the first, which is back earlier; then the second, in time."""
    instance = Instance(sizes=(2, 2), returns=((0, 4), (1, 9)), capacity=2)
    assert exact(instance) == simulated(instance) == 4


def test_never_above_the_optimum_and_hardly_below() -> None:
    dice = random.Random(5)
    instances = [drawn(dice) for _ in range(150)]
    best = [exact(instance) for instance in instances]
    got = [simulated(instance) for instance in instances]
    assert all(mine <= most for mine, most in zip(got, best, strict=True))
    assert sum(got) >= 0.96 * sum(best)
