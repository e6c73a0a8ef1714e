"""`windvane serve`: the gateway, with the configured providers."""

from pathlib import Path

import click
import msgspec

from windvane import system
from windvane.cli.configuration import read_config
from windvane.cli.serving import Source, run
from windvane.config import Config, load_config
from windvane.config.resolve import is_loopback


@click.command("serve")
@click.option("--config", "path", type=click.Path(path_type=Path), help="Path of windvane.yaml.")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [default: 8000]")
@click.option("--insecure", is_flag=True, help="Listen beyond loopback without any key.")
def command(path: Path | None, host: str | None, port: int | None, insecure: bool) -> None:
    """Run the gateway."""
    read = read_config(path)
    config = msgspec.structs.replace(
        read,
        host=host or read.host,
        port=read.port if port is None else port,
        insecure=insecure or read.insecure,
    )
    if not config.providers:
        raise click.ClickException(
            "no provider is configured: set MISTRAL_API_KEY (or another's), name one in"
            " windvane.yaml, or try `windvane demo`, which needs no key"
        )
    run(
        config,
        lambda address, keys: _announce(address, config, keys),
        source=Source(read, lambda: load_config(system.environment(), path)),
    )


def _announce(address: str, config: Config, keys: int | None) -> None:
    click.echo(f"windvane on {address}  (docs at {address}/docs)")
    names, brought = ", ".join(config.providers), config.auth.passthrough
    if keys:
        known = f"{keys} key{'' if keys == 1 else 's'}"
    elif keys is None:
        where = "from loopback" if is_loopback(config.host) else "from anywhere (--insecure)"
        known = f"no key needed {where}"
    else:
        known = "no key that works, so every call is refused"
    if brought is not None:
        known = f"callers bring a key of {brought}'s" + (f", or one of {known}" if keys else "")
    click.echo(f"providers: {names}; {known}")
    if brought is None and keys is None:
        click.echo(
            "to close it make a key, `windvane keys create NAME`: from then on every call needs one"
        )
    elif brought is None and not keys:
        click.echo(
            "all keys are revoked or have expired; make one with `windvane keys create NAME`"
        )
