"""The commands of metactl, by subject."""
