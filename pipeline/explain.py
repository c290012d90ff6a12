"""`bertline explain`: which words of a text the model's answer rests on."""

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

# LIME's default of 5,000 is meant for texts of hundreds of words, and takes seconds on two cores.
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
        labels: of the model, all.
        probabilities: float32 [labels].
        label: the explained one's index.
        reading: the row's words.
        gradients: integrated gradients; None where only LIME was wanted.
        lime: LIME's; None where only integrated gradients were wanted.
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
    """Explains the answer of a run's model, which may be pushed or not.

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
    store, run_id = lineage.find(task, run_id, Node.EXPORTER)
    exporter = store.stage(run_id, Node.EXPORTER)
    gate = store.stage(run_id, Node.STUDENT_GATE)
    chosen = gate.outputs if gate else {}  # the student or the teacher; {} where nothing was compressed
    (weights,) = chosen.get("weights") or store.stage(run_id, Node.TRAINER).outputs["weights"]
    (graph,) = store.stage(run_id, Node.TRANSFORM).outputs["transform_graph"]
    (model,) = chosen.get("model") or exporter.outputs["model"]
    labels = read_labels(graph.uri)
    if label is not None and label not in labels:
        raise UserError(_unknown_label(label, labels))
    _check_pair(pair, explainer.is_paired(graph.uri))
    options = ModelOptions.model_validate_json(exporter.parameters["model_options"])
    loaded = explainer.load(weights.uri, model.uri, options, graph.uri)
    reading = loaded.read(text, pair)
    if not any(word.tokens for word in reading.words):
        raise UserError("the text has no word to explain: it is empty, or all white space.")
    (probabilities,) = loaded.probabilities([reading])
    index = int(probabilities.argmax()) if label is None else labels.index(label)
    return Explanation(
        run_id=run_id,
        texts=[text] if pair is None else [text, pair],
        labels=labels,
        probabilities=probabilities,
        label=index,
        reading=reading,
        gradients=None if method == "lime" else loaded.integrated_gradients(reading, [index])[0],
        lime=None
        if method == "integrated-gradients"
        else surrogate.lime(loaded.probabilities, reading, index, samples=LIME_SAMPLES, seed=LIME_SEED),
    )


def _check_pair(pair: str | None, paired: bool) -> None:
    if paired and pair is None:
        raise UserError("this model reads text pairs: give the second text with --text-pair.")
    if pair is not None and not paired:
        raise UserError("this model reads single texts: leave out --text-pair.")


def _unknown_label(label: str, labels: list[str]) -> str:
    nearest = difflib.get_close_matches(label.lower(), [name.lower() for name in labels], n=1, cutoff=0.4)
    meant = next((name for name in labels if nearest and name.lower() == nearest[0]), None)
    listed = ", ".join(labels[:10]) + (f" and {len(labels) - 10} more" if len(labels) > 10 else "")
    return f"the model has no label {label!r}{f'; did you mean {meant!r}?' if meant else '.'} Its labels: {listed}."


# === What is shown ===


def as_dict(explanation: Explanation) -> dict[str, Any]:
    """The explanation for JSON; offsets count characters, `value` is null where a word was not read."""
    answer = {
        "run": explanation.run_id,
        "texts": explanation.texts,
        "predicted": explanation.labels[int(explanation.probabilities.argmax())],
        "probabilities": dict(zip(explanation.labels, map(float, explanation.probabilities), strict=True)),
        "label": explanation.labels[explanation.label],
    }
    if gradients := explanation.gradients:
        answer["integrated_gradients"] = {
            "score": gradients.score,
            "reference": gradients.reference,
            "residual": gradients.residual,
            "complete": gradients.complete,
            "words": _words(explanation, gradients.values),
        }
    if lime := explanation.lime:
        answer["lime"] = {"fit": lime.fit, "words": _words(explanation, lime.values)}
    return answer | ({} if explanation.agreement is None else {"agreement": explanation.agreement})


def _words(explanation: Explanation, values: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "part": word.part,
            "start": word.start,
            "end": word.end,
            "word": explanation.texts[word.part][word.start : word.end],
            "value": float(value) if word.tokens else None,
        }
        for word, value in zip(explanation.reading.words, values, strict=True)
    ]


def show(explanation: Explanation, console: screen.Screen) -> None:
    """Prints the prediction, its words with what they add, and whether that adds up."""
    predicted = int(explanation.probabilities.argmax())
    console.print(
        Text(f"{explanation.labels[predicted]} {explanation.probabilities[predicted]:.3f}", style="bold"), end=""
    )
    if explanation.label != predicted:
        console.print(
            Text(f"; {explanation.labels[explanation.label]} {explanation.probabilities[explanation.label]:.3f}"),
            end="",
        )
    console.print(f"   (run {explanation.run_id})", style="dim")
    columns = [method.values for method in (explanation.gradients, explanation.lime) if method]
    console.print(_table(explanation, columns))
    unread = sum(not word.tokens for word in explanation.reading.words)
    if unread:
        console.print(f"  {unread} words were not read: past max_length, or nothing to the tokenizer", style="dim")
    for line in _notes(explanation):
        console.print(line)


def _table(explanation: Explanation, columns: list[np.ndarray]) -> Table:
    """The words in their order; of many, only the strongest."""
    read = [number for number, word in enumerate(explanation.reading.words) if word.tokens]
    strongest = sorted(sorted(read, key=lambda number: -abs(columns[0][number]))[:SHOWN_WORDS])
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    label = screen.excerpt(explanation.labels[explanation.label])
    table.add_column("  word", overflow="fold")
    by_name = {"log-odds": explanation.gradients, "LIME, probability": explanation.lime}
    names = [name for name, method in by_name.items() if method]
    for name in names:
        table.add_column(Text(f"{label}, {name}" if name == names[0] else name), justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
    for number in strongest:
        word = explanation.reading.words[number]
        cells = [Text(f"  {screen.excerpt(explanation.texts[word.part][word.start : word.end])}")]
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


def _notes(explanation: Explanation) -> list[Text]:
    notes = []
    if gradients := explanation.gradients:
        difference = gradients.score - gradients.reference
        incomplete = f", more than {attributions.TOLERANCE:.0%}: take the words with care"
        notes.append(
            Text(
                f"  words {gradients.values.sum():+.3f} of the score's {difference:+.3f}: log-odds "
                f"{gradients.reference:.3f} with every word blank, {gradients.score:.3f} with the text; missed "
                f"{gradients.residual:+.3f}{'' if gradients.complete else incomplete}",
                style="dim" if gradients.complete else "yellow",
            )
        )
    if lime := explanation.lime:
        fit = f"  LIME: a linear model of {LIME_SAMPLES:,} samples without some of the words, R2 {lime.fit:.2f}"
        rank = explanation.agreement
        agreement = "" if rank is None else f"; rank correlation of both methods {rank:+.2f} (Spearman)"
        notes.append(Text(f"{fit}{agreement}", style="dim"))
    return notes
