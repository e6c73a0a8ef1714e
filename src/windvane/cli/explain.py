"""`windvane explain`: the decision for a prompt, without sending it."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from windvane import system
from windvane.assembly import snapshot_of
from windvane.cli.configuration import read_config
from windvane.config import Config, ConfigError
from windvane.config.schema import ProviderConfig
from windvane.core.analysis import Analysis, analyze
from windvane.core.chat import ChatRequest
from windvane.core.faults import WindvaneError
from windvane.core.routing.decide import decide
from windvane.core.routing.decision import Decision
from windvane.engine.telling import tellable
from windvane.gateway.data_plane.route import decision_object
from windvane.wire.chat_request import chat_request_of, decode_chat_request

_UNINTERESTING = (0, False, None, "", "latin")


@click.command("explain")
@click.argument("prompt", required=False)
@click.option("--model", default="auto", show_default=True, help="Route or model to ask for.")
@click.option(
    "--request", "file", type=click.File("rb"), help="A whole request, as JSON; - for stdin."
)
@click.option("--config", "path", type=click.Path(path_type=Path), help="Path of windvane.yaml.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as POST /v1/route answers.")
def command(
    prompt: str | None,
    model: str,
    file: BinaryIO | None,
    path: Path | None,
    as_json: bool,
) -> None:
    """Show which model a prompt would go to, and why.

    Nothing is sent. Without a configured provider, Mistral's models are taken as available.
    """
    config = read_config(path)
    if not config.providers:
        mistral = {"mistral": ProviderConfig(api_key="not-needed-to-explain")}
        config = msgspec.structs.replace(config, providers=mistral)
    try:
        if file is not None:
            request = decode_chat_request(file.read())
        else:
            text = prompt if prompt is not None else sys.stdin.read()
            messages = [{"role": "user", "content": text}]
            request = chat_request_of({"model": model, "messages": messages})
        analysis = analyze(request)
        decision = _decide(config, request, analysis)
    except WindvaneError as error:
        raise click.ClickException(error.fault.message) from error
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(msgspec.json.encode(decision_object(analysis, decision)))
    else:
        _show(analysis, decision)


def _decide(config: Config, request: ChatRequest, analysis: Analysis) -> Decision:
    snapshot, model = snapshot_of(config), request.model
    now = datetime.fromtimestamp(system.SystemClock().wall_us() / 1_000_000, UTC)
    decision = decide(
        model,
        analysis,
        routes=snapshot.routes,
        deployments=snapshot.deployments,
        catalog=snapshot.catalog,
        facts={"requested_model": model, "hour": now.hour, "weekday": now.weekday()},
        day=now.date(),
        is_available=lambda deployment: True,
    )
    return tellable(decision, request, snapshot.upstreams)


def _show(analysis: Analysis, decision: Decision) -> None:
    chosen = decision.candidates[0]
    rule = f", rule {decision.rule}" if decision.rule else ""
    route = f" (route {decision.route}{rule})" if decision.route else ""
    click.echo(f"{chosen.model} at {chosen.deployment.provider}")
    click.echo(f"because: {decision.reason}{route}")
    fallbacks = [candidate.model for candidate in decision.candidates[1:]]
    if fallbacks:
        click.echo(f"then:    {', '.join(fallbacks)}")
    for item in decision.ruled_out:
        click.echo(f"not:     {item.model} ({item.why})")
    seen = {
        name: value
        for name, value in msgspec.structs.asdict(analysis).items()
        if value not in _UNINTERESTING
    }
    click.echo("seen:    " + ", ".join(f"{name} {value}" for name, value in seen.items()))
