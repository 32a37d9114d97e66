"""The default model's folder and its chat template, with the real tokenizer."""

import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.models import ModelUnavailable, prepare_default_model, resolve_model

MIB = 1024**2
CALL = '<tool_call>\n{"name": "read", "arguments": {"path": "/tmp/ü"}}\n</tool_call>'
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "read",
            "description": "Read a file",
            "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
        },
    }
]
REPLIES = [
    "Hello.",
    "indented:\n\n\tand tabbed  ",
    "ends in newlines\n\n",
    '<b>&amp;</b> "quoted" {{ braces }} {% if %}',
    "日本語 🚀 e\u0301",
    "looks like <tool_call> but is not",
]


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "home" / "models"
    subprocess.run(
        [
            sys.executable,
            "-c",
            f"from engine.models import *; resolve_model('', Path({str(folder)!r}))",
        ],
        check=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
    )
    return folder


@pytest.fixture(scope="module")
def tokenizer(models_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(prepare_default_model(models_dir))


def render(tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))


def tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


# --- the folder -----------------------------------------------------------------------------------


def test_the_folder_is_complete_and_private(models_dir: Path) -> None:
    folder = prepare_default_model(models_dir)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert config["tie_word_embeddings"]
    assert "quantization_config" not in config
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {0o600}
    for private in (folder, models_dir, models_dir.parent):
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert sorted(p.name for p in models_dir.iterdir()) == [".lock", folder.name]


def test_the_weights_are_bfloat16_and_the_model_makes_sense(models_dir: Path) -> None:
    # In a process of its own: torch takes memory and keeps it.
    code = """if True:
        import sys, torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": "What is the capital of France?"}],
            add_generation_prompt=True, return_tensors="pt", return_dict=True)
        out = model.generate(**ids, max_new_tokens=16, do_sample=False)
        print(tokenizer.decode(out[0, ids["input_ids"].shape[1]:]))
    """
    run = subprocess.run(
        [sys.executable, "-c", code, str(prepare_default_model(models_dir))],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert "Paris" in run.stdout


def test_the_second_time_is_quick_and_needs_no_torch(models_dir: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from engine.models import *;"
        "prepare_default_model(Path(sys.argv[1])); print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(models_dir)]
    before = _inodes(models_dir)
    root = Path(__file__).parents[2]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root, check=True)
    assert run.stdout == "False\n", "it cannot have been made without"
    assert _inodes(models_dir) == before


def _inodes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in folder.rglob("*")}


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "marker", "recipe"])
def test_damage_is_noticed(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    copy = tmp_path / "models"
    folder = copy / prepare_default_model(models_dir).name
    shutil.copytree(models_dir, copy)
    weights, marker = folder / "model.safetensors", folder / "valet-model.json"
    if damage == "flip":
        with weights.open("r+b") as file:
            file.seek(100 * MIB)
            byte = file.read(1)
            file.seek(100 * MIB)
            file.write(bytes([byte[0] ^ 1]))
    elif damage == "truncate":
        os.truncate(weights, weights.stat().st_size - 1)
    elif damage == "remove":
        (folder / "tokenizer.json").unlink()
    elif damage == "marker":
        marker.write_text(marker.read_text()[:-20])
    else:
        marker.write_text(marker.read_text().replace('"recipe": 1', '"recipe": 0'))

    def unpack(gguf: Path, partial: Path) -> None:
        (partial / "made").write_bytes(b"again")

    monkeypatch.setattr("engine.models._unpack", unpack)
    assert prepare_default_model(copy) == folder
    assert sorted(p.name for p in folder.iterdir()) == ["made", "valet-model.json"]


def test_a_killed_maker_leaves_nothing_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def unpack(gguf: Path, partial: Path) -> None:
        attempts.append(sorted(p.name for p in partial.iterdir()))
        (partial / "half").write_bytes(b"x")
        if len(attempts) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("engine.models._unpack", unpack)
    with pytest.raises(KeyboardInterrupt):
        prepare_default_model(tmp_path)
    folder = prepare_default_model(tmp_path)
    assert attempts == [[], []]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", folder.name]
    assert prepare_default_model(tmp_path) == folder
    assert len(attempts) == 2
    prepare_default_model(tmp_path, force=True)
    assert len(attempts) == 3


def test_two_makers_do_not_mix(tmp_path: Path) -> None:
    lock = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ModelUnavailable, match="another process"):
            prepare_default_model(tmp_path)
    finally:
        os.close(lock)


