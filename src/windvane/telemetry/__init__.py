"""Observers that tell the outside: metrics, statistics, logs."""
