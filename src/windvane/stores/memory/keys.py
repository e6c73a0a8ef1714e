"""Gateway keys in memory. Lost with the process."""

from collections.abc import Sequence

from windvane.core.keys import VirtualKey


class MemoryKeys:
    """Implements `KeyStore`."""

    def __init__(self) -> None:
        self._keys: dict[str, VirtualKey] = {}

    async def keys(self) -> Sequence[VirtualKey]:
        """All keys, by id."""
        return [key for _, key in sorted(self._keys.items())]

    async def put_key(self, key: VirtualKey) -> None:
        self._keys[key.id] = key
