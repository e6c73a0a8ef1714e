"""OpenAI: `api.openai.com`. Quirk: models from GPT-5 on refuse sampling parameters."""

from windvane.core.deployment import Billing
from windvane.providers import fault_map
from windvane.providers.provider import Provider
from windvane.wire import openai_chat
from windvane.wire.dialect import Dialect

PROVIDER = Provider(
    kind="openai",
    # The flex tier is half price; what the priority tier costs is not in our sources.
    billing=Billing(tiers_permille={"flex": 500}, hides_reasoning=True),
    dialect=Dialect.OPENAI,
    encode_chat=openai_chat.encode_chat_for_openai,
    classify=fault_map.classify,
    api_base="https://api.openai.com/v1",
    key_variable="OPENAI_API_KEY",
    serves_catalog="openai",
)
