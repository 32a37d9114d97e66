"""Servers compared under the same agents, in turns: never two of them at work at the same time.

Each server has a team of its own, of agents of the same seeds, which begin with the same sessions
on SSD (``load.prepared``). A first turn of each agent brings these up and is not counted; how long
it takes says how long gaps must be for the machine to be busy for a wanted share of the time. Then
the teams work in stints, in the order A B B A ….
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from load.client import Client
from load.environment import describe
from load.paced import MEAN_TOOL_S, Pace, PacedAgent
from load.prepared import SSD, prepare
from load.report import percentile, times, verdicts, write_json
from load.server import REPOSITORY, Server, Sizes, running, valet
from load.stints import Stint, compare, draw, live_bytes, short, summarize
from load.team import Team, Turned
from load.workload import Shape

ROOMY: Final = 2 * 1024**3
"""A device that holds all sessions of a comparison."""
KEPT: Final = REPOSITORY / "build/bench/prepared"
_GROWTH: Final = 100
"""Tokens by which a session grows until the middle of a run, about."""


class NotPrepared(Exception):
    """Sessions that should be on SSD are not: the prepared folder is of another engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large a comparison is."""

    agents: int
    shortest: int
    longest: int
    """Tokens of the agents' first requests, about."""
    context: int
    """Tokens that a prompt and its answer have at most, about."""
    rounds: int
    seconds: float
    """Of a stint."""
    busy: float = 0.4
    """Share of the time for which the machine is to compute."""
    pace: Pace = field(default_factory=Pace)

    def team(self) -> list[PacedAgent]:
        """The agents; always the same."""
        # So that sessions grow by a chunk in some turns: what is appended is short beside the rest.
        shape = Shape(scale=64, context=self.context)
        return [
            PacedAgent(f"agent {n}", shape, self.pace, shortest=self.shortest, longest=self.longest)
            for n in range(self.agents)
        ]

    @property
    def live_bytes(self) -> int:
        """KV of all sessions in the middle of a run, about."""
        return live_bytes([agent.tokens + _GROWTH for agent in self.team()])

    @property
    def max_model_len(self) -> int:
        """A tenth more than the context: text has only about as many tokens as it should."""
        return -(-self.context * 11 // 10 // 128) * 128


FULL: Final = Scale(agents=24, shortest=1000, longest=2400, context=2700, rounds=2, seconds=120.0)
QUICK: Final = Scale(agents=16, shortest=300, longest=600, context=760, rounds=1, seconds=30.0)


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """Of the options that all comparisons have, for the benchmark ``load.bench_NAME``."""
    made = argparse.ArgumentParser(prog=f"load.bench_{name}", description=doc)
    made.add_argument("--quick", action="store_true", help="few agents with short histories")
    made.add_argument("--rounds", type=int, help="stints of each server")
    made.add_argument("--seconds", type=float, help="of a stint")
    made.add_argument("--busy", type=float, default=FULL.busy, help="share of time (0.4)")
    made.add_argument(
        "--announced",
        type=float,
        default=FULL.pace.announced,
        help="share of tool calls whose usual time the client announces (0.25)",
    )
    made.add_argument("--unnamed", action="store_true", help="the client says nothing of its tools")
    made.add_argument("--kept", type=Path, default=KEPT, help="prepared sessions (build/bench)")
    made.add_argument("--out", type=Path, default=REPOSITORY / f"build/bench/{name}.json")
    return made


def scale_of(options: argparse.Namespace) -> Scale:
    """As the options say."""
    scale = QUICK if options.quick else FULL
    return replace(
        scale,
        rounds=options.rounds or scale.rounds,
        seconds=options.seconds or scale.seconds,
        busy=options.busy,
        pace=Pace(named=not options.unnamed, announced=options.announced),
    )


@dataclass(frozen=True, slots=True)
class Tiers:
    """What a server of a comparison has, in bytes."""

    device: int
    dram: int
    settings: Mapping[str, str] = field(default_factory=dict)
    """``VALET_…``, beside these."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Servers that run, each with its team, whose agents have had a turn."""

    clients: Mapping[str, Client]
    teams: Mapping[str, Team]
    opening: Mapping[str, Sequence[Turned]]
    """That turn, of each team."""
    stretch: float
    """How much longer gaps are to be."""


@contextmanager
def opened(servers: Mapping[str, Tiers], scale: Scale, kept: Path) -> Iterator[Opened]:
    """The prepared sessions are kept below ``kept``. Raises NotPrepared and ServerFailed."""
    sizes = Sizes(device_kv=ROOMY, max_model_len=scale.max_model_len)
    prepared = prepare(kept, scale.team, sizes)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="valet-bench-")))
        started = {
            name: _server(prepared.copy(folder / name), tiers, sizes)
            for name, tiers in servers.items()
        }
        stack.enter_context(running(*started.values()))
        clients = {
            name: stack.enter_context(Client(server.url)) for name, server in started.items()
        }
        teams = {name: Team(client, scale.team()) for name, client in clients.items()}
        opening = {}
        for name, team in teams.items():
            team.skip(prepared.answers)
            opening[name] = tuple(team.turn(number)[0] for number in range(scale.agents))
        turns = [turn for some in opening.values() for turn in some]
        # A first read may come too late, and be computed.
        if sum(_is_found(turn) for turn in turns) < len(turns) / 2:
            raise NotPrepared("sessions of the prepared home are not found: remove it")
        turn_s = percentile([turn.ended for turn in turns], 0.5) or 0.0
        stretch = stretch_for(scale.busy, turn_s, scale.agents)
        print(f"a turn takes {turn_s:.2f} s; gaps are {stretch:.2f} × the recorded ones")
        yield Opened(clients, teams, opening, stretch)


