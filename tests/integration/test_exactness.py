"""The key promise: a resumed session says what it would have said had its KV never left the device.

The reference is a second tenant on a server whose KV stays on the device: same prompts, same
cached boundaries, no park, no restart. (A run without any cache is no reference: the engine's own
prefix cache changes the shapes of what is computed, and with them the last bits.)
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from cache_tiers.manifest import Manifests
from cache_tiers.ssd.installation import Installation, open_store
from cache_tiers.store import ReadOutcome
from cache_tiers.types import ChunkKey, SessionKey
from engine.models import prepare_default_model
from tests.integration.conversations import Messages, conversations
from tests.valet_process import MODEL, MODELS, ValetProcess

TURNS = 6
REFERENCE = {"Authorization": "Bearer reference"}
RESUMED = {"Authorization": "Bearer resumed"}
STEP = 2048
"""Tokens that the engine prefills in one step, its default."""
BLOCK = 128
CHUNK = BLOCK * 23040
"""Bytes of a chunk of the default model: one block of 23,040 bytes a token."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValetProcess]:
    home = tmp_path_factory.mktemp("exact") / "home"
    with ValetProcess(home, {"VALET_API_KEYS": "reference,resumed"}) as server:
        yield server


class Answer:
    """One greedy answer: what was said, and what its receipt says."""

    def __init__(self, body: dict[str, Any]) -> None:
        choice = body["choices"][0]
        self.tokens: list[int] = choice["token_ids"]
        self.text: str = choice.get("text") or choice["message"]["content"]
        self.prompt: list[int] = body.get("prompt_token_ids") or choice["prompt_token_ids"]
        self.receipt: dict[str, Any] = body["kv_receipt"]
        self.reused: dict[str, int] = self.receipt["reused_tokens"]
        details = body["usage"]["prompt_tokens_details"]
        assert details["cached_tokens"] == self.boundary

    @property
    def boundary(self) -> int:
        return sum(self.reused.values())

    @property
    def reasons(self) -> list[str]:
        return [miss["reason"] for miss in self.receipt["miss"]]


def chat(server: ValetProcess, key: dict[str, str], session: str, messages: Messages) -> Answer:
    body = {"model": MODEL, "messages": messages, "session_id": session}
    return _ask(server, key, "/v1/chat/completions", body)


def complete(server: ValetProcess, key: dict[str, str], session: str, prompt: list[int]) -> Answer:
    body = {"model": MODEL, "prompt": prompt, "session_id": session}
    return _ask(server, key, "/v1/completions", body)


def _ask(server: ValetProcess, key: dict[str, str], path: str, body: dict[str, Any]) -> Answer:
    settings = {"temperature": 0, "max_tokens": 16, "return_token_ids": True}
    with server.client(headers=key) as client:
        response = client.post(path, json=body | settings)
    assert response.status_code == 200, response.text
    return Answer(response.json())


def park(server: ValetProcess, key: dict[str, str], session: str) -> dict[str, Any]:
    with server.client(headers=key) as client:
        response = client.post(f"/v1/sessions/{session}/park")
    assert response.status_code == 200, response.text
    parked: dict[str, Any] = response.json()
    return parked


def prompt_tokens(seed: int, count: int) -> list[int]:
    """A prompt of exactly ``count`` tokens."""
    value = 1000 + seed
    tokens = []
    for _ in range(count):
        value = (value * 1103515245 + 12345) % 2**31
        tokens.append(1000 + value % 40000)
    return tokens


@pytest.mark.engine
def test_transcripts_after_park_and_restart(server: ValetProcess) -> None:
    """Each turn after a park, and in the middle after a kill and a restart."""
    told = list(conversations(count=2, turns=TURNS, max_characters=14_000))
    references = []
    for number, turns in enumerate(told):
        answers = [chat(server, REFERENCE, f"transcript-{number}", turn) for turn in turns]
        assert any(answer.reused["device"] for answer in answers[1:])
        references.append(answers)
    for i in range(TURNS):
        for number, (turns, reference) in enumerate(zip(told, references, strict=True)):
            session = f"transcript-{number}"
            answer = chat(server, RESUMED, session, turns[i])
            assert answer.tokens == reference[i].tokens, f"conversation {number}, turn {i}"
            assert answer.boundary == reference[i].boundary
            if i > 0:
                assert answer.reused["ssd"] == answer.boundary
            assert park(server, RESUMED, session)["kv"]["ssd_complete"]
        if i == TURNS // 2:
            server.kill()
            server.start()


