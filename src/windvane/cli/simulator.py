"""`windvane simulator`: the provider simulator by itself, for tests and load of your own."""

import asyncio
import os
import signal
from typing import Literal

import click
import uvloop

from windvane.simulator import Simulator, SimulatorConfig
from windvane.system import allow_open_files

OPEN_FILES = 20_000
"""A connection is one: load tests open thousands."""

LIMIT = click.IntRange(min=1)
"""Elsewhere here 0 means without bounds; as a limit it would refuse every request."""


@click.command("simulator")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=9100, show_default=True, type=click.IntRange(0, 65535))
@click.option("--seed", default=7, show_default=True, help="Same seed, same answers.")
@click.option("--ttft-ms", default=0.0, show_default=True, help="Time to the first token.")
@click.option("--tokens-per-s", default=0.0, show_default=True, help="0: as fast as it goes.")
@click.option("--jitter", default=0.0, show_default=True, help="Spread of the time to first token.")
@click.option("--requests-per-minute", type=LIMIT, help="Answer 429 above this, per key.")
@click.option("--tokens-per-minute", type=LIMIT, help="Answer 429 above this, per key.")
@click.option(
    "--abort-billing",
    default="stop",
    show_default=True,
    type=click.Choice(["stop", "run_to_end"]),
    help="What a caller who leaves pays: what was made so far, or the whole answer.",
)
def command(
    host: str,
    port: int,
    seed: int,
    ttft_ms: float,
    tokens_per_s: float,
    jitter: float,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    abort_billing: Literal["stop", "run_to_end"],
) -> None:
    """Run the provider simulator alone.

    It speaks Mistral's dialect at /v1, OpenAI's at /openai/v1 and Anthropic's at /anthropic/v1, accepts
    any key, keeps a bill at /_sim/bill, and fails on demand: a prompt with "!error 429" or "!cut 5" does
    what it says.
    """
    try:
        config = SimulatorConfig(
            seed=seed,
            ttft_ms=ttft_ms,
            tokens_per_s=tokens_per_s,
            jitter=jitter,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            abort_billing=abort_billing,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    allow_open_files(OPEN_FILES)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, host, port))


async def _serve(config: SimulatorConfig, host: str, port: int) -> None:
    simulator = Simulator(config)
    try:
        await simulator.start(host, port)
    except OSError as error:
        said = os.strerror(error.errno) if error.errno else error.strerror
        raise click.ClickException(
            f"cannot listen on {host}:{port} ({said}); choose another with --port or --host"
        ) from error
    click.echo(
        f"simulator on {simulator.url}  (Mistral: /v1, OpenAI: /openai/v1, Anthropic: /anthropic/v1,"
        " bill: /_sim/bill)"
    )
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    await simulator.stop()
