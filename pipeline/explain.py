"""What `bertline explain` does: which words of a text the model's answer rests on."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from rich.table import Table
from rich.text import Text
from scipy import stats

from bertline.components import explainer
from bertline.components.labels import read_labels
from bertline.errors import UserError
from bertline.models import attributions, surrogate
from bertline.models.recipe import ModelOptions
from bertline.models.words import Reading
from bertline.pipeline import lineage, screen
from bertline.pipeline.config import Config
from bertline.pipeline.stages import Node

# LIME's default is 5,000, for texts of hundreds of words; so many take seconds on two cores.
LIME_SAMPLES, LIME_SEED = 500, 17
SHOWN_WORDS = 30  # the strongest, in the order of the text: a screenful
BAR_WIDTH = 12


Method = Literal["integrated-gradients", "lime", "both"]


@dataclass(frozen=True)
class Explanation:
    """What a run's model answers to a row, and why.

    Attributes:
      run_id: the run.
      texts: the text, and the second of a pair.
      labels: all of them.
      probabilities: float32 [labels].
      label: the explained one's index.
      reading: the row's words.
      gradients: integrated gradients; None where they were not asked for.
      lime: LIME's; None where it was not asked for.
    """

    run_id: str
    texts: list[str]
    labels: list[str]
    probabilities: np.ndarray
    label: int
    reading: Reading
    gradients: attributions.Attribution | None
    lime: surrogate.Surrogate | None

    @property
    def agreement(self) -> float | None:
        """Spearman's rank correlation of both methods' values, over the words that were read; None below three."""
        read = [bool(word.tokens) for word in self.reading.words]
        if self.gradients is None or self.lime is None or sum(read) < 3:
            return None
        return float(stats.spearmanr(self.gradients.values[read], self.lime.values[read]).statistic)


def explain(
    task: Config, text: str, pair: str | None, *, label: str | None, method: Method, run_id: str | None
) -> Explanation:
    """Asks the model that a run trained, pushed or not.

    Args:
      task: the task.
      text: the text.
      pair: the second text, for a model of text pairs.
      label: to be explained; None for the predicted one.
      method: one or both.
      run_id: None for the newest run with a model.

    Raises:
      UserError: no such run, label or pair, or no word to explain.
    """
    store, found = lineage.find(task, run_id, Node.EXPORTER)
    exporter = store.stage(found, Node.EXPORTER)
    (weights,) = store.stage(found, Node.TRAINER).outputs["weights"]
    (graph,) = store.stage(found, Node.TRANSFORM).outputs["transform_graph"]
    (model,) = exporter.outputs["model"]
    labels = read_labels(graph.uri)
    if label is not None and label not in labels:
        raise UserError(_unknown_label(label, labels))
    _check_pair(pair, explainer.is_paired(graph.uri))
    options = ModelOptions.model_validate_json(exporter.parameters["model_options"])
    asked = explainer.load(weights.uri, model.uri, options)
    reading = asked.read(text, pair)
    if not any(word.tokens for word in reading.words):
        raise UserError("the text has no word to explain: it is empty, or all white space.")
    (probabilities,) = asked.probabilities([reading])
    index = int(probabilities.argmax()) if label is None else labels.index(label)
    return Explanation(
        run_id=found,
        texts=[text] if pair is None else [text, pair],
        labels=labels,
        probabilities=probabilities,
        label=index,
        reading=reading,
        gradients=None if method == "lime" else asked.integrated_gradients(reading, [index])[0],
        lime=None
        if method == "integrated-gradients"
        else surrogate.lime(asked.probabilities, reading, index, samples=LIME_SAMPLES, seed=LIME_SEED),
    )


def _check_pair(pair: str | None, paired: bool) -> None:
    if paired and pair is None:
        raise UserError("this model reads text pairs: give the second text with --text-pair.")
    if pair is not None and not paired:
        raise UserError("this model reads single texts: --text-pair has no place.")


def _unknown_label(label: str, labels: list[str]) -> str:
    nearest = difflib.get_close_matches(label.lower(), [name.lower() for name in labels], n=1, cutoff=0.4)
    meant = next((name for name in labels if nearest and name.lower() == nearest[0]), None)
    listed = ", ".join(labels[:10]) + (f" and {len(labels) - 10} more" if len(labels) > 10 else "")
    return f"the model has no label {label!r}{f'; did you mean {meant!r}?' if meant else '.'} Its labels: {listed}."


# === What is shown ===


def as_dict(found: Explanation) -> dict[str, Any]:
    """The explanation for JSON; offsets count characters, `value` is null where a word was not read."""
    answer = {
        "run": found.run_id,
        "texts": found.texts,
        "predicted": found.labels[int(found.probabilities.argmax())],
        "probabilities": dict(zip(found.labels, map(float, found.probabilities), strict=True)),
        "label": found.labels[found.label],
    }
    if each := found.gradients:
        answer["integrated_gradients"] = {
            "score": each.score,
            "baseline": each.baseline,
            "residual": each.residual,
            "complete": each.complete,
            "words": _words(found, each.values),
        }
    if each := found.lime:
        answer["lime"] = {"fit": each.fit, "words": _words(found, each.values)}
    return answer | ({} if found.agreement is None else {"agreement": found.agreement})


def _words(found: Explanation, values: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "part": word.part,
            "start": word.start,
            "end": word.end,
            "word": found.texts[word.part][word.start : word.end],
            "value": float(value) if word.tokens else None,
        }
        for word, value in zip(found.reading.words, values, strict=True)
    ]


def show(found: Explanation, console: screen.Screen) -> None:
    """Prints the prediction, its words with what they add, and whether that adds up."""
    predicted = int(found.probabilities.argmax())
    console.print(Text(f"{found.labels[predicted]} {found.probabilities[predicted]:.3f}", style="bold"), end="")
    if found.label != predicted:
        console.print(Text(f"; {found.labels[found.label]} {found.probabilities[found.label]:.3f}"), end="")
    console.print(f"   (run {found.run_id})", style="dim")
    columns = [each.values for each in (found.gradients, found.lime) if each]
    console.print(_table(found, columns))
    unread = sum(not word.tokens for word in found.reading.words)
    if unread:
        console.print(f"  {unread} words were not read: past max_length, or nothing to the tokenizer", style="dim")
    for line in _notes(found):
        console.print(line)


def _table(found: Explanation, columns: list[np.ndarray]) -> Table:
    """The words in their order, the strongest of them where they are many."""
    read = [number for number, word in enumerate(found.reading.words) if word.tokens]
    strongest = sorted(sorted(read, key=lambda number: -abs(columns[0][number]))[:SHOWN_WORDS])
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    label = screen.excerpt(found.labels[found.label])
    table.add_column("  word", overflow="fold")
    names = [name for name, each in (("log-odds", found.gradients), ("LIME, probability", found.lime)) if each]
    for name in names:
        table.add_column(Text(f"{label}, {name}" if name == names[0] else name), justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
    for number in strongest:
        word = found.reading.words[number]
        cells = [Text(f"  {screen.excerpt(found.texts[word.part][word.start : word.end])}")]
        for values in columns:
            cells += _signed(values[number], np.abs(values).max())
        table.add_row(*cells)
    hidden = len(read) - len(strongest)
    if hidden:
        rest = [values[[number for number in read if number not in strongest]].sum() for values in columns]
        sums = [cell for value in rest for cell in (Text(f"{value:+.3f}"), Text(""))]
        table.add_row(Text(f"  {hidden} weaker words"), *sums, style="dim")
    return table


def _signed(value: float, largest: float) -> tuple[Text, Text]:
    """A value with its sign, and a bar of pluses or minuses: both read without colour."""
    style = "green" if value > 0 else "red"
    length = round(BAR_WIDTH * abs(value) / largest) if largest else 0
    return Text(f"{value:+.3f}", style=style), Text(("+" if value > 0 else "-") * length, style=style)


def _notes(found: Explanation) -> list[Text]:
    notes = []
    if each := found.gradients:
        difference = each.score - each.baseline
        notes.append(
            Text(
                f"  words {each.values.sum():+.3f} of the score's {difference:+.3f}: log-odds {each.baseline:.3f} with "
                f"every word blank, {each.score:.3f} with the text; missed {each.residual:+.3f}"
                + ("" if each.complete else f", more than {attributions.TOLERANCE:.0%}: take the words with care"),
                style="dim" if each.complete else "yellow",
            )
        )
    if each := found.lime:
        fit = f"  LIME: a linear model of {LIME_SAMPLES:,} samples without some of the words, R2 {each.fit:.2f}"
        agreement = "" if found.agreement is None else f"; both methods rank the words alike by {found.agreement:+.2f}"
        notes.append(Text(f"{fit}{agreement} (Spearman)" if agreement else fit, style="dim"))
    return notes
