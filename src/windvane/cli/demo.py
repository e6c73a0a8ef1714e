"""`windvane demo`: gateway and simulated provider in one process; no key, nothing kept.

With a real provider's key set it is the real thing: the simulator stays away.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import click
import msgspec

from windvane.assembly import in_memory, snapshot_of
from windvane.cli.configuration import read_config
from windvane.cli.serving import run
from windvane.config import Config
from windvane.config.routes import AUTO, leads_on
from windvane.config.schema import KeyConfig, ProviderConfig
from windvane.gateway.data_plane.models import public_names
from windvane.simulator import Simulator, SimulatorConfig

SIMULATED = SimulatorConfig(ttft_ms=120.0, tokens_per_s=80.0, jitter=0.4)
"""A middling provider: people should see a stream stream."""


@click.command("demo")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [default: 8000]")
@click.option("--config", "path", type=click.Path(path_type=Path), help="Path of windvane.yaml.")
def command(host: str | None, port: int | None, path: Path | None) -> None:
    """Run the gateway with a simulated provider; no key needed.

    A key of a real provider in the environment is used instead, and then the ledger is kept.
    """
    config = read_config(path)
    config = msgspec.structs.replace(
        config, host=host or config.host, port=config.port if port is None else port
    )
    key = f"sk-demo-{secrets.token_hex(12)}"
    auth = msgspec.structs.replace(
        config.auth, keys=(*config.auth.keys, KeyConfig(key=key, name="demo")), open_metrics=True
    )
    config = msgspec.structs.replace(config, auth=auth)
    is_simulated = not config.providers
    run(
        config,
        lambda address, _: _announce(address, key, config, is_simulated),
        _simulated if is_simulated else nullcontext,
    )


@asynccontextmanager
async def _simulated(config: Config) -> AsyncIterator[Config]:
    """The configuration with a simulator, started here, as its providers."""
    simulator = Simulator(SIMULATED)
    await simulator.start()
    providers = {
        "mistral": ProviderConfig(api_base=f"{simulator.url}/v1", api_key="simulated"),
        "openai": ProviderConfig(api_base=f"{simulator.url}/openai/v1", api_key="simulated"),
        "anthropic": ProviderConfig(api_base=f"{simulator.url}/anthropic/v1", api_key="simulated"),
    }
    try:
        yield in_memory(msgspec.structs.replace(config, providers=providers))
    finally:
        await simulator.stop()


def _announce(address: str, key: str, config: Config, is_simulated: bool) -> None:
    what = (
        "simulated providers (no money is spent)" if is_simulated else ", ".join(config.providers)
    )
    model = AUTO if is_simulated else _served(config)
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "What is a windvane?"}}]}}'
    click.echo(f"""
windvane on {address}  with {what}
key: {key}

Try it:

  curl -s {address}/v1/chat/completions -H "Authorization: Bearer {key}" -H "Content-Type: application/json" -d '{body}'

Point an SDK at it:

  OpenAI(base_url="{address}/v1", api_key="{key}")
  Mistral(server_url="{address}", api_key="{key}")

API: {address}/docs   metrics: {address}/metrics   stop: Ctrl-C
""")  # noqa: E501 - a command line is pasted whole
    if is_simulated:
        click.echo("For the real thing: export MISTRAL_API_KEY=... and run this again.\n")


def _served(config: Config) -> str:
    """What to ask for: `auto`, unless nobody of those configured serves what it leads to."""
    snapshot = snapshot_of(config)
    route, _ = snapshot.routes.routes[AUTO]
    if leads_on(route, snapshot.deployments):
        return AUTO
    models = [name for name in public_names(snapshot) if name not in snapshot.routes]
    return models[0] if models else AUTO
