"""Linear layers on CPUs that have no fast product of bfloat16 or float16 matrices.

Without AVX-512 such a product takes eight times as long as one in float32. Weights, activations and
KV stay as they are; where a step has several tokens, the product alone is taken in float32, with
the layer's weights widened for that one product. A step of few tokens is bound by reading the
weights, which are half as many bytes when they stay narrow. See
docs/decisions/0019-wide-products.md.

Importing this module makes the method known to vLLM as ``--quantization=wide``, the way in that it
has for linear layers of others. Its other processes import it when they are sent the configuration.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from vllm.model_executor.layers.linear import (
    LinearBase,
    UnquantizedLinearMethod,
    register_weight_loader_v2_supported_method,
)
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig

METHOD = "wide"
ARITHMETIC = "wide-1"
"""Part of the fingerprint: another number for every change of what ``apply`` computes."""
FLAGS = (
    f"--quantization={METHOD}",
    # Without it vLLM would not notice that weights are missing: it takes the model for a quantized
    # one.
    '--model-loader-extra-config={"enable_weights_track": true}',
)
FEWEST_TOKENS = 4
"""From here on the wide product is the faster one: 0.26 ms against 0.36 for 576 x 576 on Zen 3."""
_FAST = ("avx512_bw", "avx_ne_convert")
"""Instruction sets with which a library has fast narrow products."""


def serves(model: Path, capabilities: Mapping[str, bool]) -> bool:
    """Whether this machine computes the model in ``model`` faster by wide products.

    ``capabilities`` as ``torch.cpu.get_capabilities`` names them. On CPUs vLLM computes every model
    in bfloat16 or float16, whatever its weights are stored as. A quantized model has its own method
    for linear layers.
    """
    if not capabilities.get("avx2") or any(capabilities.get(each) for each in _FAST):
        return False
    try:
        config = json.loads((model / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and not _is_quantized(model, config)


def _is_quantized(model: Path, config: Mapping[str, Any]) -> bool:
    """Looks where vLLM does."""
    places = (config, config.get("text_config") or {})
    named = ("quantization_config", "compression_config")
    if any(place.get(name) is not None for place in places for name in named):
        return True
    return (model / "hf_quant_config.json").exists()


@register_weight_loader_v2_supported_method
class WideLinearMethod(UnquantizedLinearMethod):
    """Weights as they are; products of several tokens in float32."""

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Nothing is packed: the weights themselves are needed."""

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``x`` (…, inputs) times the layer's weight (outputs, inputs): (…, outputs), as ``x``."""
        weight: torch.Tensor = layer.weight
        if x.numel() < FEWEST_TOKENS * x.shape[-1]:
            return F.linear(x, weight, bias)
        wide_bias = None if bias is None else bias.float()
        return F.linear(x.float(), weight.float(), wide_bias).to(x.dtype)


@register_quantization_config(METHOD)
class WideConfig(QuantizationConfig):
    """Every linear layer by ``WideLinearMethod``; embeddings and attention are vLLM's own."""

    def get_name(self) -> str:
        """See QuantizationConfig."""
        return METHOD

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        """See QuantizationConfig."""
        return [torch.bfloat16, torch.float16]

    @classmethod
    def get_min_capability(cls) -> int:
        """Of a GPU: none is asked for."""
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        """Nothing about it is in the model's folder."""
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WideConfig":  # noqa: ARG003
        """There is nothing to configure."""
        return cls()

    def get_quant_method(
        self,
        layer: torch.nn.Module,
        prefix: str,  # noqa: ARG002
    ) -> WideLinearMethod | None:
        """For linear layers alone."""
        return WideLinearMethod() if isinstance(layer, LinearBase) else None
