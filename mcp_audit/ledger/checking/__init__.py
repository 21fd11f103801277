"""Is a log intact? From the files on the disk to one verdict."""
