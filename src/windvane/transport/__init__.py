"""Adapters that carry requests to providers."""
