"""Random faults against real processes, under writers whose acknowledgements are held against what is read back."""
