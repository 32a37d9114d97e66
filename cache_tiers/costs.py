"""What it costs, in time, to have chunks back: the common measure of eviction, prefetch and
load-or-compute."""

from typing import Protocol


class Costs(Protocol):
    """As learned so far. All answers in seconds, never negative. One thread."""

    def load_s(self, chunks: int) -> float:
        """To bring so many chunks up from the tier below, with nothing else under way."""
        ...

    def compute_s(self, start_token: int, end_token: int) -> float:
        """To compute the tokens ``start … end`` of a prompt, everything before them at hand."""
        ...

    @property
    def lead_s(self) -> float:
        """From a request's first byte to the moment its chunks are asked for: what is loaded
        meanwhile delays nobody."""
        ...
