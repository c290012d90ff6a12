"""The errors a person can act on: their message is all that the screen shows."""


class LineError(ValueError):
    """A stage stops the line over the user's data, config or gates; the message names the culprit and the way out."""
