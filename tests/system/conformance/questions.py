"""Tools and a prompt that need something from the client: by requests (2025), by results that ask (2026-07-28)."""

import json
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp_types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmptyResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    SetLevelRequestParams,
    TextContent,
)
from pydantic import BaseModel, Field

from agentbus_mcp import sdk
from agentbus_mcp.server import Server

Asked = str | InputRequiredResult


# -- 2025: the server sends requests ----------------------------------------------------------------------------


class Response(BaseModel):
    response: str = Field(description="User's response")


class Defaults(BaseModel):
    """One default of each primitive type (SEP-1034)."""

    name: str = Field(default="John Doe")
    age: int = Field(default=30)
    score: float = Field(default=95.5)
    status: str = Field(default="active", json_schema_extra={"enum": ["active", "inactive", "pending"]})
    verified: bool = Field(default=True)


def _titled(**options: str) -> list[dict[str, str]]:
    return [{"const": const, "title": title} for const, title in options.items()]


class Choices(BaseModel):
    """One choice of each kind (SEP-1330); the names are those of the suite."""

    untitledSingle: str = Field(json_schema_extra={"enum": ["option1", "option2", "option3"]})  # noqa: N815
    titledSingle: str = Field(json_schema_extra={"oneOf": _titled(value1="First", value2="Second")})  # pyright: ignore[reportArgumentType]  # noqa: N815
    legacyEnum: str = Field(json_schema_extra={"enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]})  # noqa: N815
    untitledMulti: list[str] = Field(json_schema_extra={"items": {"type": "string", "enum": ["option1", "option2"]}})  # noqa: N815
    titledMulti: list[str] = Field(json_schema_extra={"items": {"anyOf": _titled(value1="First", value2="Second")}})  # pyright: ignore[reportArgumentType]  # noqa: N815


async def test_sampling(prompt: str, ctx: Context) -> str:
    """Have the client's model answer."""
    answer = await ctx.session.create_message(  # pyright: ignore[reportDeprecated]
        messages=[_message(prompt)], max_tokens=100, related_request_id=ctx.request_id
    )
    return f"LLM response: {answer.content.text if isinstance(answer.content, TextContent) else ''}"


async def test_elicitation(message: str, ctx: Context) -> str:
    """Ask the user."""
    return await _elicit(ctx, message, Response)


async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Ask the user, with defaults."""
    return await _elicit(ctx, "Please review your data", Defaults)


async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Ask the user to choose."""
    return await _elicit(ctx, "Please choose", Choices)


async def _elicit(ctx: Context, message: str, schema: type[BaseModel]) -> str:
    answer = await ctx.elicit(message, schema)
    content = answer.data.model_dump_json() if answer.action == "accept" else "{}"
    return f"User response: action={answer.action}, content={content}"


# -- 2026-07-28: the result asks --------------------------------------------------------------------------------


async def test_input_required_result_elicitation(ctx: Context) -> Asked:
    """Ask for a name."""
    answers = ctx.input_responses or {}
    if "user_name" in answers:
        return f"Hello, {_given(answers['user_name'], 'name')}!"
    return InputRequiredResult(input_requests={"user_name": _form("What is your name?", "name")})


async def test_input_required_result_sampling(ctx: Context) -> Asked:
    """Have the client's model answer."""
    match (ctx.input_responses or {}).get("capital_question"):
        case CreateMessageResult(content=TextContent(text=words)):
            return f"The model says: {words}"
        case _:
            return InputRequiredResult(input_requests={"capital_question": _sample("What is the capital of France?")})


async def test_input_required_result_list_roots(ctx: Context) -> Asked:
    """Ask for the roots."""
    answer = (ctx.input_responses or {}).get("client_roots")
    if isinstance(answer, ListRootsResult):
        return f"{len(answer.roots)} roots"
    return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})


async def test_input_required_result_request_state(ctx: Context) -> Asked:
    """Ask, and want the state back with the answer."""
    if "confirm" in (ctx.input_responses or {}) and ctx.request_state == "asked":
        return "state-ok"
    return InputRequiredResult(input_requests={"confirm": _form("Go on?", ok="boolean")}, request_state="asked")


