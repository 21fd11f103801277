"""Prove one entry to somebody who holds nothing but the verifier key."""
