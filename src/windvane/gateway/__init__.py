"""The HTTP door: two planes on one port."""
