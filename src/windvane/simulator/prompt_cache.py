"""Prompt caching as the provider does it: a repeated beginning is billed at the cached price.

A request with a cache key remembers its prompt; the next one under the same key is compared with
it, and the common beginning counts as cached in whole blocks of 64 tokens. The last token of a
prompt is never cached, since something must be computed.
"""

from collections import OrderedDict

BLOCK_TOKENS = 64
PROMPTS_MAX = 1024
"""Prompts remembered; the least recently used is forgotten first."""
PROMPT_BYTES_MAX = 1 << 20
"""Bytes of a prompt remembered: a bound on memory, far beyond what tests cache."""
_BYTES_PER_TOKEN = 4


class PromptCache:
    """Remembers the last prompt under each key."""

    def __init__(self) -> None:
        self._prompts: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()

    def cached_tokens(self, key: tuple[str, str, str], prompt: bytes, prompt_tokens: int) -> int:
        """Return how many tokens of the prompt were there before, and remember the prompt."""
        prompt = prompt[:PROMPT_BYTES_MAX]
        before = self._prompts.pop(key, b"")
        self._prompts[key] = prompt
        if len(self._prompts) > PROMPTS_MAX:
            self._prompts.popitem(last=False)
        common = min(_common_prefix(before, prompt) // _BYTES_PER_TOKEN, prompt_tokens - 1)
        return max(0, common // BLOCK_TOKENS * BLOCK_TOKENS)

    def clear(self) -> None:
        """Forget everything."""
        self._prompts.clear()


def _common_prefix(one: bytes, other: bytes) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
