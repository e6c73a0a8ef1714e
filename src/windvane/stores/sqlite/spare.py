"""How much of its disk the cache may take: the ledger is on the same one, and must find room."""

import os
import sys
from pathlib import Path

FREE_BYTES_MIN = 64 * 1024 * 1024
"""What is left free: four times the two segments that the journal takes, and the ledger's growth until
somebody looks."""
FREE_SHARE = 2
"""Of a disk that has not twice as much, this part is left free."""


def floor_bytes(disk_bytes: int) -> int:
    """What is left free of a disk of this size."""
    return min(FREE_BYTES_MIN, disk_bytes // FREE_SHARE)


def spare_bytes(folder: Path) -> int:
    """What may be taken yet of the disk that a folder is on; below zero, so much should be given back."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return sys.maxsize
    if not disk.f_blocks:
        return sys.maxsize  # it does not tell
    return disk.f_bavail * disk.f_frsize - floor_bytes(disk.f_blocks * disk.f_frsize)
