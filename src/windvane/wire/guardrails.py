"""What a guardrail may say: Mistral's moderation of what goes in and what comes out.

Only Mistral's models have them, so the names are exactly its own. A wrong one is refused: what a
guardrail was meant to block must not be let through because nobody knew the word for it.
"""

from typing import Literal

import msgspec


class _ThresholdsV1(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sexual: float | None = None
    hate_and_discrimination: float | None = None
    violence_and_threats: float | None = None
    dangerous_and_criminal_content: float | None = None
    selfharm: float | None = None
    health: float | None = None
    financial: float | None = None
    law: float | None = None
    pii: float | None = None


class _ThresholdsV2(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sexual: float | None = None
    hate_and_discrimination: float | None = None
    violence_and_threats: float | None = None
    dangerous: float | None = None
    criminal: float | None = None
    selfharm: float | None = None
    health: float | None = None
    financial: float | None = None
    law: float | None = None
    pii: float | None = None
    jailbreaking: float | None = None


class _Moderation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model_name: str | None = None
    ignore_other_categories: bool | None = None
    action: Literal["none", "block"] | None = None


class _ModerationV1(_Moderation, frozen=True, kw_only=True):
    custom_category_thresholds: _ThresholdsV1 | None = None


class _ModerationV2(_Moderation, frozen=True, kw_only=True):
    custom_category_thresholds: _ThresholdsV2 | None = None


class Guardrail(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    block_on_error: bool | None = None
    moderation_llm_v1: _ModerationV1 | None = None
    moderation_llm_v2: _ModerationV2 | None = None
