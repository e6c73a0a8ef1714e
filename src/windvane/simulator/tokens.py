"""The simulator's own counting rule: one token is four bytes of UTF-8.

A text of b bytes counts ceil(b / 4), and its tokens are its pieces: cuts are made every four
bytes and moved back to the start of a character, which keeps the number of pieces equal to the
count. So usage, bill and stream chunks agree by construction. Prompts add 4 per message and 3 per
request; an image counts 256, any other attachment 128; tools and schemas count as their JSON.

No real tokenizer counts like this. What matters is that the rule is cheap, exact and written down.
"""

from itertools import pairwise

import msgspec

from windvane.simulator.json_types import Json, JsonObject

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
TOKENS_PER_REQUEST = 3
TOKENS_PER_IMAGE = 256
TOKENS_PER_ATTACHMENT = 128

_encode = msgspec.json.encode


def count(text: str) -> int:
    """Return how many tokens a text is."""
    size = len(text) if text.isascii() else len(text.encode())
    return (size + BYTES_PER_TOKEN - 1) // BYTES_PER_TOKEN


def split(text: str) -> list[str]:
    """Return the tokens of a text; joined they are the text, and there are `count(text)`."""
    if text.isascii():
        return [text[i : i + BYTES_PER_TOKEN] for i in range(0, len(text), BYTES_PER_TOKEN)]
    data = text.encode()
    cuts = []
    for cut in range(0, len(data), BYTES_PER_TOKEN):
        start = cut
        while data[start] & 0xC0 == 0x80:
            start -= 1
        cuts.append(start)
    cuts.append(len(data))
    return [data[a:b].decode() for a, b in pairwise(cuts)]


def count_json(value: Json) -> int:
    """Return how many tokens a JSON value is, written compactly."""
    return (len(_encode(value)) + BYTES_PER_TOKEN - 1) // BYTES_PER_TOKEN


def count_content(content: Json) -> int:
    """Return the tokens of a message's content, a string or a list of parts."""
    if isinstance(content, str):
        return count(content)
    if not isinstance(content, list):
        return 0
    return sum(_count_part(part) for part in content)


def count_prompt(messages: list[JsonObject], extras: list[Json]) -> int:
    """Return the tokens of a chat prompt; `extras` are the tools and the answer's schema."""
    total = TOKENS_PER_REQUEST
    for message in messages:
        total += TOKENS_PER_MESSAGE + count_content(message.get("content"))
        calls = message.get("tool_calls")
        if calls:
            total += count_json(calls)
    for extra in extras:
        if extra:
            total += count_json(extra)
    return total


def _count_part(part: Json) -> int:
    if isinstance(part, str):
        return count(part)
    if not isinstance(part, dict):
        return 0
    kind = part.get("type")
    if kind == "text":
        return count(str(part.get("text", "")))
    if kind == "thinking":
        return count_json(part.get("thinking"))
    if kind == "image_url":
        return TOKENS_PER_IMAGE
    return TOKENS_PER_ATTACHMENT
