"""Where money and facts are kept: adapters of `ports.stores`, blind to each other."""
