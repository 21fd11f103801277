"""A stdio client in front of an HTTP upstream. Opt-in, and named as what it is: a translation of transports."""
