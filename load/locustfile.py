"""What Locust runs: agents at work, and at the end a summary of what their KV did.

``make load``, or ``locust -f load/locustfile.py --host URL``. Locust replaces blocking calls of the
whole process by its own: nothing else may run in it.
"""

from pathlib import Path
from typing import Any

from locust import events

from load.environment import describe
from load.report import write_json
from load.reuse import draw
from load.scenarios.agent_loop import AgentLoop
from load.workload import Shape

__all__ = ["AgentLoop"]

_SHAPE = Shape()
_OPTIONS = ("seed", "token_scale", "context", "think_scale", "max_think")


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Options beside Locust's own."""
    add = parser.add_argument
    add("--seed", default="1", help="other seeds, other conversations")
    add("--token-scale", type=float, default=_SHAPE.scale, help="divides recorded lengths")
    add("--context", type=int, default=_SHAPE.context, help="tokens a conversation may have")
    add("--think-scale", type=float, default=0.1, help="multiplies recorded gaps between turns")
    add("--max-think", type=float, default=30.0, help="seconds that a gap has at most")
    add("--summary", default="build/bench/load.json", help="where the summary goes")


@events.init.add_listener
def summarize_at_the_end(environment: Any, **_: Any) -> None:
    """Print what was reused and write the summary when Locust ends."""
    options = environment.parsed_options

    def summarize(exit_code: int, **_: Any) -> None:
        summary = AgentLoop.tally.summary()
        path = Path(options.summary)
        settings = {"users": options.num_users, "run_time_s": options.run_time}
        settings |= {name: getattr(options, name) for name in _OPTIONS}
        report = {"environment": describe(), "exit_code": exit_code, "options": settings}
        write_json(path, report | summary)
        print(f"\n{draw(summary)}\nSummary in {path}")

    environment.events.quit.add_listener(summarize)
