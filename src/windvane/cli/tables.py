"""Tables for people, whole also where there is no terminal to measure."""

from rich.console import Console
from rich.table import Table

WIDTH_ELSEWHERE = 160


def plain_table() -> Table:
    return Table(box=None, pad_edge=False)


def print_table(table: Table) -> None:
    """Print a table; nothing in it is taken for markup."""
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDTH_ELSEWHERE
    console.print(table)
