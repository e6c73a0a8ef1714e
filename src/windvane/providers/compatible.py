"""Any server that speaks OpenAI's dialect: vLLM, llama.cpp, Ollama and others.

It has no address and no models of its own: configuration gives both.
"""

from windvane.providers import fault_map
from windvane.providers.provider import Provider
from windvane.wire import chat_reply, openai_chat

PROVIDER = Provider(
    kind="compatible",
    encode_chat=openai_chat.encode_chat,
    decode_chat=chat_reply.decode_completion,
    read_stream=chat_reply.ChatStreamReader,
    classify=fault_map.classify,
)
