"""Which rows of a provider's table of fields a request's names call for, and in what order."""

from collections.abc import Callable, Mapping

Translate = Callable[[object], object]
Table = Mapping[str, tuple[str, Translate]]
"""What the caller says -> what the provider is told, and how; later rows win over earlier ones."""

KEPT_MAX = 1_024
NAMES_CHARS_MAX = 1_024


class Rows(dict[tuple[str, ...], list[tuple[str, str, Translate]]]):
    """A body's names, in the caller's order -> their rows, in the table's.

    Callers say the same names again and again: what was found once is kept, within bounds.
    """

    def __init__(self, table: Table) -> None:
        super().__init__()
        self._table = table

    def __missing__(self, names: tuple[str, ...]) -> list[tuple[str, str, Translate]]:
        said = frozenset(names)
        rows = [(name, told, how) for name, (told, how) in self._table.items() if name in said]
        if sum(map(len, names)) <= NAMES_CHARS_MAX:
            if len(self) >= KEPT_MAX:
                self.clear()
            self[names] = rows
        return rows
