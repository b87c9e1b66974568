"""One command's writes: keeps the indexes, the audit trail and the lists of what it touched."""
