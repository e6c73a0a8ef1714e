"""Any server that speaks OpenAI's dialect: vLLM, llama.cpp, Ollama and others.

It has no address and no models of its own: configuration gives both.
"""

from windvane.providers import fault_map
from windvane.providers.provider import Provider
from windvane.wire import openai_chat
from windvane.wire.dialect import Dialect

PROVIDER = Provider(
    kind="compatible",
    dialect=Dialect.OPENAI,
    encode_chat=openai_chat.encode_chat,
    classify=fault_map.classify,
)
