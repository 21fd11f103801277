"""Bytes <-> meaning, no I/O: framing, parsing, ambiguity, correlation, and our own errors."""
