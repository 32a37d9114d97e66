"""Linear layers whose products are taken in float32."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from vllm.model_executor.layers.quantization import get_quantization_config

from engine import vllm_server
from engine.config import EngineConfig
from engine.wide_linear import (
    ARITHMETIC,
    FEWEST_TOKENS,
    FLAGS,
    METHOD,
    WideConfig,
    WideLinearMethod,
    serves,
)

AVX2 = {"avx2": True, "avx512_bw": False}
AVX512 = AVX2 | {"avx512_bw": True}
QUANTIZED = {"quant_method": "awq"}


def model(folder: Path, config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("capabilities", "config", "wide"),
    [
        (AVX2, {"dtype": "bfloat16"}, True),
        (AVX2, {"dtype": "float32"}, True),
        (AVX2, {"quantization_config": None, "text_config": {}}, True),
        (AVX2, {"quantization_config": QUANTIZED}, False),
        (AVX2, {"compression_config": QUANTIZED}, False),
        (AVX2, {"text_config": {"quantization_config": QUANTIZED}}, False),
        (AVX2, [], False),
        (AVX512, {}, False),
        (AVX2 | {"avx_ne_convert": True}, {}, False),
        ({"architecture": True}, {}, False),
    ],
)
def test_models_that_are_not_quantized_on_cpus_without_narrow_products(
    tmp_path: Path, capabilities: dict[str, bool], config: Any, wide: bool
) -> None:
    assert serves(model(tmp_path, config), capabilities) is wide


def test_a_model_quantized_by_a_file_of_its_own_is_quantized(tmp_path: Path) -> None:
    assert serves(model(tmp_path, {}), AVX2)
    (tmp_path / "hf_quant_config.json").write_text("{}")
    assert not serves(tmp_path, AVX2)


def test_a_model_that_cannot_be_read_is_left_to_the_engine_to_refuse(tmp_path: Path) -> None:
    assert not serves(tmp_path, AVX2)
    (tmp_path / "config.json").write_text("{")
    assert not serves(tmp_path, AVX2)


@pytest.mark.parametrize("tokens", [1, FEWEST_TOKENS - 1, FEWEST_TOKENS, 40])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_product_is_the_exact_one_rounded_once(
    monkeypatch: pytest.MonkeyPatch, tokens: int, biased: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(7)
    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(torch.randn(24, 96).to(dtype), requires_grad=False)
    bias = torch.randn(24).to(dtype) if biased else None
    x = torch.randn(tokens, 96).to(dtype)
    exact = F.linear(x.double(), layer.weight.double(), None if bias is None else bias.double())
    product, taken = F.linear, []

    def linear(x: torch.Tensor, *rest: torch.Tensor | None) -> torch.Tensor:
        taken.append({each.dtype for each in (x, *rest) if each is not None})
        return product(x, *rest)

    monkeypatch.setattr(F, "linear", linear)
    method = WideLinearMethod()
    method.process_weights_after_loading(layer)

    y = method.apply(layer, x, bias)

    assert taken == [{torch.float32 if tokens >= FEWEST_TOKENS else dtype}]
    assert y.dtype == dtype
    assert y.shape == (tokens, 24)
    assert torch.allclose(y.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


def test_the_engine_knows_the_method() -> None:
    assert get_quantization_config(METHOD) is WideConfig
    assert WideConfig.from_config({}).get_quant_method(torch.nn.Embedding(2, 2), "embed") is None


@pytest.mark.parametrize("wide", [False, True])
def test_the_engine_is_told_and_its_kv_is_named_by_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wide: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: AVX2 if wide else AVX512)
    monkeypatch.setattr(vllm_server, "weights_digest", lambda *_: "digest")
    config = EngineConfig(
        model=model(tmp_path, {}),
        served_model_name="model",
        max_model_len=None,
        block_size=None,
        device_kv=1,
        dram=1,
        home=tmp_path,
        store=None,
        ssd_minimum_tokens=0,
        prefetch=False,
        load_slowdown=0.0,
        chat_template=None,
        tool_call_parser="hermes",
    )
    facts = vllm_server.facts(config)
    argv = vllm_server.arguments(config, facts)
    assert facts.get("products") == (ARITHMETIC if wide else None)
    assert [flag for flag in argv if flag in FLAGS] == (list(FLAGS) if wide else [])
