"""Pure values and rules: no await, no clock, no dice, no I/O, no logging."""
