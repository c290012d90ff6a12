"""Serving: the embedded server, the client, and the releases in a serving folder. Imports no other part of the line."""
