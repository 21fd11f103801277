"""Read the records of a log: all its files, either way, filtered, with an index where that pays."""
