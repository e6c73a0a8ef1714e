"""What a prompt plainly offers as arguments: numbers, quoted text, names, call syntax.

A model reads; the simulator looks for the few forms people use in tests and demos. Each kind of
hint is handed out once, in the order of the text, so that two parameters get two values.
"""

import re

_QUOTED = re.compile(
    r"\"([^\"\n]{1,200})\"|“([^”\n]{1,200})”|(?<!\w)'([^'\n]{1,200})'(?!\w)|`([^`\n]{1,200})`"
)
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w]|\.\d)")
_NAME = re.compile(r"(?<![.!?]\s)(?<!^)(?<!\w)[A-Z][\w'-]*(?:\s+[A-Z][\w'-]*)*(?:,\s+[A-Z]{2}\b)?")
_CAPITALS_AND_DIGITS = re.compile(r"\w+")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_URL = re.compile(r"https?://[^\s\"'<>]+")

TEXT_MAX = 4000
"""Characters of the prompt that are searched: hints stand near the question, at the end."""


class Hints:
    """The hints of one prompt; taking one uses it up."""

    def __init__(self, text: str) -> None:
        self.text = text[-TEXT_MAX:].strip()
        self._numbers: list[str] | None = None
        self._quoted: list[str] | None = None
        self._names: list[str] | None = None

    def take_number(self, *, whole: bool) -> float | int | None:
        """Return the next number, skipping fractions when a whole one is wanted."""
        if self._numbers is None:
            self._numbers = _NUMBER.findall(_DATE.sub(" ", self.text))
        for place, text in enumerate(self._numbers):
            if whole and "." in text:
                continue
            del self._numbers[place]
            return float(text) if "." in text else int(text)
        return None

    def take_quoted(self) -> str | None:
        """Return the next text in quotation marks."""
        if self._quoted is None:
            self._quoted = ["".join(groups) for groups in _QUOTED.findall(self.text)]
        return self._quoted.pop(0) if self._quoted else None

    def take_name(self) -> str | None:
        """Return the next run of capitalized words that does not merely begin a sentence."""
        if self._names is None:
            self._names = _NAME.findall(self.text)
        return self._names.pop(0) if self._names else None

    def value_for(self, name: str) -> str | None:
        """Return what the prompt says a parameter is: `name=x`, `name: x`, `name is x`."""
        said = re.search(
            rf"\b{re.escape(name).replace('_', '[ _]')}\s*(?:=|:|\bis\b|\bnamed\b)\s*"
            r"[\"'“]?([^\s,;\"'”()]+)",
            self.text,
            re.IGNORECASE,
        )
        return said.group(1).rstrip(".!?") if said else None

    def mentioned(self, options: list[str]) -> str | None:
        """Return the first option that stands in the prompt as a word."""
        lowered = self.text.lower()
        for option in options:
            if option and re.search(rf"(?<!\w){re.escape(option.lower())}(?!\w)", lowered):
                return option
        return None

    def email(self) -> str | None:
        """Return an address in the prompt."""
        return _first(_EMAIL, self.text)

    def date(self) -> str | None:
        """Return an ISO date in the prompt."""
        return _first(_DATE, self.text)

    def url(self) -> str | None:
        """Return a web address in the prompt."""
        return _first(_URL, self.text)


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found.group() if found else None
