"""How many tokens a request will use, about: what rates take for it before that is known.

Its input is as analyzed. Its answer is as long as it may be, where the caller or the key says so. Else it
is as long as the longest of late that the same key was given by the same model: it rises at once to an
answer that was longer, and falls an eighth of the way to each that was shorter. A key that has had none
yet begins with what the model gave others; a model that has given none, with 256 tokens.

So the first of many that come at once may use more than was taken for them, and are owed for it; those
after them are counted as what they are. Kept in memory, for as many as are named lately.
"""

from windvane.core.exchange import Exchange

OUTPUT_TOKENS_FIRST = 256
"""Of an answer of which nothing is known."""
FALL = 8
"""An answer that was shorter counts for one part in so many."""
EXPECTED_MAX = 10_000
"""Pairs of key and model, of a hundred bytes each or two; the eldest are forgotten first."""
EVERYBODY = ""
"""No key's id."""


class Expectations:
    """How long answers were, by who had asked and for which model."""

    __slots__ = ("_output",)

    def __init__(self) -> None:
        self._output: dict[tuple[str, str], int] = {}

    def tokens(self, exchange: Exchange) -> int:
        """About how many tokens the exchange will use."""
        analysis, request, principal = exchange.analysis, exchange.request, exchange.principal
        assert analysis is not None and principal is not None
        output, cap = request.output_tokens_max, principal.output_tokens_max
        if not output:  # zero is no limit to some servers
            output = cap or self._usual(principal.key_id, request.model)
        elif cap is not None and cap < output:
            output = cap
        return analysis.input_tokens + output * request.n

    def learn(self, exchange: Exchange) -> None:
        """The exchange is over: so long was its answer, if it was one that nobody had bounded."""
        principal, request = exchange.principal, exchange.request
        if request.output_tokens_max or principal is None or principal.output_tokens_max:
            return
        used = 0
        for attempt in exchange.attempts:
            if attempt.usage is not None and attempt.usage.output_tokens > used:
                used = attempt.usage.output_tokens
        if used:
            each = -(-used // request.n)
            self._learn(principal.key_id, request.model, each)
            self._learn(EVERYBODY, request.model, each)

    def _usual(self, key_id: str, model: str) -> int:
        found = self._output.get((key_id, model))
        if found is None:
            found = self._output.get((EVERYBODY, model), OUTPUT_TOKENS_FIRST)
        return found

    def _learn(self, key_id: str, model: str, output: int) -> None:
        usual = self._usual(key_id, model)
        if output < usual:
            output = usual - (usual - output + FALL - 1) // FALL
        if len(self._output) >= EXPECTED_MAX and (key_id, model) not in self._output:
            del self._output[next(iter(self._output))]
        self._output[key_id, model] = output
