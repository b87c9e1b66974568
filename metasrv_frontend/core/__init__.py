"""Pure parts of the frontend: parsing, partitioning, routing, merging."""
