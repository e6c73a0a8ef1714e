"""The response cache, as far as it is pure: keys, entries, freshness."""
