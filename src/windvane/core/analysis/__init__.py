"""What can be known of a request without asking anyone."""

from windvane.core.analysis.analyze import Analysis, analyze

__all__ = ["Analysis", "analyze"]
