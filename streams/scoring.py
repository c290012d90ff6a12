"""What the models of a stream answer to its texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bertline.components.scoring.models import REFUSED, Answers, Model, Scorer
from bertline.errors import UserError
from bertline.streams.texts import Refused, Text

DIGITS = 4  # of a stored probability


@dataclass(frozen=True)
class Named:
    """A model that scores the texts.

    Attributes:
        name: in the database.
        version: what answers, for people and for the rows.
        model: it.
        negative: labels whose share is watched.
        newer: what answers in its place by now; None while nothing does. Raises UserError where it cannot.
    """

    name: str
    version: str
    model: Model
    negative: Sequence[str] = field(default_factory=list)
    newer: Callable[[], Named | None] = field(default=lambda: None, compare=False)


class Scorers:
    """The models, loaded. Each text is answered by all of them, or goes to quarantine."""

    def __init__(self, models: Sequence[Named]):
        self.models = list(models)
        self._scorers: list[tuple[Named, Scorer]] = [(named, named.model.load()) for named in models]
        self._refused: dict[str, str] = {}  # why a newer version of a model was not taken up

    def answer(self, texts: Sequence[Text]) -> tuple[list[tuple[Text, dict[str, dict[str, Any]]]], list[Refused]]:
        """The texts with their answers by model; and those that a server refuses.

        Raises:
            UserError: a server does not answer.
        """
        if not texts:
            return [], []
        letters = [text.text for text in texts]
        answers = [(named, scorer.answer(letters, None)) for named, scorer in self._scorers]
        scored, refused = [], []
        for row, text in enumerate(texts):
            fault = next(((named, found.faults[row]) for named, found in answers if row in found.faults), None)
            if fault:
                detail = f"{fault[0].name}: {fault[1]}"
                refused.append(Refused(text.source, text.number, REFUSED, detail, text.text.encode()))
            else:
                scored.append((text, {named.name: _row(named, found, row) for named, found in answers}))
        return scored, refused

    def take_up_newer(self) -> list[str]:
        """Takes up the versions that have come since the last call.

        Returns:
            For people: a word on each, also on one that cannot be taken up, once. The one before stays then.
        """
        words = []
        for place, (named, scorer) in enumerate(self._scorers):
            try:
                newer = named.newer()
                loaded = newer and newer.model.load()
            except UserError as error:
                if self._refused.get(named.name) != str(error):
                    words.append(f"{named.name}: version {named.version} stays: {error}")
                self._refused[named.name] = str(error)
                continue
            self._refused.pop(named.name, None)
            if newer:
                scorer.close()
                self._scorers[place], self.models[place] = (newer, loaded), newer
                words.append(f"{named.name}: version {newer.version} takes over from {named.version}")
        return words

    def close(self) -> None:
        """Frees the models."""
        for _, scorer in self._scorers:
            scorer.close()


def labels(answer: Mapping[str, Any]) -> list[str]:
    """The labels that a stored answer gives: one, or any number where the model gives several."""
    return answer["labels"] if "labels" in answer else [answer["label"]]


def _row(named: Named, answers: Answers, row: int) -> dict[str, Any]:
    probabilities = zip(answers.classes, answers.probabilities[row].tolist(), strict=True)
    answer: dict[str, Any] = {
        "version": named.version,
        "probabilities": {c: round(p, DIGITS) for c, p in probabilities},
    }
    if answers.multi_label:
        answer["labels"] = list(answers.labels[row])
    else:
        answer["label"] = answers.labels[row][0]
    if answers.abstained is not None:
        answer["abstained"] = bool(answers.abstained[row])
    return answer
