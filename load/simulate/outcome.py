"""What a run gives. Values, and the tally that makes them."""

import math
from array import array
from dataclasses import dataclass, field

from load.report import percentile


@dataclass(frozen=True, slots=True)
class SteadyState:
    """Turns after the warm-up. Tokens; a turn counts when it begins to be computed."""

    turns: int
    turns_per_minute: float
    prompt_tokens: int
    reusable_tokens: int
    """Of the prompts, what an infinite cache would have had."""
    device_tokens: int
    """Of the reusable: on the device when the scheduler asked."""
    dram_tokens: int
    """Only in DRAM then."""
    late_tokens: int
    """Loaded from SSD while the request waited."""
    recomputed_tokens: int
    ttft_s: tuple[float, float, float]
    """Time to first token at the median, and what 90 and 99 of 100 do not pass."""
    live_tokens: float
    """Of the chains of the sessions that users have open, on average over time."""
    in_use_tokens: float
    """Of the requests that run, on average over time."""

    @property
    def hot_share(self) -> float:
        """Of the reusable tokens, those on the device or in DRAM when the scheduler asked."""
        return (self.device_tokens + self.dram_tokens) / max(1, self.reusable_tokens)

    @property
    def missed_share(self) -> float:
        """Of the reusable tokens, those that were late or computed again."""
        return (self.late_tokens + self.recomputed_tokens) / max(1, self.reusable_tokens)


@dataclass(frozen=True, slots=True)
class Prefetching:
    """What became of what was prefetched to DRAM, after the warm-up."""

    fetched_tokens: int
    """The warm-up's too."""
    used_tokens: int
    """Were there when the next request of the session came, which needed them."""
    wasted_tokens: int
    """Went before, or were not needed."""
    returns: int
    """Of sessions of which something had been prefetched."""
    late_returns: int
    """Those that came before all of it was there."""

    @property
    def precision(self) -> float | None:
        """Of what was prefetched and is over, the part that was used; None for nothing."""
        over = self.used_tokens + self.wasted_tokens
        return self.used_tokens / over if over else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run."""

    steady: SteadyState
    prefetching: Prefetching
    events: int
    simulated_s: float
    turns: int
    """All of them, the warm-up's too."""
    reusable: "array[int]"
    """Tokens of every turn, in the order in which the scheduler asked for them."""
    hot: "array[int]"
    """Those of them on the device or in DRAM then."""
    loaded_tokens: int = 0
    """From SSD, for requests that had come; in all turns. What was prefetched comes on top."""


@dataclass(slots=True)
class Mean:
    """Of a quantity over time."""

    value: float = 0.0
    _at: float = 0.0
    _sum: float = 0.0
    _since: float = 0.0

    def set(self, value: float, now: float) -> None:
        """It is this from now on."""
        self._sum += self.value * (now - self._at)
        self.value, self._at = value, now

    def restart(self, now: float) -> None:
        """Forget what was."""
        self._sum, self._at, self._since = 0.0, now, now

    def over(self, now: float) -> float:
        """Its mean since the restart."""
        self.set(self.value, now)
        return self._sum / (now - self._since) if now > self._since else self.value


@dataclass(slots=True)
class Tally:
    """Counts a run. Sizes in tokens."""

    warm_up: int
    turns: int = 0
    began_at: float = 0.0
    """When the warm-up was over."""
    prompt: int = 0
    reusable: int = 0
    device: int = 0
    dram: int = 0
    late: int = 0
    recomputed: int = 0
    used: int = 0
    wasted: int = 0
    returns: int = 0
    late_returns: int = 0
    live: Mean = field(default_factory=Mean)
    in_use: Mean = field(default_factory=Mean)
    ttft: "array[float]" = field(default_factory=lambda: array("d"))
    reusable_by_turn: "array[int]" = field(default_factory=lambda: array("l"))
    hot_by_turn: "array[int]" = field(default_factory=lambda: array("l"))

    @property
    def counting(self) -> bool:
        """Whether the warm-up is over."""
        return self.turns >= self.warm_up

    def asked(
        self, prompt: int, reusable: int, device: int, dram: int, late: int, now: float
    ) -> None:
        """The scheduler asked for a request's KV."""
        self.turns += 1
        self.reusable_by_turn.append(reusable)
        self.hot_by_turn.append(device + dram)
        if self.turns == self.warm_up:
            self.began_at = now
            self.live.restart(now)
            self.in_use.restart(now)
        if self.turns <= self.warm_up:
            return
        self.prompt += prompt
        self.reusable += reusable
        self.device += device
        self.dram += dram
        self.late += late
        self.recomputed += reusable - device - dram - late

    def returned(self, used: int, wasted: int, late: bool) -> None:
        """A session of which something had been prefetched has a request."""
        if self.counting:
            self.used += used
            self.wasted += wasted
            self.returns += 1
            self.late_returns += late

    def lost(self, tokens: int) -> None:
        """Something that was prefetched went before it was used."""
        if self.counting:
            self.wasted += tokens

    def first_token(self, ttft_s: float) -> None:
        """Of a request, so long after its first byte."""
        if self.counting:
            self.ttft.append(ttft_s)

    def outcome(self, now: float, events: int, fetched: int, loaded: int) -> Outcome:
        """All of it; ``fetched`` tokens were prefetched to DRAM, ``loaded`` for requests."""
        return Outcome(
            steady=self._steady(now),
            prefetching=Prefetching(
                fetched, self.used, self.wasted, self.returns, self.late_returns
            ),
            events=events,
            simulated_s=now,
            turns=self.turns,
            loaded_tokens=loaded,
            reusable=self.reusable_by_turn,
            hot=self.hot_by_turn,
        )

    def _steady(self, now: float) -> SteadyState:
        """See there."""
        counted = max(0, self.turns - self.warm_up)
        minutes = (now - self.began_at) / 60

        def ttft(share: float) -> float:
            at = percentile(self.ttft, share)
            return math.nan if at is None else at

        return SteadyState(
            turns=counted,
            turns_per_minute=counted / minutes if minutes > 0 else 0.0,
            prompt_tokens=self.prompt,
            reusable_tokens=self.reusable,
            device_tokens=self.device,
            dram_tokens=self.dram,
            late_tokens=self.late,
            recomputed_tokens=self.recomputed,
            ttft_s=(ttft(0.5), ttft(0.9), ttft(0.99)),
            live_tokens=self.live.over(now),
            in_use_tokens=self.in_use.over(now),
        )
