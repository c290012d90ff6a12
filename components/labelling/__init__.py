"""Which rows a person should label next, and the files that labelling tools read."""
