"""Recorded and generated conversations as the requests of clients that name no session: every one
resends its whole history.

Of the coding agents' trace only the blocks of each prompt are known. Messages are derived from what
consecutive prompts have in common: the system prompt first, then for every request its answer and
what was appended. Where a prompt departs from the one before it, the message that lies there has
changed. A prompt that stays about as long keeps the messages behind it (an edit); one that shrinks
has a single new message, a summary, in the place of all of them (a compaction).
"""

import gzip
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from load.traces import Request, coding_agents

Body = dict[str, Any]

MUCH_SHORTER: Final = 0.9
"""A rewritten prompt below this share of the one before it was compacted."""
BLOCK: Final = 64


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a conversation, and the answer that it gets."""

    conversation: str
    tenant: str
    messages: list[Body]
    answer: Body
    compacted: bool = False
    """Whether the history in front of it was replaced by another, its last answer included."""


def customer_service(
    path: Path, tenants: int, seed: int = 1, conversations: int | None = None
) -> Iterator[Ask]:
    """Every conversation of tau's, or the first few, at every tenant, all at the same time."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        told = [json.loads(line) for line in islice(lines, conversations)]
    return _mixed(
        (
            (f"{talk['session_id']} at {tenant}", f"tenant-{tenant}", talk["messages"])
            for tenant in range(tenants)
            for talk in told
        ),
        seed,
    )


def generated(conversations: int, tenants: int, seed: int = 1) -> Iterator[Ask]:
    """Agents with one system prompt and tools, at work on tasks of their own."""
    chance = random.Random(seed)

    def talk(number: int) -> list[Body]:
        messages: list[Body] = [
            {"role": "system", "content": "You are an agent. " * 20},
            {"role": "user", "content": f"Task {number % (conversations // 2 + 1)}: begin."},
        ]
        for step in range(chance.randrange(2, 9)):
            call_id = f"call_{chance.getrandbits(64):016x}"
            arguments = json.dumps({"step": step, "of": number})
            function = {"name": "look", "arguments": arguments}
            call = {"id": call_id, "type": "function", "function": function}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            seen = {"role": "tool", "tool_call_id": call_id, "content": f"seen {step % 3}"}
            messages.append(seen)
        return [*messages, {"role": "assistant", "content": "Done."}]

    return _mixed(
        (
            (f"{number}", f"tenant-{number % tenants}", talk(number))
            for number in range(conversations)
        ),
        seed,
    )


def coding(path: Path) -> Iterator[Ask]:
    """The coding agents' sessions, their sub-agents as conversations of their own."""
    agents: dict[str, _Agent] = {}
    for request in coding_agents(path):
        agent = agents.setdefault(request.session, _Agent())
        yield agent.ask(request)


def _mixed(talks: Iterable[tuple[str, str, list[Body]]], seed: int) -> Iterator[Ask]:
    """The requests of conversations, in order within each and in any order between them."""
    chance = random.Random(seed)
    waiting = [
        (name, tenant, messages, [i for i, m in enumerate(messages) if m["role"] == "assistant"])
        for name, tenant, messages in talks
    ]
    waiting = [talk for talk in waiting if talk[3]]
    while waiting:
        at = chance.randrange(len(waiting))
        name, tenant, messages, answers = waiting[at]
        turn = answers.pop(0)
        yield Ask(name, tenant, messages[:turn], messages[turn])
        if not answers:
            waiting[at] = waiting[-1]
            waiting.pop()


@dataclass(slots=True)
class _Said:
    """A message and the tokens of the prompt that it ends at."""

    body: Body
    end: int


@dataclass(slots=True)
class _Agent:
    """What one agent's next request has to resend."""

    said: list[_Said] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    requests: int = 0

    def ask(self, request: Request) -> Ask:
        blocks = [block for _, block in request.blocks()]
        same = _common(blocks, self.blocks)
        compacted = False
        if not self.said:
            self._begin(request, blocks)
        elif same < len(self.blocks) - 1:
            compacted = request.input_tokens < self.said[-1].end * MUCH_SHORTER
            self._rewrite(request, same * BLOCK, compacted)
        if not compacted:
            name = f"{request.session}, request {self.requests}"
            self._append("user", f"of {name}", request.input_tokens)
        self.blocks = blocks
        self.requests += 1
        messages = [said.body for said in self.said]
        text = f"What the agent answered to request {self.requests} of {request.session}."
        answer = {"role": "assistant", "content": text}
        self.said.append(_Said(answer, request.input_tokens + request.output_tokens))
        return Ask(request.session, "tenant", messages, answer, compacted)

    def _begin(self, request: Request, blocks: list[int]) -> None:
        # Half of a first prompt, by its blocks: agents of one session that begin alike have the
        # same system prompt.
        half = len(blocks) // 2
        self._append("system", f"{request.scope} {blocks[:half]}", half * BLOCK)

    def _rewrite(self, request: Request, at: int, compacted: bool) -> None:
        changed = next((i for i, s in enumerate(self.said) if s.end > at), len(self.said) - 1)
        body = dict(self.said[changed].body)
        note = f"rewritten for request {self.requests} of {request.session}"
        if compacted:
            del self.said[max(1, changed) :]
            self._append("user", f"A summary, {note}.", request.input_tokens)
        elif body["role"] == "assistant":
            # What is sent back as the model's is the model's; the message behind it changed.
            self.said.insert(changed + 1, _Said({"role": "user", "content": note}, at))
        else:
            self.said[changed].body = body | {"content": f"{body['content']}, {note}"}

    def _append(self, role: str, text: str, end: int) -> None:
        self.said.append(_Said({"role": role, "content": text}, end))


def _common(a: list[int], b: list[int]) -> int:
    for at, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return at
    return min(len(a), len(b))
