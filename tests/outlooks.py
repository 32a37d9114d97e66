"""Outlooks, returns and costs set by hand: what policies are tested against."""

import math
from dataclasses import dataclass

from cache_tiers.returns.types import Outlook, TurnEnd
from cache_tiers.types import SessionKey


@dataclass(frozen=True)
class Steady:
    """Returns at a constant rate."""

    rate: float

    def survival(self, away_s: float) -> float:
        return math.exp(-self.rate * away_s)

    def hazard(self, away_s: float) -> float:
        return self.rate

    def quantile(self, share: float, away_s: float = 0.0) -> float:
        return away_s - math.log1p(-share) / self.rate


@dataclass(frozen=True)
class Sharp:
    """Returns at one moment."""

    at_s: float

    def survival(self, away_s: float) -> float:
        return float(away_s < self.at_s)

    def hazard(self, away_s: float) -> float:
        return 0.0

    def quantile(self, share: float, away_s: float = 0.0) -> float:
        return self.at_s if away_s < self.at_s else math.inf


class Never:
    """Does not return."""

    def survival(self, away_s: float) -> float:
        return 1.0

    def hazard(self, away_s: float) -> float:
        return 0.0

    def quantile(self, share: float, away_s: float = 0.0) -> float:
        return math.inf


class FakeReturns:
    """``Returns`` with outlooks set by hand."""

    def __init__(self) -> None:
        self.distrusted: set[SessionKey] = set()
        self.outlooks: dict[SessionKey, Outlook] = {}
        self.since: dict[SessionKey, float] = {}

    def expect(self, session: SessionKey, outlook: Outlook, since: float = 0.0) -> None:
        self.outlooks[session] = outlook
        self.since[session] = since

    def ended(self, end: TurnEnd, now: float) -> None:
        raise NotImplementedError

    def returned(self, session: SessionKey, now: float) -> None:
        self.forget(session, now)

    def forget(self, session: SessionKey, now: float) -> None:
        self.outlooks.pop(session, None)
        self.since.pop(session, None)

    def outlook(self, session: SessionKey) -> Outlook | None:
        return self.outlooks.get(session)

    def trusts(self, session: SessionKey) -> bool:
        return session not in self.distrusted

    def away_since(self, session: SessionKey) -> float | None:
        return self.since.get(session)


@dataclass
class FakeCosts:
    """Loads of ``chunk_s`` a chunk, prefills of ``token_s`` and ``late_s`` a token."""

    chunk_s: float = 0.01
    token_s: float = 1.0
    late_s: float = 0.0
    lead_s: float = 0.0

    def load_s(self, chunks: int) -> float:
        return chunks * self.chunk_s

    def compute_s(self, start_token: int, end_token: int) -> float:
        tokens = end_token - start_token
        return tokens * (self.token_s + self.late_s * (start_token + end_token) / 2)
