"""What providers do to us: a table of scripts, some good, most not.

Each row makes the parts of one answer from the dice, and says what the provider truly said: which
text, and whether a caller may be told that it is whole.
"""

from collections.abc import Callable
from random import Random

import msgspec

from windvane.testing.answers import (
    DONE,
    Breaks,
    Connects,
    Ends,
    Head,
    Part,
    Piece,
    Refuses,
    chunk,
    completion,
    error_body,
    event_head,
    json_head,
)
from windvane.testing.upstream import Call

NEVER_S = 86_400.0
"""After all who might wait have gone."""

TOKENS_MAX = 60
"""Of an answer that nobody limits."""

Word = tuple[str, int]
"""A text, and how many tokens its provider counts for it."""

WORDS = ("wind", "vane", "north", "gale", "été", "雨", "calm", "\U0001f300")


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider truly said. `is_sound` is whether its answer may end well."""

    kind: str
    parts: list[tuple[float, Part]]
    text: str = ""
    is_sound: bool = False


class Weather(msgspec.Struct, frozen=True, kw_only=True):
    """The dice, and the question. No answer is longer than was asked for."""

    rng: Random
    is_stream: bool
    input_tokens: int
    tokens_max: int = TOKENS_MAX

    def words(self) -> list[Word]:
        """Each may be as many tokens as it has bytes: no vocabulary makes more of it."""
        found: list[Word] = []
        left = self.tokens_max
        for _ in range(self.rng.randint(1, 30)):
            text = f"{self.rng.choice(WORDS)} "
            tokens = min(self.rng.randint(1, len(text.encode())), left)
            if tokens:
                found.append((text, tokens))
            left -= tokens
        return found

    def delay_s(self) -> float:
        return self.rng.choice((0.0, 0.01, 0.2, 1.5))


def tell(call: Call, rng: Random) -> Told:
    """Choose an answer for `call`, and begin to play it."""
    # No vocabulary makes more tokens than there are bytes.
    call.input_tokens = rng.randint(1, len(msgspec.json.encode(call.body["messages"])))
    limit = call.body.get("max_tokens")
    weather = Weather(
        rng=rng,
        is_stream=call.is_stream,
        input_tokens=call.input_tokens,
        tokens_max=limit if isinstance(limit, int) else TOKENS_MAX,
    )
    kind, make = rng.choices(_KINDS, _WEIGHTS)[0]
    told = msgspec.structs.replace(make(weather), kind=kind)
    if rng.random() < 0.15 and not isinstance(told.parts[0][1], Connects | Refuses):
        way = (rng.choice((0.01, 0.2, 1.5, 4.0)), Connects())
        told = msgspec.structs.replace(told, parts=[way, *told.parts])
    call.play(told.parts)
    return told


def _good(sky: Weather) -> Told:
    words = sky.words()
    return _whole(sky, words, (sky.input_tokens, _tokens(words)))


def _uncounted(sky: Weather) -> Told:
    return _whole(sky, sky.words(), None)


def _empty(sky: Weather) -> Told:
    return _whole(sky, [], (sky.input_tokens, 0))


def _text(words: list[Word]) -> str:
    return "".join(text for text, _ in words)


def _tokens(words: list[Word]) -> int:
    return sum(tokens for _, tokens in words)


def _whole(sky: Weather, words: list[Word], usage: tuple[int, int] | None) -> Told:
    text = _text(words)
    if not sky.is_stream:
        body = Piece(data=completion(text, usage), output_tokens=_tokens(words))
        parts: list[tuple[float, Part]] = [
            (sky.delay_s() * 3, json_head()),
            (sky.delay_s(), body),
            (0.0, Ends()),
        ]
        return Told(kind="", parts=parts, text=text, is_sound=True)
    events = [*_events(words), (chunk(finish="stop", usage=usage), 0)]
    if usage is None or sky.rng.random() < 0.8:
        events.append((DONE, 0))
    end: Part = Breaks() if events[-1][0] == DONE and sky.rng.random() < 0.1 else Ends()
    return Told(
        kind="",
        parts=[(sky.delay_s(), event_head()), *_cut(sky, events), (0.0, end)],
        text=text,
        is_sound=True,
    )


def _events(words: list[Word]) -> list[tuple[bytes, int]]:
    first = chunk("", role="assistant")
    return [(first, 0), *((chunk(text), tokens) for text, tokens in words)]


def _cut(sky: Weather, events: list[tuple[bytes, int]]) -> list[tuple[float, Part]]:
    """Events as they travel: alone, several at once, or torn anywhere; comments in between."""
    parts: list[tuple[float, Part]] = []
    for data, tokens in events:
        if sky.rng.random() < 0.05:
            parts.append((sky.delay_s(), Piece(data=b": still here\n\n")))
        place = sky.rng.randrange(len(data)) if sky.rng.random() < 0.2 else 0
        if place:
            parts.append((sky.delay_s(), Piece(data=data[:place])))
        parts.append((sky.delay_s(), Piece(data=data[place:], output_tokens=tokens)))
    return parts


def _broken(sky: Weather, *end: Part) -> Told:
    """An answer that stops somewhere, and then does what `end` says; nothing: it stalls."""
    words = sky.words()
    text = _text(words)
    ending: list[tuple[float, Part]] = [(sky.delay_s(), part) for part in end]
    if not sky.is_stream:
        body = completion(text, (sky.input_tokens, _tokens(words)))
        place = sky.rng.randrange(1, len(body))
        start = Piece(data=body[:place])
        return Told(kind="", parts=[(0.1, json_head()), (0.1, start), *ending])
    kept = words[: sky.rng.randint(0, len(words))]
    parts = [(sky.delay_s(), event_head()), *_cut(sky, _events(kept)), *ending]
    return Told(kind="", parts=parts, text=text)


def _cut_off(sky: Weather) -> Told:
    return _broken(sky, Breaks())


def _ends_early(sky: Weather) -> Told:
    return _broken(sky, Ends())


def _stalls(sky: Weather) -> Told:
    return _broken(sky)


def _drips(sky: Weather) -> Told:
    """Comments for ever, and never a word."""
    comment = Piece(data=b": processing\n\n")
    parts: list[tuple[float, Part]] = [(5.0, comment) for _ in range(40)]
    head = event_head() if sky.is_stream else json_head()
    return Told(kind="", parts=[(0.0, head), *parts])


def _done_unfinished(sky: Weather) -> Told:
    """The marker of a good end after half an answer."""
    return _broken(sky, Piece(data=DONE), Ends())


def _garbage(sky: Weather) -> Told:
    return _broken(sky, Piece(data=b"data: {nonsense\n\n"), Ends())


def _error_event(sky: Weather) -> Told:
    event = b"data: " + error_body("the model is tired") + b"\n\n"
    return _broken(sky, Piece(data=event), Ends())


def _html(sky: Weather) -> Told:
    page = Piece(data=b"<html>hello from a captive portal</html>")
    head = Head(headers={"content-type": "text/html"})
    return Told(kind="", parts=[(sky.delay_s(), head), (0.0, page), (0.0, Ends())])


def _encoded(sky: Weather) -> Told:
    head = json_head(content_encoding="br")
    return Told(kind="", parts=[(sky.delay_s(), head), (0.0, Piece(data=b"\x0b")), (0.0, Ends())])


def _hangs(_: Weather) -> Told:
    return Told(kind="", parts=[(0.0, Connects())])


def _unreachable(_: Weather) -> Told:
    return Told(kind="", parts=[(NEVER_S, Connects())])


def _refused(sky: Weather) -> Told:
    return Told(kind="", parts=[(sky.delay_s(), Refuses())])


def _reset(sky: Weather) -> Told:
    return Told(kind="", parts=[(sky.delay_s(), Breaks())])


def _status(sky: Weather) -> Told:
    code = sky.rng.choice((400, 401, 404, 408, 422, 429, 429, 429, 500, 502, 503, 503, 504, 529))
    headers = {}
    if code == 429 and sky.rng.random() < 0.7:
        headers["retry_after"] = sky.rng.choice(("0", "1", "2", "30", "soon", "-1", "1e308"))
    body = Piece(data=sky.rng.choice((error_body(), b"<html>oh no</html>", b"", b"{")))
    rest = sky.rng.choices(([(0.0, Ends())], [(0.5, Breaks())], []), (8, 1, 1))[0]
    return Told(kind="", parts=[(sky.delay_s(), json_head(code, **headers)), (0.0, body), *rest])


_TABLE: tuple[tuple[int, str, Callable[[Weather], Told]], ...] = (
    (40, "good", _good),
    (6, "uncounted", _uncounted),
    (6, "empty", _empty),
    (5, "cut off", _cut_off),
    (4, "ends early", _ends_early),
    (4, "stalls", _stalls),
    (2, "drips", _drips),
    (3, "done unfinished", _done_unfinished),
    (3, "garbage", _garbage),
    (3, "error event", _error_event),
    (2, "html", _html),
    (2, "encoded", _encoded),
    (3, "hangs", _hangs),
    (4, "refused", _refused),
    (3, "unreachable", _unreachable),
    (3, "reset", _reset),
    (18, "status", _status),
)
_KINDS = [(kind, make) for _, kind, make in _TABLE]
_WEIGHTS = [weight for weight, _, _ in _TABLE]
