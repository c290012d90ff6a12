"""The users' files: which ones there are, and how each format is read."""
