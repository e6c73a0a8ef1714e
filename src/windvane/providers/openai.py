"""OpenAI: `api.openai.com`.

Quirks: models from GPT-5 on refuse sampling parameters; and a request that names no service tier is
served in its project's, which may be a dearer one, so one is always named.
"""

from windvane.core.deployment import Billing
from windvane.core.free_fields import FREE_FIELDS
from windvane.providers import fault_map
from windvane.providers.provider import Provider
from windvane.wire import chat_reply, openai_chat

PROVIDER = Provider(
    kind="openai",
    # The flex tier and batches are half price; what the priority tier costs is not in our sources.
    billing=Billing(
        tiers_permille={"flex": 500},
        # Any other is told to whoever is at `api_base`, though OpenAI itself would refuse it.
        free_fields=FREE_FIELDS | openai_chat.UNKNOWN_TO_OPENAI,
        batch_permille=500,
        hides_reasoning=True,
    ),
    encode_chat=openai_chat.encode_chat_for_openai,
    decode_chat=chat_reply.decode_completion,
    read_stream=chat_reply.ChatStreamReader,
    classify=fault_map.classify,
    api_base="https://api.openai.com/v1",
    key_variable="OPENAI_API_KEY",
    serves_catalog="openai",
)
