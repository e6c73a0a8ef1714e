"""Content that is a list of parts, as Mistral's models say it: text, thinking, references.

Thinking first and then text is what both dialects can say; so a list of only that is read as two
strings, and any other is kept as it was said beside them.
"""

from collections.abc import Sequence

from windvane.core.chat import JsonObject

_TEXT = frozenset(("type", "text"))
_THINKING = frozenset(("type", "thinking"))


def split_thinking(content: str | list[JsonObject] | None) -> tuple[str | None, str | None]:
    """The text and the thinking of a message's content, each joined, None when absent."""
    if not isinstance(content, list):
        return content, None
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content:
        if part.get("type") == "thinking":
            thoughts.append(_thinking_text(part.get("thinking")))
        elif isinstance(text := part.get("text"), str):
            texts.append(text)
    return "".join(texts) if texts else None, "".join(thoughts) or None


def _thinking_text(thinking: object) -> str:
    if isinstance(thinking, str):
        return thinking
    parts = thinking if isinstance(thinking, list) else ()
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def more_than_text(parts: list[JsonObject]) -> list[JsonObject] | None:
    """The parts, if they say more than thinking and then text; else None."""
    has_text = False
    for part in parts:
        if _is_bare(part, "thinking", _THINKING) and not has_text:
            thinking = part.get("thinking")
            if isinstance(thinking, list) and not all(map(_is_text, thinking)):
                return parts
        elif _is_text(part):
            has_text = True
        else:
            return parts
    return None


def _is_text(part: object) -> bool:
    return (
        isinstance(part, dict)
        and isinstance(part.get("text"), str)
        and _is_bare(part, "text", _TEXT)
    )


def _is_bare(part: JsonObject, kind: str, members: frozenset[str]) -> bool:
    """Whether it is of this kind, and has no more to say than every part of it."""
    return part.get("type") == kind and all(
        name in members or value is None for name, value in part.items()
    )


def grown(pieces: Sequence[str | JsonObject]) -> list[JsonObject]:
    """The parts that pieces of a stream amount to: text grows, and so does thinking until it is
    signed or closed."""
    parts: list[JsonObject] = []
    for piece in pieces:
        part: JsonObject = {"type": "text", "text": piece} if isinstance(piece, str) else piece
        last = parts[-1] if parts else {}
        if _is_text(part) and _is_text(last):
            parts[-1] = {"type": "text", "text": f"{last['text']}{part['text']}"}
        elif part.get("type") == "thinking" and _is_bare(last, "thinking", _THINKING):
            before, more = _as_list(last.get("thinking")), _as_list(part.get("thinking"))
            parts[-1] = {**part, "thinking": grown([*before, *more])}
        else:
            parts.append(part)
    return parts


def _as_list(thinking: object) -> list[JsonObject]:
    if isinstance(thinking, list):
        return [part for part in thinking if isinstance(part, dict)]
    return [{"type": "text", "text": thinking}] if isinstance(thinking, str) else []
