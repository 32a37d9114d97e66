"""A home whose store already has the sessions of a team: servers begin from copies of it.

Computing many long prompts takes minutes on CPU. So it is done once, by a server of its own, and
kept in a folder until somebody removes that: two servers that are compared have the same sessions
on SSD when they start, and so has the next run.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from load.client import Client
from load.paced import PacedAgent
from load.server import Sizes, make_home, prepare_model, running, valet
from load.team import Team

SSD = 8 * 1024**3
_DRAM = 1024**3


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a prepared folder holds."""

    home: Path
    answers: tuple[str, ...]
    """To each agent's first request."""

    def copy(self, folder: Path) -> Path:
        """A home of its own for a server, in ``folder``, which is made."""
        folder.mkdir(parents=True)
        made = Path(shutil.copytree(self.home, folder / "home", symlinks=True))
        # A read past the page cache would have to wait for what is not on the disk yet.
        os.sync()
        return made


def prepare(kept: Path, team: Callable[[], Sequence[PacedAgent]], sizes: Sizes) -> Prepared:
    """The home of the agents that ``team`` makes, always the same ones: a folder of their own below
    ``kept``. What is missing there of it, a server makes, which answers their first requests; if it
    is interrupted, the next one goes on. Raises ServerFailed."""
    agents = team()
    folder = kept / _name(team())
    home, told = folder / "home", folder / "answers.json"
    if not told.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        prepare_model(make_home(folder))
        told.write_text("[]", encoding="utf-8")
    answers = json.loads(told.read_text(encoding="utf-8"))
    if len(answers) < len(agents):
        server = valet(home, sizes=sizes, dram=_DRAM, ssd=SSD)
        with running(server), Client(server.url) as client:
            working = Team(client, agents)
            working.skip(answers)
            for number in range(len(answers), len(agents)):
                _, answer = working.turn(number)
                working.wait_until_stored(number)
                answers.append(answer)
                told.write_text(json.dumps(answers), encoding="utf-8")
    return Prepared(home, tuple(answers))


def _name(agents: Sequence[PacedAgent]) -> str:
    """A digest of what they ask first."""
    firsts = [step and step.messages for step in (agent.step(0.0) for agent in agents)]
    return hashlib.sha256(json.dumps(firsts).encode()).hexdigest()[:16]
