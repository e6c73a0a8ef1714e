"""LangChain's own conformance suite for chat models, through the gateway, with `auto` and with GPT-6.

The suite fetches pictures and documents from the internet; here it gets them from this file.
Of the whole suite only `test_stream_time` is not run: it measures a recording, and there is none.
"""

import base64
import inspect
from types import SimpleNamespace

import httpx
import openai
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_mistralai import ChatMistralAI
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests, chat_models

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

pytestmark = [
    # One loop for all: both chat models keep one asynchronous HTTP client for the process.
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:The test .* is marked with:pytest.PytestWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def fails(reason, raises):
    """A test of the suite that must fail, how, and why."""

    def mark(test):
        def again(self, model):
            test(self, model)

        async def again_async(self, model):
            await test(self, model)

        expected = again_async if inspect.iscoroutinefunction(test) else again
        return pytest.mark.xfail(reason=reason, raises=raises, strict=True)(expected)

    return mark


no_audio = fails(
    "neither a model of the route auto nor GPT-6 takes audio; Voxtral, asked for by name, does",
    (openai.BadRequestError, httpx.HTTPStatusError),
)
own_name = fails(
    "ChatMistralAI reports the model it was made with, not the one that answered", AssertionError
)
raw_blocks = fails(
    "ChatMistralAI sends LangChain's own content blocks, which no provider takes",
    httpx.HTTPStatusError,
)
SUITE = ChatModelIntegrationTests


class _Through(ChatModelIntegrationTests):
    """The suite against the gateway, with all it can be told to try."""

    @pytest.fixture(autouse=True)
    def _gateway(self, surface, monkeypatch):
        type(self)._surface = surface
        fetched = SimpleNamespace(content=PNG)
        monkeypatch.setattr(chat_models.httpx, "get", lambda *_, **__: fetched)

    @property
    def chat_model_params(self):
        return {
            "model": "auto",
            "base_url": f"{self._surface.url}/v1",
            "api_key": self._surface.key,
            "max_retries": 1,
        }

    model_override_value = "mistral-large-latest"
    supports_json_mode = True
    supports_image_inputs = True
    supports_image_urls = True
    supports_image_tool_message = True
    supports_anthropic_inputs = True
    supports_pdf_inputs = True
    supports_pdf_tool_message = True
    supports_audio_inputs = True

    test_audio_inputs = no_audio(SUITE.test_audio_inputs)


class TestChatOpenAI(_Through):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI


class TestChatOpenAIWithAModelItWouldAskElsewhere(_Through):
    """For a name that begins with `gpt-6`, and tools, the class turns to the Responses API."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self):
        return {**super().chat_model_params, "model": "gpt-6-luna", "use_responses_api": False}


class TestChatMistralAI(_Through):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatMistralAI

    test_invoke_with_model_override = own_name(SUITE.test_invoke_with_model_override)
    test_ainvoke_with_model_override = own_name(SUITE.test_ainvoke_with_model_override)
    test_image_tool_message = raw_blocks(SUITE.test_image_tool_message)
    test_pdf_tool_message = raw_blocks(SUITE.test_pdf_tool_message)
    test_anthropic_inputs = raw_blocks(SUITE.test_anthropic_inputs)
