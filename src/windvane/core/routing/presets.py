"""Ready-made routes, chosen by name.

`default` is the house's own. The four others reproduce the policies that users bring along:
`small-medium` and `small-large` are two-model routers by length and difficulty, `task` picks by kind
of task and language, `mux` spreads over three providers.
"""

from collections.abc import Callable, Mapping

from windvane.core.routing.table import Route, Rule

SMALL = "mistral-small-latest"
MEDIUM = "mistral-medium-latest"
LARGE = "mistral-large-latest"
CODE = "codestral-latest"

HARD = 0.5
"""Two reasoning words, or mathematics with one, or a long text with either. Short mathematics is told
apart by a rule of its own."""

LENGTH_THRESHOLD_CHARS = 120
SMALL_LARGE_THRESHOLD_CHARS = 100
LONG_CODE_TOKENS = 32_000


def default(length_threshold: int = LENGTH_THRESHOLD_CHARS) -> Route:
    """Tools to medium, code to Codestral, hard or mathematical to large, long to medium."""
    return Route(
        rules=(
            Rule(when={"tools": True}, use=MEDIUM, reason="tools"),
            Rule(when={"code": True}, use=CODE, reason="code"),
            Rule(when={"math": True}, use=LARGE, reason="mathematics"),
            Rule(when={"difficulty": {"gte": HARD}}, use=LARGE, reason="hard question"),
            Rule(
                when={"chars": {"gt": length_threshold}},
                use=MEDIUM,
                reason=f"longer than {length_threshold} characters",
            ),
        ),
        otherwise=SMALL,
        otherwise_reason="short and simple",
        fallbacks=(MEDIUM, LARGE, SMALL),
    )


def small_medium(length_threshold: int = LENGTH_THRESHOLD_CHARS) -> Route:
    """Small unless there are tools, a reasoning word, code, or length."""
    return Route(
        rules=(
            Rule(when={"tools": True}, use=MEDIUM, reason="tools"),
            Rule(when={"code": True}, use=MEDIUM, reason="code"),
            Rule(when={"reasoning_words": {"gte": 1}}, use=MEDIUM, reason="reasoning word"),
            Rule(
                when={"chars": {"gt": length_threshold}},
                use=MEDIUM,
                reason=f"longer than {length_threshold} characters",
            ),
        ),
        otherwise=SMALL,
        otherwise_reason="short and simple",
        fallbacks=(MEDIUM, SMALL),
    )


def small_large(length_threshold: int = SMALL_LARGE_THRESHOLD_CHARS) -> Route:
    """Small unless there are tools, a reasoning word, mathematics, or length."""
    return Route(
        rules=(
            Rule(when={"tools": True}, use=LARGE, reason="tools"),
            Rule(when={"math": True}, use=LARGE, reason="mathematics"),
            Rule(when={"reasoning_words": {"gte": 1}}, use=LARGE, reason="reasoning word"),
            Rule(
                when={"chars": {"gt": length_threshold}},
                use=LARGE,
                reason=f"longer than {length_threshold} characters",
            ),
        ),
        otherwise=SMALL,
        otherwise_reason="short and simple",
        fallbacks=(LARGE, SMALL),
    )


def task(length_threshold: int = LENGTH_THRESHOLD_CHARS) -> Route:
    """By kind of task and language: very long code to the longest window, French, German and
    Spanish to large."""
    return Route(
        rules=(
            Rule(
                when={"code": True, "input_tokens": {"gt": LONG_CODE_TOKENS}},
                use=("mistral-large-4", LARGE),
                reason="long code",
            ),
            Rule(when={"tools": True}, use=MEDIUM, reason="tools"),
            Rule(when={"images": True}, use=MEDIUM, reason="images"),
            Rule(when={"code": True}, use=CODE, reason="code"),
            Rule(when={"math": True}, use=LARGE, reason="mathematics"),
            Rule(when={"difficulty": {"gte": HARD}}, use=LARGE, reason="hard question"),
            Rule(
                when={"language": ["fr", "de", "es"], "chars": {"gt": length_threshold}},
                use=LARGE,
                reason="French, German or Spanish",
            ),
            Rule(
                when={"chars": {"gt": length_threshold}},
                use=MEDIUM,
                reason=f"longer than {length_threshold} characters",
            ),
        ),
        otherwise=SMALL,
        otherwise_reason="short and simple",
        fallbacks=(MEDIUM, LARGE, SMALL),
    )


def mux(length_threshold: int = LENGTH_THRESHOLD_CHARS) -> Route:
    """Three providers: each rule names one model of each; whichever is configured serves."""
    return Route(
        rules=(
            Rule(when={"tools": True}, use=("gpt-6.1-terra", MEDIUM), reason="tools"),
            Rule(when={"code": True}, use=(CODE, "claude-sonnet-5-5"), reason="code"),
            Rule(when={"math": True}, use=("gpt-6.1-sol", LARGE), reason="mathematics"),
            Rule(
                when={"difficulty": {"gte": HARD}},
                use=("claude-sonnet-5-5", LARGE, "gpt-6.1-sol"),
                reason="hard question",
            ),
            Rule(
                when={"chars": {"gt": length_threshold}},
                use=(LARGE, "claude-haiku-5-5", "gpt-6-luna"),
                reason=f"longer than {length_threshold} characters",
            ),
        ),
        otherwise=(SMALL, "gpt-6-luna", "claude-haiku-5-5"),
        otherwise_reason="short and simple",
        fallbacks=(MEDIUM, LARGE, SMALL, "gpt-6.1-terra", "claude-sonnet-5-5"),
    )


PRESETS: Mapping[str, Callable[..., Route]] = {
    "default": default,
    "small-medium": small_medium,
    "small-large": small_large,
    "task": task,
    "mux": mux,
}

USUAL_PRESETS = ("default", "mux")
"""Those to choose from where none is named: the house's own, and one for whoever has no key of Mistral."""
