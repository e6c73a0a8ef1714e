"""Tables for people: whole, and a row a line, where there is no terminal to measure; in one that is
narrow, folded. Nothing is cut off."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def plain_table(title: str | None = None) -> Table:
    return Table(title=title, box=None, pad_edge=False)


def terminal_width() -> int | None:
    """Columns of the terminal; None where there is none."""
    console = Console()
    return console.width if console.is_terminal else None


def print_table(table: Table) -> None:
    """Print a table; nothing in it is taken for markup."""
    console = Console(markup=False, highlight=False)
    for column in table.columns:
        column.overflow = "fold"
    if not console.is_terminal:
        wide = console.options.update(max_width=1_000_000)
        console.width = max(Measurement.get(console, wide, table).maximum, 1)
    console.print(table)
