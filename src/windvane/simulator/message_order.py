"""Which message may follow which, and which tool result answers which call.

These are the rules of Mistral's own request validator. The table is the whole of the order; the
rest is about calls: names that a function can have, and ids of nine alphanumerics, each answered once
before the model speaks again. What is to be continued comes last.
"""

import re

from windvane.simulator.json_types import JsonObject
from windvane.simulator.refusal import Refusal

NEXT_ROLES = {
    None: frozenset({"system", "user", "assistant"}),
    "system": frozenset({"system", "user", "assistant"}),
    "user": frozenset({"user", "system", "assistant"}),
    "assistant": frozenset({"assistant", "user", "tool"}),
    "tool": frozenset({"tool", "assistant", "user"}),
}

_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")


def check_messages(messages: list[JsonObject]) -> None:
    """Raise the refusal the service answers with, if any rule is broken."""
    if not messages:
        raise _order("Conversation must have at least one message")
    before: str | None = None
    open_calls: set[str] = set()
    for message in messages:
        role = message["role"]
        if role not in NEXT_ROLES[before]:
            raise _order(f"Unexpected role '{role}' after role '{before}'")
        if role == "tool":
            _close_call(message, open_calls)
        elif open_calls:
            raise _order("Not the same number of function calls and responses")
        elif role == "assistant":
            open_calls = _open_calls(message)
            if message.get("prefix") and message is not messages[-1]:
                raise _assistant("Assistant message with prefix True must be last message")
        before = role
    _check_last(messages[-1], open_calls)


def _check_last(last: JsonObject, open_calls: set[str]) -> None:
    if open_calls and last["role"] == "tool":
        raise _order("Not the same number of function calls and responses")
    if last["role"] in {"user", "tool"} or (last["role"] == "assistant" and last.get("prefix")):
        return
    raise _order(
        "Expected last role User or Tool (or Assistant with prefix True) for serving"
        f" but got {last['role']}"
    )


def _open_calls(message: JsonObject) -> set[str]:
    calls = message.get("tool_calls") or []
    if not calls and not message.get("content") and not message.get("prefix"):
        raise _assistant("Assistant message must have either content or tool_calls, but not none.")
    ids = [call.get("id") for call in calls]
    for one, call in zip(ids, calls, strict=True):
        _check_id(one)
        _check_name(call["function"]["name"])
    if len(set(ids)) != len(ids):
        raise _order("Duplicate tool call id in assistant message")
    return set(ids)


def _close_call(message: JsonObject, open_calls: set[str]) -> None:
    answered = message.get("tool_call_id")
    _check_id(answered)
    if message.get("name") is not None:
        _check_name(message["name"])
    if answered not in open_calls:
        raise _order(f"Unexpected tool call id {answered} in tool results")
    open_calls.discard(str(answered))


def _check_id(call_id: object) -> None:
    if not isinstance(call_id, str) or not _CALL_ID.fullmatch(call_id):
        raise Refusal(
            400,
            f"Tool call id was {call_id} but must be a-z, A-Z, 0-9, with a length of 9.",
            type_="invalid_function_call",
            code="3280",
        )


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _FUNCTION_NAME.fullmatch(name):
        raise Refusal(
            400,
            f"Function name was {name} but must be a-z, A-Z, 0-9, or contain underscores and"
            " dashes, with a maximum length of 64.",
            type_="invalid_function_call",
            code="3280",
        )


def _assistant(message: str) -> Refusal:
    return Refusal(400, message, type_="invalid_request_assistant_message", code="3240")


def _order(message: str) -> Refusal:
    return Refusal(400, message, type_="invalid_request_message_order", code="3230")
