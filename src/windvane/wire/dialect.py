"""The dialects a caller or a provider may speak."""

from enum import StrEnum


class Dialect(StrEnum):
    OPENAI = "openai"
    MISTRAL = "mistral"