async def test_input_required_result_multiple_inputs(ctx: Context) -> Asked:
    """Ask for three things at once."""
    requests: dict[str, InputRequest] = {
        "user_name": _form("What is your name?", "name"),
        "greeting": _sample("Say hello"),
        "client_roots": ListRootsRequest(),
    }
    if requests.keys() <= (ctx.input_responses or {}).keys():
        return "All three are there."
    return InputRequiredResult(input_requests=requests, request_state="three")


async def test_input_required_result_multi_round(ctx: Context) -> Asked:
    """Ask twice, the second time knowing the first answer."""
    answers, state = ctx.input_responses or {}, json.loads(ctx.request_state or "{}")
    if "step2" in answers and "name" in state:
        return f"{state['name']} likes {_given(answers['step2'], 'color')}."
    if "step1" in answers and state.get("asked") == 1:
        name = _given(answers["step1"], "name")
        question = _form("Step 2: What is your favorite color?", "color")
        return InputRequiredResult(input_requests={"step2": question}, request_state=json.dumps({"name": name}))
    question = _form("Step 1: What is your name?", "name")
    return InputRequiredResult(input_requests={"step1": question}, request_state=json.dumps({"asked": 1}))


async def test_input_required_result_tampered_state(ctx: Context) -> Asked:
    """Give out a state, which must come back as it was."""
    if ctx.request_state is not None:
        return f"state: {ctx.request_state}"
    return InputRequiredResult(input_requests={"confirm": _form("Go on?", ok="boolean")}, request_state="asked")


async def test_input_required_result_capabilities(ctx: Context) -> InputRequiredResult:
    """Ask for no more than the client can give."""
    capabilities = ctx.client_capabilities
    requests: dict[str, InputRequest] = {}
    if capabilities is None or capabilities.sampling is not None:
        requests["sample"] = _sample("Say hello")
    if capabilities is None or capabilities.elicitation is not None:
        requests["ask"] = _form("What is your name?", "name")
    return InputRequiredResult(input_requests=requests, request_state="asked")


async def test_input_required_result_prompt(ctx: Context) -> list[UserMessage] | InputRequiredResult:
    """A prompt that asks first."""
    answers = ctx.input_responses or {}
    if "user_context" in answers:
        return [UserMessage(TextContent(type="text", text=f"Context: {_given(answers['user_context'], 'context')}"))]
    return InputRequiredResult(input_requests={"user_context": _form("What context?", "context")})


def add_questions(server: Server) -> None:
    """Add all of these to a server, and the level of its log messages, which clients of 2025 may set."""
    for function in (
        test_sampling,
        test_elicitation,
        test_elicitation_sep1034_defaults,
        test_elicitation_sep1330_enums,
        test_input_required_result_elicitation,
        test_input_required_result_sampling,
        test_input_required_result_list_roots,
        test_input_required_result_request_state,
        test_input_required_result_multiple_inputs,
        test_input_required_result_multi_round,
        test_input_required_result_tampered_state,
        test_input_required_result_capabilities,
    ):
        server.add_tool(function, structured_output=False)
    server.prompt()(test_input_required_result_prompt)

    async def set_level(ctx: ServerRequestContext[Any, Any], params: SetLevelRequestParams) -> EmptyResult:
        return EmptyResult()

    sdk.on_request(server, "logging/setLevel", SetLevelRequestParams, set_level)


def _form(message: str, *texts: str, **others: str) -> ElicitRequest:
    properties = {**dict.fromkeys(texts, "string"), **others}
    schema = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(properties),
    }
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(words: str) -> CreateMessageRequest:
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[_message(words)], max_tokens=50))


def _message(words: str) -> SamplingMessage:
    return SamplingMessage(role="user", content=TextContent(type="text", text=words))


def _given(answer: object, field: str) -> object:
    return answer.content.get(field) if isinstance(answer, ElicitResult) and answer.content else None
