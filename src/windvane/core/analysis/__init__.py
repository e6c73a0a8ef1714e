"""What can be known of a request without asking anyone."""

from windvane.core.analysis.analyze import EVERYTHING, NOTHING, Analysis, analyze

__all__ = ["EVERYTHING", "NOTHING", "Analysis", "analyze"]
