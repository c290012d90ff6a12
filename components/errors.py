"""Finds the error that a person can act on, under what Beam and TFX wrapped around it."""

import re

from bertline.errors import UserError

# Beam adds the step to the message, and a worker in another process sends only the text of its traceback.
STEP = re.compile(r" \[while running '[^']*'\]")
IN_TRACEBACK = re.compile(
    rf"^bertline\.errors\.{UserError.__name__}: (?P<message>.*?)"
    rf"(?:{STEP.pattern}|\n\nDuring handling of the above|\n\nThe above exception was|\s*\Z)",
    re.DOTALL | re.MULTILINE,
)

# Beam's message on a job that failed on another engine, before the engine's own traceback.
JOB = re.compile(r"Pipeline \S+ failed in state (?P<state>\w+): (?P<traceback>.*)", re.DOTALL)


def root_cause(error: BaseException) -> BaseException:
    """Unwraps the UserError that a stage raised, here or in a Beam worker, from what Beam and TFX put around it.

    Returns:
        that UserError; a new one if the engine gave a Beam job up; else the error itself.
    """
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        current = current.__cause__ or current.__context__
    for each in seen:
        if isinstance(each, UserError):
            return UserError(STEP.sub("", str(each))) if STEP.search(str(each)) else each
    for each in seen:
        if match := IN_TRACEBACK.search(str(each)):
            return UserError(match["message"])
    for each in seen:
        if match := JOB.match(str(each)):
            *_, last = ["unknown error", *re.findall(r"^\S.*", match["traceback"], re.MULTILINE)]
            return UserError(
                f"the Beam job ended as {match['state']} on its engine: {last} The engine's logs say more. If a worker "
                "was lost, run again: nothing half-done is left, and finished stages are cached."
            )
    return error


def in_words(error: BaseException) -> str:
    """The cause of an error in one sentence, for a person."""
    cause = root_cause(error)
    return str(cause) if isinstance(cause, UserError) else f"{type(cause).__name__}: {cause}"
