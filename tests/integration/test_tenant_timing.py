"""Can one tenant see, by time or by count, what another has sent? Trials against a real server.

In each trial tenant A sends a prompt, or does not, by a coin; tenant B then sends that prompt and
guesses the coin. B knows how long its answers took and how many tokens they say were cached, and
has learned the best threshold on every other trial. A's prompts of a round are sent before all of
B's, in another order, so that B times what is cached and not how busy A keeps the server.
"""

import math
import random
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, count
from typing import Any

import httpx
import pytest

from tests.valet_process import MODEL, ValetProcess

pytestmark = pytest.mark.engine

BLOCK = 32
TRIALS = 1024
FEW = 80
"""Trials of one round: enough where a hit is plain to see."""
LONG = 8
"""Blocks of a prompt of which a hit is plain to see by time."""
ROUND = 128
"""Trials whose short prompts the device holds at once."""
LONG_ROUND = 40
"""And of such prompts."""
ONE_IN = 10**7
"""Distinguishers that know nothing, how seldom one fails a test; each run judges a few."""
MOST_ROUNDS = 8
"""Of a difference that is there, until it has to be seen."""
WORDS = range(1000, 40_000)
"""Ids of ordinary tokens."""
SEEDS = count()
"""No two runs have a prompt in common."""
SYSTEM = (
    "You are the booking assistant of an airline. Answer briefly, politely and truthfully. " * 6
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValetProcess]:
    folder = tmp_path_factory.mktemp("timing")
    (folder / "public").mkdir()
    (folder / "public" / "booking.txt").write_text(f"{SYSTEM}\n")
    settings = {
        "VALET_API_KEYS": "key-a,key-b",
        "VALET_BLOCK_SIZE": str(BLOCK),
        "VALET_PUBLIC_PREFIXES": str(folder / "public"),
    }
    with ValetProcess(folder / "home", settings) as server:
        yield server


class Tenant:
    """One tenant's client."""

    def __init__(self, server: ValetProcess, key: str) -> None:
        self.client: httpx.Client = server.client(headers={"Authorization": f"Bearer {key}"})

    def send(self, prompt: Sequence[int], extra: dict[str, Any]) -> "Seen":
        """One token for ``prompt``."""
        body = {"model": MODEL, "prompt": list(prompt), "max_tokens": 1, "temperature": 0} | extra
        began = time.perf_counter()
        response = self.client.post("/v1/completions", json=body)
        seconds = time.perf_counter() - began
        assert response.status_code == 200, response.text
        answer = response.json()
        cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        return Seen(seconds, answer["kv_receipt"]["ms"]["prefill"], cached)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client sees of one answer."""

    seconds: float
    prefill_ms: float
    """As the receipt says: the client's own time less the network's and the queue's."""
    cached: int


@dataclass(frozen=True, slots=True)
class Trial:
    sent: bool
    """By A."""
    seen: Seen
    """By B."""


@pytest.fixture(scope="module")
def a(server: ValetProcess) -> Iterator[Tenant]:
    tenant = Tenant(server, "key-a")
    with tenant.client:
        yield tenant


@pytest.fixture(scope="module")
def b(server: ValetProcess) -> Iterator[Tenant]:
    tenant = Tenant(server, "key-b")
    with tenant.client:
        yield tenant


