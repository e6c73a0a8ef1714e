"""Values made for schemas are valid, whatever the schema asks for."""

import json

import jsonschema
import pytest

from windvane.simulator.dice import Dice
from windvane.simulator.prompt_hints import Hints
from windvane.simulator.schema_value import CHARS_MAX, SchemaWriter

SCHEMAS = {
    "flat": {
        "type": "object",
        "properties": {
            "a": {"type": "string"},
            "b": {"type": "integer", "minimum": 5, "maximum": 9},
            "c": {"type": "boolean"},
        },
        "required": ["a"],
    },
    "enum": {
        "type": "object",
        "properties": {"unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["unit"],
    },
    "nested": {
        "type": "object",
        "properties": {
            "p": {
                "type": "object",
                "properties": {"q": {"type": "array", "items": {"type": "number"}, "minItems": 3}},
                "required": ["q"],
            }
        },
        "required": ["p"],
    },
    "refs": {
        "$defs": {
            "P": {"type": "object", "properties": {"n": {"type": "string"}}, "required": ["n"]}
        },
        "type": "object",
        "properties": {
            "p": {"$ref": "#/$defs/P"},
            "ps": {"type": "array", "items": {"$ref": "#/$defs/P"}},
        },
        "required": ["p", "ps"],
    },
    "recursive": {
        "$defs": {
            "N": {
                "type": "object",
                "properties": {
                    "v": {"type": "integer"},
                    "next": {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]},
                },
                "required": ["v", "next"],
            }
        },
        "$ref": "#/$defs/N",
    },
    "optional": {
        "type": "object",
        "properties": {"x": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
    },
    "nullable": {
        "type": "object",
        "properties": {"x": {"type": ["null", "integer"]}},
        "required": ["x"],
    },
    "const": {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
    "formats": {
        "type": "object",
        "properties": {
            k: {"type": "string", "format": k}
            for k in ("date", "date-time", "email", "uri", "uuid")
        },
        "required": ["date", "email"],
    },
    "lengths": {
        "type": "object",
        "properties": {"s": {"type": "string", "minLength": 40, "maxLength": 45}},
        "required": ["s"],
    },
    "exclusive": {
        "type": "object",
        "properties": {"n": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}},
        "required": ["n"],
    },
    "multiple": {
        "type": "object",
        "properties": {"n": {"type": "integer", "multipleOf": 7, "minimum": 10}},
        "required": ["n"],
    },
    "pattern": {
        "type": "object",
        "properties": {"zip": {"type": "string", "pattern": "^[A-Z]{2}-\\d{4}$"}},
        "required": ["zip"],
    },
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]},
        ]
    },
    "unique": {
        "type": "array",
        "items": {"enum": ["a", "b", "c"]},
        "minItems": 3,
        "uniqueItems": True,
    },
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "string"}, {"type": "integer"}],
        "items": False,
        "minItems": 2,
    },
    "free keys": {
        "type": "object",
        "additionalProperties": {"type": "integer"},
        "minProperties": 2,
    },
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
@pytest.mark.parametrize("prompt", ["", "Ada paid 3.5 for 12 'blue hats' on 2026-01-02 in Paris"])
def test_values_are_valid_against_their_schema(schema, prompt):
    for seed in range(20):
        value = SchemaWriter(schema, Hints(prompt), Dice(b"%d" % seed)).value()
        jsonschema.validate(value, schema)


async def test_a_schema_answer_is_valid_over_the_wire(start, ask, chat):
    schema = SCHEMAS["nested"]
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for stream in (False, True):
        said = await ask(await start(), chat("Fill it", response_format=form, stream=stream))
        jsonschema.validate(json.loads(said.text), schema)


async def test_json_mode_uses_the_keys_the_prompt_names(start, ask, chat):
    text = "Tell me a joke about cats. Return JSON with 'setup' and 'punchline' keys."
    said = await ask(await start(), chat(text, response_format={"type": "json_object"}))
    assert set(json.loads(said.text)) == {"setup", "punchline"}


