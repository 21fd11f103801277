"""Thin shells that move bytes between descriptors; they decide nothing."""
