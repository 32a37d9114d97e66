"""What Anthropic's usage says of a cache that a request asked to be held."""

from typing import Any

import pytest
from app_harness import Run, sse

WORDS = " ".join(f"word{n}" for n in range(21))


@pytest.mark.parametrize(("ttl", "field"), [("5m", "5m"), ("1h", "1h"), (None, "5m")])
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_is_written_under_a_lease_is_told(
    run: Run, streamed: bool, ttl: str | None, field: str
) -> None:
    control = {"type": "ephemeral"} | ({"ttl": ttl} if ttl else {})
    said = {"messages": [{"role": "user", "content": WORDS}], "cache_control": control}
    body: dict[str, Any] = {"model": "fake", "max_tokens": 2, "stream": streamed}
    async with run() as running:
        usages = []
        for _ in range(2):
            answer = await running.client.post("/v1/messages", json=body | said)
            assert answer.status_code == 200, answer.text
            usage = sse(answer.text)[-2]["usage"] if streamed else answer.json()["usage"]
            usages.append(usage)
    first, again = usages
    written = first["cache_creation_input_tokens"]
    total = written + first["input_tokens"]
    assert written == (total - 1) // 4 * 4 > 0
    assert first["cache_read_input_tokens"] == 0
    assert again["cache_creation_input_tokens"] == 0
    assert again["cache_read_input_tokens"] + again["input_tokens"] == total
    if not streamed:
        kept = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
        assert first["cache_creation"] == kept | {f"ephemeral_{field}_input_tokens": written}
