"""Tables for people: whole, and a row a line, where there is no terminal to measure, or far too many rows
for one; in a terminal that is narrow, folded. Nothing is cut off."""

from collections.abc import Iterator
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table

ROWS_FOLDED_MAX = 500
"""To fold a row takes a millisecond."""


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
    if not console.is_terminal or table.row_count > ROWS_FOLDED_MAX:
        click.echo("\n".join(_lines(table)))
        return
    for column in table.columns:
        column.overflow = "fold"
    console.print(table)


def _lines(table: Table) -> Iterator[str]:
    """The rows of a table, a line each."""
    columns = []
    for column in table.columns:
        footer = [column.footer] if table.show_footer else []
        cells = [str(cell).replace("\n", " ") for cell in (column.header, *column.cells, *footer)]
        widths = [cell_len(cell) for cell in cells]
        wide = max(widths)
        is_right = column.justify == "right"
        columns.append(
            [
                " " * (wide - width) + cell if is_right else cell + " " * (wide - width)
                for cell, width in zip(cells, widths, strict=True)
            ]
        )
    if table.title is not None:
        yield str(table.title)
    for row in zip(*columns, strict=True):
        yield "  ".join(row).rstrip()
