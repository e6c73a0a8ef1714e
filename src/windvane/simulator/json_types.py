"""Names for parsed JSON, which has no narrower type until a rule has looked at it."""

from typing import Any

JsonObject = dict[str, Any]
"""One parsed JSON object: whatever the caller sent."""

Json = Any
"""Any parsed JSON value."""
