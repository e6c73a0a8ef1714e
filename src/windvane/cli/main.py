"""`windvane`: the command group. Commands are loaded when called, so that `--version` is instant."""

import sys
from importlib import import_module

import click

from windvane._version import __version__

COMMANDS = {
    "serve": "Run the gateway.",
    "demo": "Run the gateway with a simulated provider; no key needed.",
    "simulator": "Run the provider simulator alone.",
    "check": "Check a configuration; print every problem.",
    "explain": "Show which model a prompt would go to, and why.",
    "models": "List models, prices and abilities.",
    "cache": "Look at the cache of answers, or take answers back.",
    "prices": "Check prices: unknown, old, of models that end.",
    "keys": "Make, list, change, rotate and revoke gateway keys.",
    "usage": "Show what was used, by whom, when and for what.",
    "budgets": "Show how every budget stands.",
    "reload": "Have a running gateway read its configuration again.",
    "ledger": "Check the ledger's sums against its entries, or make them anew.",
}
"""Command -> what it is for; each is `windvane.cli.<name>.command`."""

EXIT_FAILED = 1
EXIT_USAGE = 2


class _Lazy(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = import_module(f"windvane.cli.{name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="windvane")
def windvane() -> None:
    """A gateway between applications and language models.

    Routes each request to the cheapest model that will do, and accounts for every nano-dollar.
    """


def main() -> None:
    """Run the command line; the exit status is 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        windvane.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_FAILED)
