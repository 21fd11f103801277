"""Client <-> HTTP upstream: a listener, the rules of an intermediary, and a pool of connections."""
