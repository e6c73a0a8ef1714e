"""Tables for people: whole, and a row a line, where there is no terminal to measure; in one that is
narrow, folded. Nothing is cut off."""

from typing import Any

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table


class _Table(Table):
    """One whose cells show what is in them: a name with signs that turn a line round does not."""

    def add_row(self, *cells: RenderableType | None, **style: Any) -> None:
        super().add_row(*map(_seen, cells), **style)


def _seen(cell: RenderableType | None) -> RenderableType | None:
    if not isinstance(cell, str) or cell.isprintable():
        return cell
    return "".join(sign if sign.isprintable() or sign == "\n" else "?" for sign in cell)


def plain_table(title: str | None = None) -> Table:
    return _Table(title=title, box=None, pad_edge=False)


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
