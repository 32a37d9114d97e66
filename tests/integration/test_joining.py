"""Clients that name no session are joined to the right one: a small part of the benchmark."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.bench_joining import TRACES, WANTED, replay
from tests.benchmarks.recorded_chats import coding, customer_service, generated

SERVICE = TRACES / "tau_airline" / "dev.jsonl.gz"


async def test_agents_at_work_are_told_apart(tmp_path: Path) -> None:
    joined = await replay(generated(40, tenants=3), tmp_path)
    assert joined.turns > 100
    assert joined.same_session == joined.turns
    assert joined.first_joined == joined.wrong_tenant == 0


@pytest.mark.skipif(not SERVICE.is_file(), reason="this machine has no recorded conversations")
async def test_recorded_conversations_are_told_apart(tmp_path: Path) -> None:
    joined = await replay(customer_service(SERVICE, 2, conversations=24), tmp_path)
    assert joined.turns > 300
    assert joined.share >= WANTED
    assert joined.first_joined == joined.wrong_tenant == 0


async def test_a_rewritten_trace_is_derived_as_it_says(tmp_path: Path) -> None:
    prompts = [
        {"t": 0, "type": "n", "in": 640, "out": 64, "hash_runs": [[1, 10]]},
        {"t": 1, "type": "n", "in": 768, "out": 64, "hash_runs": [[1, 12]]},
        # An edit: block 6 has changed, and so have all behind it.
        {"t": 2, "type": "n", "in": 896, "out": 64, "hash_runs": [[1, 5], [20, 9]]},
        # A compaction: only the beginning is left.
        {"t": 3, "type": "n", "in": 448, "out": 64, "hash_runs": [[1, 4], [40, 3]]},
    ]
    trace = tmp_path / "trace.jsonl"
    trace.write_text(json.dumps({"id": "s", "block_size": 64, "requests": prompts}))
    asks = list(coding(trace))
    roles = [[message["role"] for message in ask.messages] for ask in asks]
    assert roles[0] == ["system", "user"]
    assert roles[1] == ["system", "user", "assistant", "user"]
    assert roles[2] == [*roles[1], "assistant", "user"]
    assert asks[2].messages[1] != asks[1].messages[1]
    assert asks[2].messages[2:4] == asks[1].messages[2:]
    assert asks[3].compacted
    assert roles[3] == ["system", "user"]
    joined = await replay(asks, tmp_path)
    assert (joined.same_session, joined.rewritten, joined.compacted) == (2, 1, 1)
