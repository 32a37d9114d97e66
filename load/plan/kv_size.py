"""How much KV a token has, from a model's ``config.json``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from load.plan.errors import CannotPlan

_MOST_BYTES = 10**9
"""Of a token: far more than any model has, and all that ``--kv-bytes-per-token`` takes."""
_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}


def read_kv_bytes(folder: Path) -> int:
    """Of the model in ``folder``. Raises CannotPlan and OSError."""
    path = folder / "config.json"
    try:
        return kv_bytes(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CannotPlan(f"{path} is no model's: {error}") from None
    except KeyError as error:
        raise CannotPlan(f"{path} does not say {error}: give --kv-bytes-per-token") from None


def kv_bytes(config: Mapping[str, Any]) -> int:
    """Bytes a token: layers × KV heads × size of a head × 2 (keys and values) × bytes of a number.

    With latent attention (``kv_lora_rank``) a layer keeps one compressed vector and the rotary part
    of the keys instead. Windowed layers count as full ones. Raises KeyError for what is not there,
    ValueError for numbers of an unknown type and for sizes that no model has.
    """
    text = config.get("text_config") or config
    dtype = str(text.get("dtype") or text.get("torch_dtype") or config["torch_dtype"])
    number_bytes = _DTYPE_BYTES.get(dtype.removeprefix("torch."))
    if number_bytes is None:
        raise ValueError(f"numbers of type {dtype}")
    layers = _size(text, "num_hidden_layers")
    if text.get("kv_lora_rank"):
        numbers = _size(text, "kv_lora_rank") + _size(text, "qk_rope_head_dim")
    else:
        heads = _size(text, "num_attention_heads")
        size = (
            _size(text, "head_dim") if text.get("head_dim") else _size(text, "hidden_size") // heads
        )
        kv_heads = _size(text, "num_key_value_heads") if text.get("num_key_value_heads") else heads
        numbers = kv_heads * size * 2
    token_bytes = layers * numbers * number_bytes
    if not 0 < token_bytes <= _MOST_BYTES:
        raise ValueError("no model has so much KV a token, or so little")
    return token_bytes


def _size(config: Mapping[str, Any], name: str) -> int:
    size = int(config[name])
    if size <= 0:
        raise ValueError(f"{name} is not above 0")
    return size
