"""The errors a person can act on: their message is all that the screen shows."""


class LineError(ValueError):
    """A stage stops the line over the user's data, config or gates; the message names the culprit and the way out."""


def root_cause(error: BaseException) -> BaseException:
    """The LineError that a stage raised, from under what Beam and TFX wrapped around it; else the error itself."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        if isinstance(current, LineError):
            return current
        current = current.__cause__ or current.__context__
    return error
