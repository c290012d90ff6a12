"""Config, wiring, runners and the command line."""
