"""Who serves models: one provider a file, one line in the table."""

from windvane.providers import anthropic, compatible, mistral, openai
from windvane.providers.provider import Provider

PROVIDERS: dict[str, Provider] = {
    provider.kind: provider
    for provider in (mistral.PROVIDER, openai.PROVIDER, anthropic.PROVIDER, compatible.PROVIDER)
}
"""Every kind of provider that configuration may name."""

__all__ = ["PROVIDERS", "Provider"]
