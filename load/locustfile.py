"""What Locust runs: agents at work, and at the end a summary of what their KV did.

``make load``, or ``locust -f load/locustfile.py --host URL``. Locust replaces blocking calls of the
whole process by its own: nothing else may run in it.
"""

from pathlib import Path
from typing import Any

from locust import events

from load.environment import describe
from load.report import ms, table, write_json
from load.scenarios.agent_loop import AgentLoop
from load.workload import Shape

__all__ = ["AgentLoop"]

_SHAPE = Shape()
_options: dict[str, Any] = {}


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


@events.quit.add_listener
def summarize(exit_code: int, **_: Any) -> None:
    """Print what was reused and write the summary."""
    summary = AgentLoop.tally.summary()
    prompt = max(1, summary["prompt_tokens"])
    tokens = {"computed": summary["computed_tokens"], **summary["reused_tokens"]}
    print(f"\n{summary['answers']} answers; prompt tokens by where they came from")
    rows = [[name, f"{count:,}", f"{count / prompt:.1%}"] for name, count in tokens.items()]
    print(table(["source", "tokens", "share"], rows))
    print("\nTime to first token, ms, by where most of the prompt came from")
    rows = [
        [name, str(of["count"]), *[ms(of[p]) for p in ("p50", "p90", "p99")]]
        for name, of in summary["ttft_s"].items()
    ]
    print(table(["source", "answers", "p50", "p90", "p99"], rows))
    path = Path(_options["summary"])
    write_json(
        path, {"environment": describe(), "exit_code": exit_code, "options": _options, **summary}
    )
    print(f"Summary in {path}")


@events.init.add_listener
def keep_options(environment: Any, **_: Any) -> None:
    """The quit event comes without them."""
    parsed = vars(environment.parsed_options)
    for name in ("seed", "token_scale", "context", "think_scale", "max_think", "summary"):
        _options[name] = parsed[name]
    _options["users"] = parsed["num_users"]
    _options["run_time_s"] = parsed["run_time"]
