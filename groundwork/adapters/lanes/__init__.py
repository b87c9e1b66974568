"""Log stores: lanes in object storage, or in files of a standalone's own disk."""
