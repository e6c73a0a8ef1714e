"""Which model answers: rules, the decision they lead to, and why."""