@pytest.mark.engine
def test_own_words_after_park_and_restart(server: ValetProcess) -> None:
    """A history of the model's own answers: generated tokens are saved and restored too."""
    opening = [{"role": "user", "content": "List the colours of the rainbow, slowly. " * 60}]

    def converse(key: dict[str, str], leave: Any) -> list[Answer]:
        messages: Messages = list(opening)
        answers = []
        for turn in range(4):
            answer = chat(server, key, "own-words", messages)
            answers.append(answer)
            messages = [
                *messages,
                {"role": "assistant", "content": answer.text},
                {"role": "user", "content": "And then? Tell me more about the next one. " * 12},
            ]
            leave(turn)
        return answers

    def leave(turn: int) -> None:
        park(server, RESUMED, "own-words")
        if turn == 1:
            server.kill()
            server.start()

    reference = converse(REFERENCE, lambda turn: None)
    resumed = converse(RESUMED, leave)
    assert [a.tokens for a in resumed] == [a.tokens for a in reference]
    assert [a.boundary for a in resumed] == [a.boundary for a in reference]
    assert resumed[-1].reused["ssd"] > STEP // 4


@pytest.mark.engine
def test_after_faults_on_disk_and_a_changed_model(tmp_path: Path) -> None:
    """No byte of a bad chunk is used: it and what follows is computed, and the receipt says why."""
    prompt = prompt_tokens(7, STEP + 700)
    whole = len(prompt) // BLOCK * BLOCK
    model = tmp_path / "model"
    shutil.copytree(prepare_default_model(MODELS), model)
    settings = {
        "VALET_API_KEYS": "reference,resumed",
        "VALET_MODEL": str(model),
        "VALET_SERVED_MODEL_NAME": MODEL,
    }
    with ValetProcess(tmp_path / "home", settings) as server:

        def restart(break_something: Callable[[list[Path]], None]) -> None:
            assert park(server, RESUMED, "faulty")["kv"]["ssd_complete"]
            assert server.stop() == 0
            break_something(sorted(server.store.glob("*/*.segment")))
            server.start()

        cold = complete(server, RESUMED, "faulty", prompt)

        restart(flip_a_byte)
        # The same boundary on the device: first the good part alone, then the whole.
        complete(server, REFERENCE, "faulty", [*prompt[:STEP], 17])
        expected = complete(server, REFERENCE, "faulty", prompt)
        assert expected.reused["device"] == STEP
        answer = complete(server, RESUMED, "faulty", prompt)
        assert answer.receipt["miss"][0] == {
            "reason": "corrupt_chunk",
            "at_token": STEP,
            "tokens": whole - STEP,
        }
        assert answer.reused == {"device": 0, "dram": 0, "ssd": STEP}
        assert answer.tokens == expected.tokens
        # Healed: what was computed again is stored again.
        park(server, RESUMED, "faulty")
        assert complete(server, RESUMED, "faulty", prompt).reused["ssd"] == whole
        # Brought all the way to the device before it is asked for.
        park(server, RESUMED, "faulty")
        with server.client(headers=RESUMED) as client:
            wish = {"tier": "device", "deadline_ms": 30_000}
            told = client.post("/v1/sessions/faulty/prefetch", json=wish).json()
        assert told["prefetched"]["complete"]
        prefetched = complete(server, RESUMED, "faulty", prompt)
        assert prefetched.reused["device"] == whole

        for fault, reasons in [
            (truncate_the_first, {"corrupt_chunk"}),
            (remove_all, {"corrupt_chunk", "evicted"}),
            (lambda _: change_weights(model), {"fingerprint_changed"}),
        ]:
            restart(fault)
            answer = complete(server, RESUMED, "faulty", prompt)
            assert answer.boundary == 0
            assert answer.reasons[0] in reasons
            if "fingerprint_changed" not in reasons:
                assert answer.tokens == cold.tokens


