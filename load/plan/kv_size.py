"""How much KV a token has, from a model's ``config.json``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from load.plan.errors import CannotPlan

_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}


def read_kv_bytes(folder: Path) -> int:
    """Of the model in ``folder``. Raises CannotPlan and OSError."""
    path = folder / "config.json"
    try:
        return kv_bytes(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError) as error:
        raise CannotPlan(f"{path} is no model's: {error}") from None
    except KeyError as error:
        raise CannotPlan(f"{path} does not say {error}: give --kv-bytes-per-token") from None


def kv_bytes(config: Mapping[str, Any]) -> int:
    """Bytes a token: layers × KV heads × size of a head × 2 (keys and values) × bytes of a number.

    With latent attention (``kv_lora_rank``) a layer keeps one compressed vector and the rotary part
    of the keys instead. Windowed layers count as full ones. Raises KeyError for what is not there,
    ValueError for numbers of an unknown type.
    """
    text = config.get("text_config") or config
    dtype = str(text.get("dtype") or text.get("torch_dtype") or config["torch_dtype"])
    number_bytes = _DTYPE_BYTES.get(dtype.removeprefix("torch."))
    if number_bytes is None:
        raise ValueError(f"numbers of type {dtype}")
    layers = int(text["num_hidden_layers"])
    if text.get("kv_lora_rank"):
        numbers = int(text["kv_lora_rank"]) + int(text["qk_rope_head_dim"])
    else:
        heads = int(text["num_attention_heads"])
        size = int(text.get("head_dim") or text["hidden_size"] // heads)
        numbers = int(text.get("num_key_value_heads") or heads) * size * 2
    return layers * numbers * number_bytes