def tool(name, description, **properties):
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": schema},
    }


WEATHER = tool("get_weather", "Get the weather at a location.", location={"type": "string"})
CUSTOMER = tool("create_customer", "Create a customer.", customer_name={"type": "string"})
ADDER = tool("add", "Adds numbers", a={"type": "integer"}, b={"type": "integer"})
CALLS = [
    (
        "What is the weather in San Francisco, CA?",
        [WEATHER],
        "auto",
        [{"location": "San Francisco, CA"}],
    ),
    (
        "What is the weather in Paris and London?",
        [WEATHER],
        "auto",
        [{"location": "Paris"}, {"location": "London"}],
    ),
    ("Create a customer named '你好啊集团'", [CUSTOMER], "auto", [{"customer_name": "你好啊集团"}]),
    ("What is 3 + 4", [ADDER], "any", [{"a": 3, "b": 4}]),
    ("Hello!", [WEATHER, ADDER], "auto", []),
    ("What is the weather in Rome?", [WEATHER], "none", []),
]


@pytest.mark.parametrize(("text", "tools", "choice", "expected"), CALLS)
async def test_tools_are_called_when_the_prompt_asks(
    start, ask, chat, text, tools, choice, expected
):
    said = await ask(await start(), chat(text, tools=tools, tool_choice=choice))
    calls = said.json["choices"][0]["message"]["tool_calls"] or []
    assert [json.loads(call["function"]["arguments"]) for call in calls] == expected


async def test_a_named_tool_is_called(start, ask, chat):
    choice = {"type": "function", "function": {"name": "add"}}
    said = await ask(await start(), chat("Hello!", tools=[WEATHER, ADDER], tool_choice=choice))
    call = said.json["choices"][0]["message"]["tool_calls"][0]
    assert call["function"]["name"] == "add"


AGES = {
    "items": {"type": "array", "minItems": 10**8},
    "text": {"type": "string", "minLength": 10**9},
    "unique": {
        "type": "array",
        "minItems": 10**6,
        "uniqueItems": True,
        "items": {"type": "integer"},
    },
    "items of items": {
        "type": "array",
        "minItems": 50,
        "items": {
            "type": "array",
            "minItems": 50,
            "items": {
                "type": "array",
                "minItems": 50,
                "items": {"type": "array", "minItems": 50, "items": {"type": "integer"}},
            },
        },
    },
    "a tree": {"properties": {name: {"$ref": "#"} for name in "abcdefghij"}},
    "all of itself": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
    "long words": {"type": "array", "minItems": 10**5, "items": {"const": "x" * 10**5}},
    "a long pattern": {"type": "string", "pattern": "(((ab){9000}){9000}){9000}"},
}


@pytest.mark.parametrize("schema", AGES.values(), ids=AGES.keys())
def test_a_schema_that_demands_ages_is_answered_so_far(schema):
    """Nobody else is served meanwhile."""
    written = SchemaWriter(schema, Hints(""), Dice(b"7")).written()
    assert len(written.json) < 5 * CHARS_MAX
    if written.is_whole:
        json.loads(written.json)
    else:
        with pytest.raises(json.JSONDecodeError):
            json.loads(written.json)


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "^a*a*a*a*a*a*$", "(a{1,60}){1,60}b"])
def test_a_pattern_that_takes_ages_is_not_tried(pattern):
    word = "a" * 30 + "!"
    SchemaWriter({"type": "string", "pattern": pattern}, Hints(word), Dice(b"7")).written()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_grows_too_long_ends_as_at_its_limit(start, ask, chat, stream):
    simulator = await start()
    schema = {"type": "object", "properties": {"a": AGES["items"]}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    for body in (
        chat("Fill it", response_format=form, stream=stream),
        chat("Fill it", tools=[tool], tool_choice="any", stream=stream),
        chat("Fill it", response_format=form, n=3, stream=stream),
    ):
        said = await ask(simulator, body)
        assert said.status == 200
        assert b'"finish_reason":"length"' in said.body.replace(b": ", b":")
