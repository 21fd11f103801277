"""Measurements, each beside a floor taken in the same run: the ratio travels between machines, the raw figure does not.

A benchmark is a module here with `run(quick) -> figures` and `table(figures) -> str`. None of them is a test, and no
test asserts a time.
"""
