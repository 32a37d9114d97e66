"""vLLM's AsyncLLM with sessions: the one point through which every generation of every route
passes. There a turn's session, salt and prompt go in, and its report and tokens come out, for
streams as well as for plain answers.
"""

import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any

from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from cache_tiers import hints
from engine.control import Control
from engine.core_plugin.entry import METHOD, SHARE_METHOD
from engine.core_plugin.public_prefix import PublicSalt
from engine.port import (
    CommandFailed,
    EngineDead,
    EngineError,
    Generation,
    TurnContext,
    current_turn,
)
from engine.prompts import substitute
from engine.public_prefixes import PublicPrefixes

REPORT = "valet"
"""Where in a finished output's ``kv_transfer_params`` the plugin puts its report."""


class SessionLLM(AsyncLLM):
    """AsyncLLM that knows which turn it is generating for."""

    public: PublicPrefixes | None = None
    """What all tenants share."""

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **kwargs: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """vLLM's, with the running turn's session, salt and prompt, noting times, tokens and the
        report."""
        turn = current_turn.get()
        if turn is None:
            async for output in super().generate(prompt, sampling_params, request_id, **kwargs):
                yield output
            return
        kwargs["session_id"] = turn.session
        prompt, sampling_params = self._computed(turn, prompt, sampling_params)
        generation = Generation(started_at=time.monotonic())
        generation.prompt_tokens = prompt.get("prompt_token_ids", ())
        turn.generations.append(generation)
        salted = {**prompt, "cache_salt": salt(turn.cache_salt, prompt, self.public)}
        # The client may have chosen the id: reports are looked up by it, so nobody else has it.
        request_id = f"{request_id}-{secrets.token_hex(8)}"
        accepted = False
        try:
            async for output in super().generate(salted, sampling_params, request_id, **kwargs):
                accepted = True
                note_tokens(generation, output, sampling_params.output_kind)
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

    def _computed(self, turn: TurnContext, prompt: Any, sampling_params: Any) -> tuple[Any, Any]:
        if turn.on_prompt is None:
            return prompt, sampling_params
        return substitute(
            prompt,
            sampling_params,
            turn.on_prompt,
            max_model_len=self.model_config.max_model_len,
            vocabulary=self.model_config.get_vocab_size(),
        )

    async def share(self, public: PublicPrefixes) -> None:
        """Share these between tenants from now on; once, before the first request. They are
        computed, or loaded, now: then a tenant who asks early does not see that nobody did."""
        await self.engine_core.call_utility_async(SHARE_METHOD)
        for number, tokens in enumerate(public.prefixes):
            everybodys = str(PublicSalt(len(tokens), ""))
            prompt = {"type": "token", "prompt_token_ids": tokens, "cache_salt": everybodys}
            one_token = SamplingParams(max_tokens=1, output_kind=RequestOutputKind.FINAL_ONLY)
            async for _ in super().generate(prompt, one_token, f"valet-public-{number}"):
                pass
        self.public = public

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


def salt(tenant: str, prompt: Any, public: PublicPrefixes | None) -> str:
    """What starts the names of a prompt's blocks: the tenant's salt, behind a public prefix where
    the prompt begins with one. Prompts with images or embeddings are all the tenant's."""
    if public is None or prompt.get("type") != "token":
        return tenant
    tokens = public.tokens(prompt["prompt_token_ids"])
    return str(PublicSalt(tokens, tenant)) if tokens else tenant


def note_tokens(generation: Generation, output: RequestOutput, kind: RequestOutputKind) -> None:
    """Add an output's ids to the answer; each output has all ids so far unless it is a delta."""
    for choice in output.outputs:
        if choice.index == 0:
            if kind is not RequestOutputKind.DELTA:
                generation.answer_tokens.clear()
            generation.answer_tokens.extend(choice.token_ids)
