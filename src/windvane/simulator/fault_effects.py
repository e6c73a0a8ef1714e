"""What each fault does: four tables, one for each moment at which a fault can strike.

- REPLIES: instead of an answer, before anything is generated or billed;
- ANSWERS: in what the model says;
- USAGES: in what the answer claims it cost (the bill stays true);
- DELIVERIES: on the way, in the planned reply.
"""

from collections.abc import Callable

from msgspec import structs

from windvane.simulator import tokens
from windvane.simulator.compose import call_choice, shorten, text_choice
from windvane.simulator.dialect import Dialect
from windvane.simulator.exchange import ChatRequest, Choice, ToolCall, Usage
from windvane.simulator.fault import Fault
from windvane.simulator.refusal import Refusal
from windvane.simulator.reply import Ending, Frame, Reply

MakeReply = Callable[[Fault, Dialect, str], Reply]
ChangeAnswer = Callable[[Fault, ChatRequest, list[Choice]], list[Choice]]
ChangeUsage = Callable[[Usage], Usage | None]
ChangeReply = Callable[[Fault, Dialect, Reply], None]

SILENCE_TEXT = "I cannot help with that."
LOOPED = "and so on "
BROKEN_JSON = '{"answer": "this object breaks off", "items": [1, 2,'
BROKEN_ARGUMENTS = '{"value": '
HTML = (
    b"<html>\r\n<head><title>%d</title></head>\r\n<body>\r\n<center><h1>%d</h1></center>\r\n"
    b"<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n"
)
_SHAPE_FIELDS = {
    "zero": "x-ratelimit-limit-req-minute: 0\r\nx-ratelimit-remaining-req-minute: 0\r\n",
    "month": "x-ratelimit-remaining-tokens-month: 0\r\n",
}


def error_refusal(fault: Fault, dialect: Dialect) -> Refusal:
    """Return the error a provider gives with that status."""
    status = fault.status
    kind, code = dialect.error_bodies.get(status, ("invalid_request_error", None))
    message = {
        429: "Rate limit exceeded",
        503: "Service tier capacity exceeded for this model.",
    }.get(status, f"Simulated error {status}")
    if fault.shape == "capacity":
        message = "Service tier capacity exceeded for this model."
        kind, code = "service_tier_capacity_exceeded", "3505"
    if fault.shape == "quota":
        message = "You exceeded your current quota, please check your plan and billing details."
        kind, code = "insufficient_quota", "insufficient_quota"
    headers = {} if fault.retry_after is None else {"retry-after": f"{fault.retry_after:g}"}
    return Refusal(status, message, type_=kind, code=code, headers=headers)


def without_conflicts(fields: str, extra: str) -> str:
    """Return header lines with those of `extra` in place of their namesakes."""
    names = {line.partition(":")[0] for line in extra.split("\r\n")}
    kept = [line for line in fields.split("\r\n") if line and line.partition(":")[0] not in names]
    return "".join(f"{line}\r\n" for line in kept) + extra


def _error(fault: Fault, dialect: Dialect, fields: str) -> Reply:
    refusal = error_refusal(fault, dialect)
    extra = "".join(f"{name}: {value}\r\n" for name, value in refusal.headers.items())
    extra += _SHAPE_FIELDS.get(fault.shape or "", "")
    body = dialect.error_body(refusal)
    return Reply(status=fault.status, frames=[(body, 0)], fields=without_conflicts(fields, extra))


def _html(fault: Fault, _dialect: Dialect, _fields: str) -> Reply:
    body = HTML % (fault.status, fault.status)
    return Reply(status=fault.status, frames=[(body, 0)], content_type="text/html")


def _redirect(fault: Fault, _dialect: Dialect, _fields: str) -> Reply:
    location = "location: /redirected/v1/chat/completions\r\n"
    return Reply(status=fault.status, frames=[(b"", 0)], fields=location)


def _reset(_fault: Fault, _dialect: Dialect, _fields: str) -> Reply:
    return Reply(status=0, frames=[], silent=True, ending=Ending.RESET, is_whole=False)


def _hang(_fault: Fault, _dialect: Dialect, _fields: str) -> Reply:
    return Reply(status=0, frames=[], silent=True, ending=Ending.SILENCE, is_whole=False)


REPLIES: dict[str, MakeReply] = {
    "error": _error,
    "html": _html,
    "redirect": _redirect,
    "reset": _reset,
    "hang": _hang,
}


def _empty(_fault: Fault, _request: ChatRequest, choices: list[Choice]) -> list[Choice]:
    return [text_choice("") for _ in choices]


def _refuse(_fault: Fault, _request: ChatRequest, choices: list[Choice]) -> list[Choice]:
    return [text_choice(SILENCE_TEXT, "content_filter") for _ in choices]


