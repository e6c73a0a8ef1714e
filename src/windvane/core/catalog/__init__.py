"""The models that can be asked for, what they can do and what they cost, by date."""