def flip_a_byte(segments: list[Path]) -> None:
    """In the chunk that begins at token STEP. The session is the store's first, so its chunks are
    the first slots, in order; the receipt tells if they were not."""
    with segments[0].open("r+b") as file:
        file.seek(STEP // BLOCK * CHUNK + CHUNK // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def truncate_the_first(segments: list[Path]) -> None:
    with segments[0].open("r+b") as file:
        file.truncate(CHUNK // 2)


def remove_all(segments: list[Path]) -> None:
    for segment in segments:
        segment.unlink()


def change_weights(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    name = next(n for n in weights if "layers.0" in n and "k_proj" in n)
    weights[name][0, 0] += 1.0
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.engine
def test_bytes_stored_equal_bytes_restored(tmp_path: Path) -> None:
    """KV goes device → SSD → device of another process → SSD of another store, unchanged.

    DRAM is a quarter of the prefix, so that most chunks of the second copy can only come from the
    device, and the restore streams through DRAM.
    """
    prompt = prompt_tokens(11, 56 * BLOCK + 40)
    home, first = tmp_path / "home", tmp_path / "first"
    server = ValetProcess(home, {"VALET_DRAM": f"{14 * CHUNK // 1024}KiB"})
    with server:
        complete(server, {}, "bytes", prompt)
        assert park(server, {}, "bytes")["kv"]["ssd_complete"]
        again = complete(server, {}, "bytes", prompt)
        assert again.reused["ssd"] >= 0.9 * len(prompt)
        assert again.receipt["bytes_loaded"] == 56 * CHUNK
        read = metric(server, "vllm:kv_offload_tiering_read_bytes_total")
        assert read == 56 * CHUNK, "a byte was read twice"
        server.kill()
        server.start()
        restored = complete(server, {}, "bytes", prompt)
        assert restored.reused["ssd"] == again.reused["ssd"]
        assert restored.tokens == again.tokens
        shutil.copytree(server.store, first)
        # The disk loses everything. The first write afterwards fails, the next finds an empty disk;
        # from then on the device's chunks are on no disk, and are stored again.
        fingerprint = next(p.name for p in server.store.iterdir() if p.is_dir())
        shutil.rmtree(server.store / fingerprint)
        for seed in (21, 22, 23):
            tail = prompt_tokens(seed, 2 * BLOCK)
            assert complete(server, {}, "bytes", prompt + tail).reused["device"] >= 56 * BLOCK
            deadline = time.monotonic() + 10
            while not metric(server, "vllm:valet_ssd_failed_writes_total"):
                assert time.monotonic() < deadline, "no write failed"
                time.sleep(0.1)
        assert park(server, {}, "bytes")["kv"]["ssd_complete"]
        assert server.stop() == 0
    keys = Manifests.open(first / fingerprint / "manifests").get(SessionKey("local/bytes"))
    assert keys is not None
    assert len(keys) == 56
    home = server.store.parent
    assert chunks(home, first, fingerprint, keys) == chunks(home, server.store, fingerprint, keys)


def chunks(home: Path, root: Path, fingerprint: str, keys: Sequence[ChunkKey]) -> list[bytes]:
    """The chunks' bytes, read from a store of ``home``'s that no server uses."""
    installation = Installation(
        root=root, bytes_limit=2 << 30, master_key=f"file:{home}/master.key"
    )
    store = open_store(installation, fingerprint, CHUNK)
    buffers = [bytearray(CHUNK) for _ in keys]
    outcomes = store.get(keys, [memoryview(buffer) for buffer in buffers])
    store.close()
    assert outcomes == [ReadOutcome.OK] * len(keys)
    return [bytes(buffer) for buffer in buffers]


def metric(server: ValetProcess, name: str) -> float:
    with server.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))