def _loop(fault: Fault, request: ChatRequest, choices: list[Choice]) -> list[Choice]:
    size = max(0, fault.at_token)
    text = LOOPED * (size * tokens.BYTES_PER_TOKEN // len(LOOPED) + 1)
    looped = [Choice(text=tokens.split(text)[:size], finish="length") for _ in choices]
    return [shorten(choice, request) for choice in looped]


def _badjson(_fault: Fault, _request: ChatRequest, choices: list[Choice]) -> list[Choice]:
    return [text_choice(BROKEN_JSON) for _ in choices]


def _badargs(_fault: Fault, request: ChatRequest, choices: list[Choice]) -> list[Choice]:
    """Break the arguments of the calls made; make a broken call if there is a tool and no call."""
    for place, choice in enumerate(choices):
        calls = choice.calls
        if not calls and request.tools:
            name = str(request.tools[0].get("function", {}).get("name", ""))
            calls = [ToolCall(f"bad{place:06d}", name, "")]
        if calls:
            broken = [ToolCall(call.id, call.name, BROKEN_ARGUMENTS) for call in calls]
            choices[place] = call_choice(broken)
    return choices


ANSWERS: dict[str, ChangeAnswer] = {
    "empty": _empty,
    "refuse": _refuse,
    "loop": _loop,
    "badjson": _badjson,
    "badargs": _badargs,
}

USAGES: dict[str, ChangeUsage] = {
    "usage-missing": lambda _usage: None,
    "usage-zero": lambda _usage: Usage(0, 0, 0, 0),
}


def _first_chunks(reply: Reply, chunks: int, last_frame: bytes) -> list[Frame]:
    """Return the frames up to and with the k-th that carries tokens; of a JSON body, half."""
    if not reply.streamed:
        body, size = reply.frames[0]
        return [(body[: len(body) // 2], size)]
    kept: list[Frame] = []
    for body, size in reply.frames:
        if size and not chunks:
            break
        if body == last_frame:
            break
        kept.append((body, size))
        chunks -= 1 if size else 0
    return kept


def _cut(fault: Fault, dialect: Dialect, reply: Reply) -> None:
    reply.truncated = not reply.streamed
    reply.frames = _first_chunks(reply, fault.at_token, dialect.last_frame)
    reply.terminated = False
    reply.ending = Ending.RESET
    reply.is_whole = False


def _cut_clean(fault: Fault, dialect: Dialect, reply: Reply) -> None:
    reply.frames = _first_chunks(reply, fault.at_token, dialect.last_frame)
    reply.is_whole = False


def _stall(fault: Fault, dialect: Dialect, reply: Reply) -> None:
    _cut(fault, dialect, reply)
    reply.ending = Ending.SILENCE


def _error_event(fault: Fault, dialect: Dialect, reply: Reply) -> None:
    refusal = error_refusal(structs.replace(fault, status=500), dialect)
    reply.is_whole = False
    if reply.streamed:
        reply.frames = _first_chunks(reply, fault.at_token, dialect.last_frame)
        reply.frames.append((dialect.error_frame(refusal), 0))
    else:
        reply.frames = [(dialect.error_body(refusal), reply.tokens)]


def _slow(fault: Fault, _dialect: Dialect, reply: Reply) -> None:
    reply.token_delay_s = fault.delay_s


def _late(fault: Fault, _dialect: Dialect, reply: Reply) -> None:
    reply.first_delay_s += fault.delay_s


def _garbage(_fault: Fault, _dialect: Dialect, reply: Reply) -> None:
    broken = b'data: {"id": "x", "choi\n\ndata: ]]]\n\n' if reply.streamed else b"<<<not json"
    reply.frames = [(broken, reply.tokens)]
    reply.is_whole = False


def _truncated(_fault: Fault, _dialect: Dialect, reply: Reply) -> None:
    reply.truncated = True
    reply.ending = Ending.CLOSE
    reply.is_whole = False


def _gzip(_fault: Fault, _dialect: Dialect, reply: Reply) -> None:
    reply.gzipped = True


def _bytewise(_fault: Fault, _dialect: Dialect, reply: Reply) -> None:
    reply.bytewise = True


def _wrong_type(_fault: Fault, _dialect: Dialect, reply: Reply) -> None:
    reply.content_type = "text/plain"


def _crlf(_fault: Fault, _dialect: Dialect, reply: Reply) -> None:
    if reply.streamed:
        reply.frames = [(body.replace(b"\n", b"\r\n"), size) for body, size in reply.frames]


def _comments(_fault: Fault, _dialect: Dialect, reply: Reply) -> None:
    if reply.streamed:
        reply.frames = [(b": still here\n\n" + body, size) for body, size in reply.frames]


def _no_done(_fault: Fault, dialect: Dialect, reply: Reply) -> None:
    reply.frames = [frame for frame in reply.frames if frame[0] != dialect.last_frame]


DELIVERIES: dict[str, ChangeReply] = {
    "cut": _cut,
    "cut-clean": _cut_clean,
    "stall": _stall,
    "error-event": _error_event,
    "slow": _slow,
    "late": _late,
    "garbage": _garbage,
    "truncated": _truncated,
    "gzip": _gzip,
    "bytewise": _bytewise,
    "wrong-type": _wrong_type,
    "crlf": _crlf,
    "comments": _comments,
    "no-done": _no_done,
}