def run(
    a: Tenant,
    b: Tenant,
    trials: int,
    *,
    beginning: Sequence[int] = (),
    own: int = 1,
    at_once: int = ROUND,
) -> list[Trial]:
    """Prompts are ``beginning``, ``own`` blocks of their own and a little more."""
    rng = random.Random(next(SEEDS))
    done: list[Trial] = []
    with ThreadPoolExecutor(8) as pool:
        for _ in range(trials // at_once):
            asks = [
                ([*beginning, *rng.choices(WORDS, k=own * BLOCK + 2)], claim(rng))
                for _ in range(at_once)
            ]
            coins = [rng.random() < 0.5 for _ in asks]
            sent = [ask for ask, coin in zip(asks, coins, strict=True) if coin]
            list(pool.map(lambda ask: a.send(*ask), sent))
            order = rng.sample(range(at_once), at_once)
            done += [Trial(coins[i], b.send(*asks[i])) for i in order]
    return done


def claim(rng: random.Random) -> dict[str, Any]:
    """What clients may send in the hope of meeting others' KV; A and B send the same."""
    return rng.choice(
        [
            {},
            {"cache_salt": "ours"},
            {"cache_salt": "public:32:"},
            {"session_id": f"shared-{secrets.token_hex(4)}"},
            {"kv_transfer_params": {"do_remote_prefill": True, "remote_block_ids": [1, 2]}},
            {"prompt_cache_key": f"shared-{secrets.token_hex(4)}"},
        ]
    )


# --- the distinguisher ---------------------------------------------------------------------------


def accuracy(values: Sequence[float], coins: Sequence[bool]) -> tuple[int, int]:
    """Right guesses, and guesses: what is learned on the even trials is tested on the odd ones."""
    threshold, above = learn(values[::2], coins[::2])
    guesses = [(value > threshold) == above for value in values[1::2]]
    return sum(map(bool.__eq__, guesses, coins[1::2])), len(guesses)


def learn(values: Sequence[float], coins: Sequence[bool]) -> tuple[float, bool]:
    """The threshold with the most right guesses, and whether "sent" is what lies above it."""
    ordered = sorted(zip(values, coins, strict=True))
    sent = sum(coins)
    # Right when everything above each value is called "sent".
    right = list(accumulate((-1 if coin else 1 for _, coin in ordered), initial=sent))
    cuts = [-math.inf, *(value for value, _ in ordered)]
    # A cut between equal values cannot be made.
    able = [i for i in range(len(cuts)) if i + 1 == len(cuts) or cuts[i] != cuts[i + 1]]
    best = max(able, key=lambda i: max(right[i], len(coins) - right[i]))
    return cuts[best], right[best] * 2 >= len(coins)


def chance(guesses: int) -> int:
    """So many right guesses, or more, come to one distinguisher in ``ONE_IN`` that knows nothing:
    the upper tail of the binomial distribution with p = 1/2."""
    tail = accumulate(math.comb(guesses, k) for k in range(guesses, -1, -1))
    return next(guesses + 1 - i for i, ways in enumerate(tail) if ways * ONE_IN > 2**guesses)


def judge(trials: Sequence[Trial]) -> dict[str, tuple[int, int]]:
    coins = [trial.sent for trial in trials]
    judged = {
        "time": accuracy([trial.seen.seconds for trial in trials], coins),
        "prefill": accuracy([trial.seen.prefill_ms for trial in trials], coins),
        "cached": accuracy([trial.seen.cached for trial in trials], coins),
    }
    for name, (right, guesses) in judged.items():
        print(f"{name}: {right}/{guesses} right, chance stays below {chance(guesses)}")
    return judged


def test_the_judge_knows_chance_from_knowledge() -> None:
    rng = random.Random(1)
    coins = [rng.random() < 0.5 for _ in range(1000)]
    right, guesses = accuracy([rng.random() for _ in coins], coins)
    assert right < chance(guesses)
    assert accuracy([rng.gauss(1.5 * coin) for coin in coins], coins)[0] >= chance(guesses)
    assert accuracy([rng.gauss(-1.5 * coin) for coin in coins], coins)[0] >= chance(guesses)
    assert accuracy([float(coin) for coin in coins], coins) == (500, 500)
    assert chance(10_000) == pytest.approx(5000 + 5.2 * 50, abs=2)


# --- the trials ----------------------------------------------------------------------------------


def test_a_tenant_cannot_see_what_another_has_sent(a: Tenant, b: Tenant) -> None:
    trials = run(a, b, TRIALS)
    assert {trial.seen.cached for trial in trials} == {0}
    for right, guesses in judge(trials).values():
        assert right < chance(guesses)


def test_the_distinguisher_sees_what_is_shared_and_only_that(a: Tenant, b: Tenant) -> None:
    """Longer prompts, of which a hit saves more time. Within one tenant it sees hits by count, but
    for the few that have left the device and are computed because that is as fast; and by time
    after a few rounds at most, however busy the machine is."""
    for right, guesses in judge(run(a, b, FEW, own=LONG, at_once=LONG_ROUND)).values():
        assert right < chance(guesses)
    trials: list[Trial] = []
    for _ in range(MOST_ROUNDS):
        trials += run(a, a, FEW, own=LONG, at_once=LONG_ROUND)
        within = judge(trials)
        assert within["cached"][0] >= 0.9 * within["cached"][1]
        right, guesses = max(within["time"], within["prefill"])
        if right >= chance(guesses):
            return
    pytest.fail("what is shared is not seen by time")


def test_a_public_prefix_is_shared_and_nothing_behind_it(
    server: ValetProcess, a: Tenant, b: Tenant, public: list[int]
) -> None:
    assert f"1 public prefixes: {len(public)} tokens are shared" in server.text_log()
    first = b.send([*public, 5000], {})
    assert first.cached == len(public) > 0, "computed before anybody asked"
    trials = run(a, b, FEW, beginning=public, at_once=LONG_ROUND)
    assert {trial.seen.cached for trial in trials} == {len(public)}
    for right, guesses in judge(trials).values():
        assert right < chance(guesses)


@pytest.fixture(scope="module")
def public(a: Tenant) -> list[int]:
    """The whole blocks of the declared prefix, as the server renders them."""
    messages = [{"role": "system", "content": SYSTEM}]
    one, other = [
        a.client.post("/tokenize", json={"messages": [*messages, user]}).json()["tokens"]
        for user in ({"role": "user", "content": "?"}, {"role": "user", "content": "!"})
    ]
    same = next(i for i, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
    whole: list[int] = one[: same // BLOCK * BLOCK]
    return whole


def test_deleting_a_session_leaves_the_public_prefix(
    a: Tenant, b: Tenant, public: list[int]
) -> None:
    prompt = [*public, *range(5000, 5000 + BLOCK)]
    a.send(prompt, {"session_id": "short-lived"})
    assert a.client.delete("/v1/sessions/short-lived").status_code == 200
    assert b.send(prompt, {}).cached == len(public)
    assert a.send(prompt, {}).cached == len(public)
