"""Clients of the OpenAI API from the Python package index, as they are, against a gateway.

Usage: checks.py BASE_URL. Prints a line for each check and the count at the end.
The chat model knows verses by heart and little else: what is asked of it here is the
shape of answers, and their text where it is a verse.
"""

import asyncio
import json
import math
import os
import sys
import time
import traceback
from typing import Literal

# Prices of others' models are not looked up.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import httpx
import instructor
import litellm
import openai
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field
from pydantic_ai import Agent, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

BASE = sys.argv[1]
CHAT, EMBED = "cocoon-tiny", "minilm"
VERSE = "In the beginning God created the heaven and the earth."
ASK = [{"role": "user", "content": "Recite Genesis 1:1."}]
client = openai.OpenAI(base_url=BASE, api_key="any", max_retries=0)
checks = []


def check(function):
    checks.append(function)
    return function


def chat(**options):
    return client.chat.completions.create(**{"model": CHAT, "messages": ASK, **options})


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {
            "type": "object",
            "properties": {
                "town": {"type": "string", "enum": ["Paris", "Oslo"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["town", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
KIND = {
    "type": "object",
    "properties": {"kind": {"type": "string", "enum": ["cat", "dog"]}, "count": {"type": "integer"}},
    "required": ["kind", "count"],
    "additionalProperties": False,
}


class Pet(BaseModel):
    kind: Literal["cat", "dog"]
    count: int = Field(ge=0, le=99)


def is_weather(arguments):
    parsed = json.loads(arguments)
    assert parsed["town"] in ("Paris", "Oslo") and 1 <= parsed["days"] <= 9, parsed


def refused(error, call, **fields):
    """What a call raises, and what the error says."""
    try:
        call()
    except error as caught:
        for name, value in fields.items():
            found = getattr(caught, name)
            assert found == value, f"{name} is {found!r}, expected {value!r}"
        return caught
    raise AssertionError(f"no {error.__name__}")


# The official client.


@check
def openai_lists_models():
    names = {model.id for model in client.models.list()}
    assert {CHAT, EMBED} <= names, names
    assert client.models.retrieve(CHAT).id == CHAT


@check
def openai_chats():
    answer = chat()
    assert answer.choices[0].message.content == VERSE
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.object == "chat.completion" and answer.model == CHAT and answer.system_fingerprint


@check
def openai_streams():
    chunks = list(chat(stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == VERSE
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in chunks}) == 1


@check
def openai_streams_usage():
    *others, last = chat(stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage.completion_tokens == 14
    assert all(chunk.usage is None for chunk in others)


@check
def openai_streams_with_its_helper():
    with client.chat.completions.stream(model=CHAT, messages=ASK) as stream:
        kinds = {event.type for event in stream}
        assert "content.delta" in kinds and "content.done" in kinds, kinds
        assert stream.get_final_completion().choices[0].message.content == VERSE


@check
def openai_streams_asynchronously():
    async def run():
        async with openai.AsyncOpenAI(base_url=BASE, api_key="any") as other:
            stream = await other.chat.completions.create(model=CHAT, messages=ASK, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(run()) == VERSE


@check
def openai_stops():
    answer = chat(stop=["God", "never"])
    assert answer.choices[0].message.content == "In the beginning "
    assert answer.choices[0].finish_reason == "stop"


@check
def openai_is_cut_off():
    answer = chat(max_completion_tokens=3)
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 3


@check
def openai_has_several_choices():
    answer = chat(n=3, temperature=1, seed=1, max_tokens=12, messages=[{"role": "user", "content": "Tell me."}])
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1


@check
def openai_repeats_a_seed():
    ask = lambda seed: chat(temperature=1, seed=seed, max_tokens=20, messages=[{"role": "user", "content": "Tell me."}])
    text = lambda seed: ask(seed).choices[0].message.content
    assert text(7) == text(7) != text(8)


@check
def openai_biases():
    first = chat(logprobs=True, max_tokens=1).choices[0].logprobs.content[0].token
    ids = client.completions.create(model=CHAT, prompt=first, max_tokens=1).usage.prompt_tokens
    assert ids == 1
    other = chat(logit_bias={str(id): -100 for id in range(500)}, max_tokens=1)
    assert other.choices[0].message.content != first


@check
def openai_has_logprobs():
    content = chat(logprobs=True, top_logprobs=5).choices[0].logprobs.content
    assert bytes(byte for place in content for byte in place.bytes).decode() == VERSE
    for place in content:
        assert len(place.top_logprobs) == 5 and place.top_logprobs[0].token == place.token
        assert sum(math.exp(top.logprob) for top in place.top_logprobs) <= 1.0001


@check
def openai_takes_parts_and_all_roles():
    answer = chat(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "x"},
            {"role": "assistant", "content": "c"},
            *ASK,
        ],
        max_tokens=4,
    )
    assert answer.usage.prompt_tokens > 20


@check
def openai_must_call():
    answer = chat(tools=[WEATHER, CLOCK], tool_choice="required", parallel_tool_calls=False)
    (call,) = answer.choices[0].message.tool_calls
    assert call.id.startswith("call_") and call.function.name in ("weather", "clock")
    assert answer.choices[0].finish_reason == "tool_calls" and answer.choices[0].message.content is None


@check
def openai_must_call_one():
    answer = chat(tools=[CLOCK, WEATHER], tool_choice={"type": "function", "function": {"name": "weather"}})
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "weather"
    is_weather(call.function.arguments)


@check
def openai_need_not_call():
    for choice in ("none", "auto"):
        message = chat(tools=[CLOCK], tool_choice=choice, max_tokens=20).choices[0].message
        assert message.content and not message.tool_calls


@check
def openai_streams_a_call():
    chunks = chat(stream=True, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert deltas[0].id and deltas[0].function.name == "weather" and deltas[0].index == 0
    assert all(delta.id is None and delta.function.name is None for delta in deltas[1:])
    assert len(deltas) > 3
    is_weather("".join(delta.function.arguments for delta in deltas))


@check
def openai_goes_on_after_a_call():
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Oslo", "days": 2}'}}
    answer = chat(
        tools=[WEATHER],
        max_tokens=10,
        messages=[
            {"role": "user", "content": "How is Oslo?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ],
    )
    assert answer.choices[0].message.role == "assistant"


@check
def openai_has_json():
    answer = chat(
        response_format={"type": "json_schema", "json_schema": {"name": "kind", "strict": True, "schema": KIND}},
        temperature=1,
        seed=5,
    )
    parsed = json.loads(answer.choices[0].message.content)
    assert parsed["kind"] in ("cat", "dog") and isinstance(parsed["count"], int)


@check
def openai_parses():
    pet = client.chat.completions.parse(model=CHAT, messages=ASK, response_format=Pet).choices[0].message.parsed
    assert isinstance(pet, Pet)


@check
def openai_has_any_json():
    answer = chat(response_format={"type": "json_object"}, max_tokens=400)
    text = answer.choices[0].message.content
    assert text.startswith("{"), text
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


@check
def openai_continues_texts():
    answer = client.completions.create(model=CHAT, prompt=["In the beginning", "And it came"], max_tokens=5, echo=True)
    texts = [choice.text for choice in answer.choices]
    assert texts[0].startswith("In the beginning") and texts[1].startswith("And it came")
    one = client.completions.create(model=CHAT, prompt="In the", max_tokens=5, temperature=0, logprobs=2)
    assert "".join(one.choices[0].logprobs.tokens) == one.choices[0].text


@check
def openai_streams_a_text():
    options = {"model": CHAT, "prompt": [1, 2, 3], "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(**options).choices[0].text
    chunks = list(client.completions.create(**options, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole


@check
def openai_responds():
    response = client.responses.create(model=CHAT, input="Recite Genesis 1:1.")
    assert response.output_text == VERSE and response.status == "completed"
    assert response.usage.output_tokens == 14


@check
def openai_responds_in_events():
    events = list(client.responses.create(model=CHAT, input=ASK, instructions="", stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))


@check
def openai_responds_with_a_call():
    tool = {"type": "function", "strict": True, **WEATHER["function"]}
    first = client.responses.create(model=CHAT, input="Oslo?", tools=[tool], tool_choice="required", parallel_tool_calls=False)
    (call,) = first.output
    assert call.type == "function_call" and call.name == "weather"
    is_weather(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    again = [{"role": "user", "content": "Oslo?"}, call, result]
    second = client.responses.create(model=CHAT, input=again, max_output_tokens=5)
    assert second.status in ("completed", "incomplete")


@check
def openai_responds_in_a_form():
    response = client.responses.parse(model=CHAT, input="A pet.", text_format=Pet)
    assert isinstance(response.output_parsed, Pet)


@check
def openai_embeds():
    pair = client.embeddings.create(model=EMBED, input=["That is a happy person", "That is a happy dog"])
    a, b = (item.embedding for item in pair.data)
    assert abs(sum(x * y for x, y in zip(a, b)) - 0.6946) < 1e-3
    floats = client.embeddings.create(model=EMBED, input="That is a happy person", encoding_format="float")
    assert max(abs(x - y) for x, y in zip(a, floats.data[0].embedding)) < 1e-6
    short = client.embeddings.create(model=EMBED, input=[101, 102], dimensions=16)
    assert abs(sum(x * x for x in short.data[0].embedding) - 1) < 1e-5 and len(short.data[0].embedding) == 16


@check
def openai_names_what_is_wrong():
    bad = openai.BadRequestError
    refused(bad, lambda: chat(temperature=9), param="temperature", code="invalid_value")
    refused(bad, lambda: chat(messages=[]), param="messages")
    refused(bad, lambda: chat(messages=[{"role": "king", "content": "x"}]), param="messages[0].role")
    refused(bad, lambda: chat(extra_body={"mirostat": 2}), param="mirostat", code="unknown_parameter")
    refused(bad, lambda: client.responses.create(model=CHAT, input="x", store=True), param="store")
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
    refused(bad, lambda: chat(response_format=schema), code="invalid_json_schema")


@check
def openai_knows_no_such_model():
    caught = refused(openai.NotFoundError, lambda: chat(model="gpt-x"), code="model_not_found", param="model")
    assert caught.status_code == 404 and caught.request_id
    refused(openai.NotFoundError, lambda: client.models.retrieve("gpt-x"), code="model_not_found")


@check
def openai_overflows():
    long = [{"role": "user", "content": "word " * 3000}]
    refused(openai.BadRequestError, lambda: chat(messages=long), code="context_length_exceeded", param="messages")
    too_much = lambda: client.embeddings.create(model=EMBED, input="word " * 600)
    refused(openai.BadRequestError, too_much, code="context_length_exceeded", param="input")
    huge = [{"role": "user", "content": "x" * 5_000_000}]
    caught = refused(openai.APIStatusError, lambda: chat(messages=huge))
    assert caught.status_code == 413


@check
def a_client_that_leaves_makes_room():
    endless = {"messages": [{"role": "user", "content": "Tell me everything about Mr. Darcy."}], "stream": True}
    for _ in range(40):
        with chat(**endless, temperature=1, logit_bias={"0": -100, "2": -100}) as stream:
            next(iter(stream))
    root = BASE.removesuffix("/v1")
    assert httpx.get(f"{root}/health").json() == {"status": "ok"}
    idle = 'cocoon_answers_running{model="cocoon-tiny"} 0'
    # Were they all made, it would take much longer. A network's workers are not seen.
    for _ in range(50):
        metrics = httpx.get(f"{root}/metrics").text
        if done := idle in metrics or "cocoon_network_" in metrics:
            break
        time.sleep(0.1)
    assert done and "Darcy" not in metrics, metrics
    assert chat().choices[0].message.content == VERSE


# Others.


@check
def litellm_chats_and_streams():
    options = {"model": f"openai/{CHAT}", "messages": ASK, "api_base": BASE, "api_key": "any"}
    assert litellm.completion(**options).choices[0].message.content == VERSE
    chunks = litellm.completion(**options, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == VERSE
    called = litellm.completion(**options, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
    is_weather(called.choices[0].message.tool_calls[0].function.arguments)


@check
def litellm_embeds_and_knows_errors():
    options = {"api_base": BASE, "api_key": "any"}
    item = litellm.embedding(model=f"openai/{EMBED}", input=["x"], **options).data[0]
    assert len(item["embedding"]) == 384
    long = [{"role": "user", "content": "word " * 3000}]
    ask = lambda model, messages: litellm.completion(model=f"openai/{model}", messages=messages, **options)
    refused(litellm.ContextWindowExceededError, lambda: ask(CHAT, long))
    refused(litellm.NotFoundError, lambda: ask("gpt-x", ASK))


@check
def langchain_chats_and_calls():
    model = ChatOpenAI(model=CHAT, base_url=BASE, api_key="any")
    assert model.invoke("Recite Genesis 1:1.").content == VERSE
    assert "".join(chunk.content for chunk in model.stream("Recite Genesis 1:1.")) == VERSE
    bound = model.bind_tools([WEATHER], tool_choice="weather")
    (call,) = bound.invoke("Oslo?").tool_calls
    is_weather(json.dumps(call["args"]))
    history = [HumanMessage("Oslo?"), AIMessage("", tool_calls=[call]), ToolMessage("rain", tool_call_id=call["id"])]
    assert model.bind(max_tokens=5).invoke(history).type == "ai"
    assert isinstance(model.with_structured_output(Pet).invoke("A pet."), Pet)


@check
def langchain_embeds():
    model = OpenAIEmbeddings(model=EMBED, base_url=BASE, api_key="any", check_embedding_ctx_length=False)
    assert [len(vector) for vector in model.embed_documents(["a", "b"])] == [384, 384]


@check
def instructor_extracts():
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        extractor = instructor.from_openai(client, mode=mode)
        pet = extractor.chat.completions.create(model=CHAT, messages=ASK, response_model=Pet, max_retries=0)
        assert isinstance(pet, Pet)


@check
def pydantic_ai_runs_agents():
    provider = OpenAIProvider(base_url=BASE, api_key="any")
    for model in (OpenAIChatModel(CHAT, provider=provider), OpenAIResponsesModel(CHAT, provider=provider)):
        assert Agent(model).run_sync("Recite Genesis 1:1.").output == VERSE
        pet = Agent(model, output_type=ToolOutput(Pet)).run_sync("A pet.").output
        assert isinstance(pet, Pet)


def main():
    passed = 0
    for function in checks:
        try:
            function()
            passed += 1
            print(f"ok      {function.__name__}")
        except Exception:
            print(f"FAILED  {function.__name__}")
            traceback.print_exc(limit=-3, file=sys.stdout)
    print(f"{passed} of {len(checks)}")
    return passed == len(checks)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
