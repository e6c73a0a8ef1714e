"""What the engine asks of the world: small Protocols, no code."""
