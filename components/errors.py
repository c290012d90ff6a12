"""The errors a person can act on: their message is all that the screen shows."""


class LineError(ValueError):
    """A stage stops the line because of the user's data, config or gates. The message names the culprit and the way out."""