def alternate(servers: Mapping[str, Tiers], scale: Scale, kept: Path) -> list[Stint]:
    """All stints, in turns. Raises as ``opened``, and what goes wrong for an agent."""
    stints = []
    with opened(servers, scale, kept) as ready:
        for number in range(scale.rounds):
            for name in list(servers)[:: -1 if number % 2 else 1]:
                turns = tuple(ready.teams[name].stint(scale.seconds, ready.stretch))
                stints.append(Stint(name, number, turns))
                print(f"round {number + 1}: {name:<10} {short(turns)}")
    return stints


def run_comparison(
    servers: Mapping[str, Tiers],
    options: argparse.Namespace,
    wanted: Callable[[Mapping[str, Any]], Mapping[str, bool | None]],
) -> None:
    """Compare the first of two servers with the second: run, print the tables and what of
    ``wanted`` is met by the figures of ``load.stints.compare``, write the JSON."""
    over, under = servers
    scale = scale_of(options)
    environment = describe()
    stints = alternate(servers, scale, options.kept)
    by_server = {name: [stint for stint in stints if stint.server == name] for name in servers}
    summaries = {name: summarize(some) for name, some in by_server.items()}
    ratios = compare(by_server[over], by_server[under])
    goals = wanted(ratios)
    print(f"\n{draw(summaries)}\n\n{over} ÷ {under}: {_in_words(ratios)}")
    print(verdicts(goals))
    write_json(
        options.out,
        {
            "environment": environment,
            "scale": asdict(scale),
            "tiers": {name: asdict(each) for name, each in servers.items()},
            "live_bytes": scale.live_bytes,
            "wanted": goals,
            "ratios": ratios,
            "servers": summaries,
            "stints": [asdict(stint) for stint in stints],
        },
    )


def _in_words(ratios: Mapping[str, Any]) -> str:
    paired = ratios["paired"] or {}
    median, low, high = (times(paired.get(name)) for name in ("median", "low", "high"))
    return (
        f"median {times(ratios['ttft_p50'])}, 99th percentile {times(ratios['ttft_p99'])}, "
        f"equal turns {median} ({low} to {high}), "
        f"turns a minute {times(ratios['turns_per_minute'])}"
    )


def stretch_for(busy: float, turn_s: float, agents: int) -> float:
    """By how much gaps are to be longer, for ``agents`` whose turns take ``turn_s`` to keep the
    machine busy for that share of the time."""
    gap_s = agents * turn_s / busy - turn_s
    return max(0.05, gap_s / MEAN_TOOL_S)


def _server(home: Path, tiers: Tiers, sizes: Sizes) -> Server:
    server = valet(home, sizes=replace(sizes, device_kv=tiers.device), dram=tiers.dram, ssd=SSD)
    return replace(server, env={**server.env, **tiers.settings})


def _is_found(turn: Turned) -> bool:
    return any(turn.receipt["reused_tokens"].values())
