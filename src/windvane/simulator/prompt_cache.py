"""Prompt caching as the providers do it: a repeated beginning is billed at the cached price.

Where it is by itself, a request with a cache key remembers its prompt; the next one under the same key
is compared with it, and the common beginning counts as cached in whole blocks of 64 tokens. Where it is
asked for, the prompt is written up to each mark, which costs, and read up to the last mark that is
known. The last token of a prompt is never cached, since something must be computed.
"""

from collections import OrderedDict

from msgspec import Struct

BLOCK_TOKENS = 64
PROMPTS_MAX = 1024
"""Prompts remembered; the least recently used is forgotten first."""
PROMPT_BYTES_MAX = 1 << 20
"""Bytes of a prompt remembered: a bound on memory, far beyond what tests cache."""
_BYTES_PER_TOKEN = 4
MARKED_TOKENS_MIN = 1024
"""A prompt shorter than this is not written to the cache, marks or not."""
MARKS_KNOWN_MAX = 4096


class Mark(Struct, frozen=True, gc=False):
    """A place in a prompt: what comes before it, how long that is, and how long to keep it."""

    digest: bytes
    tokens: int
    for_an_hour: bool


class Marked(Struct, frozen=True, gc=False):
    """What a marked prompt reads from the cache and writes to it, in tokens."""

    read: int = 0
    written: int = 0
    written_1h: int = 0


class PromptCache:
    """Remembers the last prompt under each key."""

    def __init__(self) -> None:
        self._prompts: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()
        self._marks: OrderedDict[tuple[str, str, bytes], None] = OrderedDict()

    def cached_tokens(self, key: tuple[str, str, str], prompt: bytes, prompt_tokens: int) -> int:
        """Return how many tokens of the prompt were there before, and remember the prompt."""
        prompt = prompt[:PROMPT_BYTES_MAX]
        before = self._prompts.pop(key, b"")
        self._prompts[key] = prompt
        if len(self._prompts) > PROMPTS_MAX:
            self._prompts.popitem(last=False)
        common = min(_common_prefix(before, prompt) // _BYTES_PER_TOKEN, prompt_tokens - 1)
        return max(0, common // BLOCK_TOKENS * BLOCK_TOKENS)

    def marked(self, key: str, model: str, marks: tuple[Mark, ...], prompt_tokens: int) -> Marked:
        """Return what a prompt reads and writes, and remember what it wrote."""
        able = [mark for mark in marks if mark.tokens >= MARKED_TOKENS_MIN]
        if not able:
            return Marked()
        read = max((m.tokens for m in able if (key, model, m.digest) in self._marks), default=0)
        hour = max((mark.tokens for mark in able if mark.for_an_hour), default=0)
        last = max(mark.tokens for mark in able)
        read, hour, last = (min(tokens, prompt_tokens - 1) for tokens in (read, hour, last))
        for mark in able:
            self._marks[key, model, mark.digest] = None
            if len(self._marks) > MARKS_KNOWN_MAX:
                self._marks.popitem(last=False)
        return Marked(read, last - max(read, hour), max(0, hour - read))

    def clear(self) -> None:
        """Forget everything."""
        self._prompts.clear()
        self._marks.clear()


def _common_prefix(one: bytes, other: bytes) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
