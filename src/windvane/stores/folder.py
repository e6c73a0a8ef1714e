"""What a folder says of its files, for good."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive power loss: a file that is synced alone may have none after it.
    Raises OSError."""
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
