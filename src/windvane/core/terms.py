"""Terms that are said at two places: what the nearer says goes first, the farther fills its gaps."""

from typing import TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)


def filled(near: T, far: T | None) -> T:
    """`near`, with what it leaves out taken from `far`."""
    if far is None or far is near:
        return near
    gaps = {
        field: getattr(far, field)
        for field in near.__struct_fields__
        if getattr(near, field) is None
    }
    return msgspec.structs.replace(near, **gaps)
