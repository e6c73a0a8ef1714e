"""Short, sensible sentences about whatever the prompt was about.

A reader of a demo should see an answer, not noise, and a test should see the prompt's own words
come back. So sentences are templates around the longer words of the last user message.
"""

import re

from windvane.simulator.dice import Dice

WORDS_MAX = 20_000
"""Words written when a prompt asks for a length; about 130 kB."""
TOPICS_MAX = 6
PROMPT_TAIL = 1000
"""Characters of the prompt that are searched for topics, from its end."""

_WORD = re.compile(r"[^\W\d_]{4,}")
_LENGTH = re.compile(r"\b(\d{1,6})[ -]words?\b", re.IGNORECASE)
_GREETING = re.compile(r"\s*(?:hello|hi|hey|good (?:morning|evening)|bonjour)\b", re.IGNORECASE)

_COMMON = frozenset(
    "about above after again also answer been before being below between both briefly could does"
    " doing down during each explain few from further have having here into just like list make"
    " more most need only other over please same should some such sure tell than that them then"
    " there these they this those through under until using very want were what when where which"
    " while will with word words would write your".split()
)

_OPENINGS = (
    "Here is a short answer about {a}.",
    "Let us look at {a} and {b}.",
    "{A} is best understood step by step.",
    "The question of {a} has a simple core.",
    "In short, {a} depends on {b}.",
    "{A} comes up more often than one might think.",
)
_MIDDLES = (
    "The first thing to know is how {a} relates to {b}.",
    "People who work with {a} usually begin with {b}.",
    "There are two views of {a}, and both mention {b}.",
    "Without {b}, {a} would look quite different.",
    "A good example of {a} is found wherever {b} matters.",
    "It helps to keep {a} apart from {b} at the start.",
    "Careful measurements of {a} tend to agree with this.",
    "Most of the cost of {a} comes from {b}.",
)
_CLOSINGS = (
    "That is the essence of {a}.",
    "For more on {b}, ask a narrower question.",
    "In practice, start small and watch {a} closely.",
    "The rest follows from {b}.",
)
_PLAIN = (
    "clear small green quiet early steady bright river garden letter window signal harbor market"
    " engine lantern meadow compass ladder"
).split()
_FALLBACK_TOPICS = ("the subject", "its details")


def phrase(dice: Dice, words: int) -> str:
    """Return a few plain words, for fields the prompt says nothing about."""
    return " ".join(dice.pick(_PLAIN) for _ in range(words))


def topics_of(text: str) -> list[str]:
    """Return the words of a prompt worth talking about, in order, none twice."""
    found: dict[str, None] = {}
    for word in _WORD.findall(text[-PROMPT_TAIL:]):
        lowered = word.lower()
        if lowered not in _COMMON:
            found[lowered] = None
            if len(found) == TOPICS_MAX:
                break
    return list(found)


def answer_to(text: str, dice: Dice) -> str:
    """Return an answer of three to five sentences, or of as many words as the prompt asks for."""
    asked = _LENGTH.search(text)
    if asked:
        return _of_length(text, dice, min(int(asked.group(1)), WORDS_MAX))
    topics = topics_of(text)
    if len(topics) < 2 and _GREETING.match(text):
        return f"Hello! How can I help you today? {_sentence(_CLOSINGS, topics, dice)}"
    parts = [_sentence(_OPENINGS, topics, dice)]
    parts += [_sentence(_MIDDLES, topics, dice) for _ in range(1 + dice.below(3))]
    parts.append(_sentence(_CLOSINGS, topics, dice))
    return " ".join(parts)


def thoughts_about(text: str, dice: Dice) -> str:
    """Return what a model might think before it answers."""
    topics = topics_of(text)
    subject = " and ".join(topics[:2]) or "something simple"
    return f"The user asks about {subject}. {_sentence(_MIDDLES, topics, dice)} I can answer now."


def report_of(result: str, name: str) -> str:
    """Return an answer that uses a tool's result."""
    source = f"the {name} tool" if name else "the tool"
    return f"According to {source}, the result is: {result}"


def code_after(prompt: str, dice: Dice) -> str:
    """Return a plausible continuation of a piece of code."""
    name = dice.pick(_PLAIN)
    if prompt.rstrip().endswith(":"):
        return f"    {name} = prepare()\n    return {name}\n"
    return f"{name} = prepare()\nprint({name})\n"


def _of_length(text: str, dice: Dice, words: int) -> str:
    topics = topics_of(text)
    written: list[str] = []
    while len(written) < words:
        written += _sentence(_MIDDLES, topics, dice).split()
    return " ".join(written[:words])


def _sentence(templates: tuple[str, ...], topics: list[str], dice: Dice) -> str:
    first, second = _FALLBACK_TOPICS
    if topics:
        first = dice.pick(topics)
    if len(topics) > 1:
        second = topics[(topics.index(first) + 1) % len(topics)]
    return dice.pick(templates).format(a=first, b=second, A=first[:1].upper() + first[1:])