# --- other models ---------------------------------------------------------------------------------


def test_a_folder_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"no config\.json"):
        resolve_model(str(tmp_path), tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model(str(tmp_path), tmp_path) == tmp_path


@pytest.mark.parametrize("model", ["/no/such/folder", "./nothing", "word", "a/b/c", "-x/y"])
def test_neither_folder_nor_hub_name(tmp_path: Path, model: str) -> None:
    with pytest.raises(ModelUnavailable, match="not a hub name"):
        resolve_model(model, tmp_path)


def test_offline_hub_is_one_clear_line(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from engine.models import *\n"
        "try: resolve_model('owner/model', Path(sys.argv[1]))\n"
        "except ModelUnavailable as error: print(error)"
    )
    environ = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
        env=environ,
        check=True,
    )
    assert run.stdout.startswith("owner/model cannot be had from the hub: ")
    assert run.stdout.count("\n") == 1


# --- the chat template ----------------------------------------------------------------------------


def test_without_tools_it_is_the_models_own(tokenizer: Any) -> None:
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert render(tokenizer, [{"role": "user", "content": "Hi"}], add_generation_prompt=True) == (
        f"<|im_start|>system\n{system}<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert render(tokenizer, own) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    )
    developer = [{"role": "developer", "content": "Be brief."}, own[1]]
    assert render(tokenizer, developer) == render(tokenizer, own)


def test_tools_are_listed_as_json(tokenizer: Any) -> None:
    text = render(tokenizer, [{"role": "user", "content": "Hi"}], tools=TOOLS)
    listed = text.partition("<tools>\n")[2].partition("\n</tools>")[0]
    assert [json.loads(line) for line in listed.splitlines()] == TOOLS


@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_a_reply_sent_back_continues_the_same_tokens(
    tokenizer: Any, reply: str, tools: list[dict[str, Any]] | None
) -> None:
    history = [{"role": "user", "content": "Tell me."}]
    prompt = render(tokenizer, history, tools=tools, add_generation_prompt=True)
    more = [{"role": "assistant", "content": reply}, {"role": "user", "content": "Go on."}]
    later = render(tokenizer, history + more, tools=tools, add_generation_prompt=True)
    said = tokens(tokenizer, prompt) + tokens(tokenizer, reply + "<|im_end|>")
    assert tokens(tokenizer, later)[: len(said)] == said


def test_a_reply_that_begins_with_space_keeps_its_bytes(tokenizer: Any) -> None:
    # Its bytes only: the tokenizer joins the space to the newline before it, in any template.
    history = [{"role": "user", "content": "Tell me."}]
    prompt = render(tokenizer, history, add_generation_prompt=True)
    later = render(tokenizer, [*history, {"role": "assistant", "content": "  \n so"}])
    assert later == f"{prompt}  \n so<|im_end|>\n"


@pytest.mark.parametrize("arguments", [{"path": "/tmp/ü"}, '{"path": "/tmp/ü"}'])
@pytest.mark.parametrize("content", [None, "", "I look.\n"])
def test_a_tool_call_sent_back_continues_the_same_tokens(
    tokenizer: Any, arguments: object, content: str | None
) -> None:
    history = [{"role": "user", "content": "Read it."}]
    prompt = render(tokenizer, history, tools=TOOLS, add_generation_prompt=True)
    call = {"id": "1", "type": "function", "function": {"name": "read", "arguments": arguments}}
    more = [
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "text"},
    ]
    later = render(tokenizer, history + more, tools=TOOLS, add_generation_prompt=True)
    reply = (content or "") + CALL
    said = tokens(tokenizer, prompt) + tokens(tokenizer, reply + "<|im_end|>")
    assert tokens(tokenizer, later)[: len(said)] == said
    assert later.endswith(
        f"{CALL}<|im_end|>\n<|im_start|>user\n<tool_response>\ntext\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_several_calls_in_one_reply(tokenizer: Any) -> None:
    call = {"function": {"name": "read", "arguments": {"path": "/tmp/ü"}}}
    text = render(tokenizer, [{"role": "assistant", "tool_calls": [call, call]}], tools=TOOLS)
    assert text.endswith(f"<|im_start|>assistant\n{CALL}\n{CALL}<|im_end|>\n")
