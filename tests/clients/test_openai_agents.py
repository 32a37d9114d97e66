"""OpenAI's Agents SDK, unmodified: an agent's loop with a tool, on both APIs."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from agents import (
    Agent,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    RunResult,
    SQLiteSession,
    function_tool,
)
from agents.items import MessageOutputItem, ToolCallItem, ToolCallOutputItem

from tests.valet_process import MODEL, ValetProcess

pytestmark = pytest.mark.engine

QUIET = RunConfig(tracing_disabled=True)
SESSION_HEADER = "x-session-id"


class Heard:
    """The sessions that answers named, in order."""

    def __init__(self) -> None:
        self.sessions: list[str] = []

    async def hear(self, answer: httpx.Response) -> None:
        if answer.request.method == "POST":
            self.sessions.append(answer.headers[SESSION_HEADER])


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def client(server: ValetProcess, heard: Heard) -> AsyncIterator[openai.AsyncOpenAI]:
    """The SDK's own client; what it receives is looked at, nothing is changed."""
    http = httpx.AsyncClient(event_hooks={"response": [heard.hear]}, timeout=240)
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="any", max_retries=0, http_client=http
    ) as client:
        yield client


@pytest.fixture(params=["chat", "responses"])
def model(request: pytest.FixtureRequest, client: openai.AsyncOpenAI) -> Model:
    if request.param == "chat":
        return OpenAIChatCompletionsModel(model=MODEL, openai_client=client)
    return OpenAIResponsesModel(model=MODEL, openai_client=client)


@pytest.fixture
def memory() -> Iterator[SQLiteSession]:
    """What the SDK calls a session: it keeps the history, and sends all of it each time."""
    session = SQLiteSession("agent")
    yield session
    session.close()


def agent(model: Model, called: list[str]) -> Agent[Any]:
    """It must call its tool first: the model is too small to want to. Then it may answer."""

    @function_tool
    def weather(city: Literal["Paris", "Rome"]) -> str:
        """The forecast for a city."""
        called.append(city)
        return "sunny, 21 degrees"

    return Agent(
        name="forecaster",
        instructions="You forecast the weather.",
        model=model,
        tools=[weather],
        model_settings=ModelSettings(tool_choice="weather", temperature=0, max_tokens=40),
    )


def assert_a_loop(result: RunResult) -> None:
    """A call, its output, and an answer after that."""
    kinds = [type(item) for item in result.new_items]
    assert kinds[:2] == [ToolCallItem, ToolCallOutputItem]
    assert MessageOutputItem in kinds or isinstance(result.final_output, str)
    outputs = [item.output for item in result.new_items if isinstance(item, ToolCallOutputItem)]
    assert outputs == ["sunny, 21 degrees"] * len(outputs)


async def test_a_tool_loop_over_two_turns_is_one_session(
    model: Model, memory: SQLiteSession, heard: Heard, server: ValetProcess
) -> None:
    called: list[str] = []
    forecaster = agent(model, called)
    first = await Runner.run(forecaster, "Paris?", session=memory, run_config=QUIET)
    second = await Runner.run(forecaster, "And Rome?", session=memory, run_config=QUIET)
    for result in (first, second):
        assert_a_loop(result)
    assert len(called) >= 2
    assert len(heard.sessions) >= 4
    assert len(set(heard.sessions)) == 1
    with server.client() as http:
        session = http.get(f"/v1/sessions/{heard.sessions[0]}").json()
    assert session["turns"] == len(heard.sessions)


async def test_another_agents_history_is_another_session(
    model: Model, memory: SQLiteSession, heard: Heard
) -> None:
    called: list[str] = []
    forecaster = agent(model, called)
    await Runner.run(forecaster, "Oslo?", session=memory, run_config=QUIET)
    ours = set(heard.sessions)
    heard.sessions.clear()
    other = SQLiteSession("other")
    await Runner.run(forecaster, "Lima?", session=other, run_config=QUIET)
    other.close()
    assert ours.isdisjoint(heard.sessions)


async def test_responses_are_continued_by_their_id(
    client: openai.AsyncOpenAI, heard: Heard
) -> None:
    called: list[str] = []
    forecaster = agent(OpenAIResponsesModel(model=MODEL, openai_client=client), called)
    first = await Runner.run(forecaster, "Bern?", auto_previous_response_id=True, run_config=QUIET)
    assert_a_loop(first)
    assert first.last_response_id is not None
    second = await Runner.run(
        forecaster,
        "And Kyiv?",
        previous_response_id=first.last_response_id,
        auto_previous_response_id=True,
        run_config=QUIET,
    )
    assert_a_loop(second)
    assert len(set(heard.sessions)) == 1
    kept = await client.responses.retrieve(first.last_response_id)
    assert kept.output_text == first.final_output


async def test_a_stream_runs_the_tool_too(model: Model) -> None:
    called: list[str] = []
    running = Runner.run_streamed(agent(model, called), "Cairo?", run_config=QUIET)
    kinds = [event.type async for event in running.stream_events()]
    assert called
    assert "raw_response_event" in kinds
    assert isinstance(running.final_output, str)
