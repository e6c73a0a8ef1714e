"""The estimate beside known ratios of characters to tokens, and the bound above everything."""

import pytest

from windvane.core.analysis.tokens import SAMPLE_CHARS, estimate_tokens, tokens_upper_bound

EN = (
    "The committee met on Thursday to discuss the proposal, and although several members raised objections "
    "about the cost of the new building, the majority agreed that the old one could no longer be repaired. "
)
FR = (
    "Le gouvernement a annoncé hier une série de mesures destinées à soutenir les familles les plus "
    "modestes, alors que les prix de l'énergie continuent d'augmenter dans toute la région depuis "
    "le début de l'année. "
)
DE = (
    "Die Bundesregierung hat gestern beschlossen, die Förderung für erneuerbare Energien deutlich "
    "auszubauen, während mehrere Verbände vor den Folgen der steigenden Kosten "
    "für kleine Unternehmen warnten. "
)
ES = (
    "El ayuntamiento aprobó ayer un plan para mejorar el transporte público de la ciudad, aunque "
    "varios vecinos se quejaron de que las obras durarán más de dos años y "
    "afectarán a los comercios del centro. "
)
RU = (
    "Правительство объявило вчера о новых мерах поддержки семей, "
    "хотя цены на энергию продолжают расти во всём регионе. "
)
ZH = "政府昨天宣布了一系列新的措施来支持低收入家庭，但是整个地区的能源价格仍然在继续上涨。"
JA = (
    "政府は昨日、低所得の家庭を支援するための新しい措置を発表しましたが、"
    "エネルギー価格は上昇を続けています。"
)
KO = "정부는 어제 저소득 가정을 지원하기 위한 새로운 조치를 발표했지만 에너지 가격은 계속 오르고 있습니다. "
CODE = (
    "def merge(left: list[int], right: list[int]) -> list[int]:\n    result = []\n"
    "    while left and right:\n"
    "        source = left if left[0] <= right[0] else right\n        result.append(source.pop(0))\n"
    "    return result + left + right\n\n"
)
JSON = (
    '{"id":17,"name":"Ada","tags":["x","y"],'
    '"address":{"street":"Main","number":12,"zip":"02139"},"ok":true},'
)
DIGITS = "3141592653589793238462643383279502884197169399375105820974944592"

CHARS_PER_TOKEN = [
    ("en", EN, 5.46),
    ("fr", FR, 4.83),
    ("de", DE, 4.56),
    ("es", ES, 4.61),
    ("ru", RU, 4.05),
    ("zh", ZH, 1.13),
    ("ja", JA, 1.19),
    ("ko", KO, 1.88),
    ("code", CODE, 4.0),
    ("json", JSON, 2.3),
    ("digits", DIGITS, 1.0),
]
"""How many characters of such text make a token of the Tekken vocabulary."""

OFF_MAX = 0.35


@pytest.mark.parametrize(
    ("text", "chars_per_token"),
    [c[1:] for c in CHARS_PER_TOKEN],
    ids=[c[0] for c in CHARS_PER_TOKEN],
)
@pytest.mark.parametrize("times", [1, 40])
def test_the_estimate_is_within_a_third_of_the_usual_count(
    text: str, chars_per_token: float, times: int
) -> None:
    usual = len(text * times) / chars_per_token
    assert abs(estimate_tokens(text * times) / usual - 1) <= OFF_MAX


def test_a_long_text_is_judged_by_its_beginning_middle_and_end() -> None:
    words, digits = "word " * 2_000, "12345" * 2_000
    for text in (digits + words * 2, words + digits + words, words * 2 + digits):
        assert estimate_tokens(text) > estimate_tokens(words * 3) * 1.5
    assert len(words) > SAMPLE_CHARS


def test_nothing_is_no_token() -> None:
    assert estimate_tokens("") == 0


@pytest.mark.parametrize(
    ("body_bytes", "messages", "images", "tools"),
    [(0, 0, 0, 0), (100, 1, 0, 0), (10**6, 50, 8, 128)],
)
def test_the_bound_is_at_least_the_bytes_and_grows_with_each_part(
    body_bytes: int, messages: int, images: int, tools: int
) -> None:
    bound = tokens_upper_bound(body_bytes, messages, images, tools)
    assert bound >= body_bytes + 3_025 * images
    assert tokens_upper_bound(body_bytes, messages + 1, images, tools) > bound
    assert tokens_upper_bound(body_bytes, messages, images, tools + 1) > bound


@pytest.mark.parametrize("text", [text for _, text, _ in CHARS_PER_TOKEN])
def test_no_estimate_is_above_the_bound(text: str) -> None:
    assert estimate_tokens(text) <= tokens_upper_bound(len(text.encode()), 1, 0, 0)
