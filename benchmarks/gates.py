"""How often the gates that compare with the last blessed model err: `python -m benchmarks.gates`.

Draws test sets of two models whose true accuracies are known, and counts how often the config's default gates block.
Each row has a difficulty that both models share, so they are mostly wrong on the same rows, as two fits of one recipe
are; `disagreement` is the share of rows on which only one of them is right. Exits with 1 if a bar does not hold.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from benchmarks.peer import write_result
from bertline.components import gates
from bertline.components.answers import PREVIOUS, Answers
from bertline.components.options import GateOptions

DRAWS, ROWS = 200, 2000
CLASSES = ["negative", "neutral", "positive"]
SHARES = (0.41, 0.40, 0.19)  # of the labels, as in the demo's tweets
ACCURACY = 0.77  # of the last blessed model, the demo's
SLICES = {"small": 0.1, "middle": 0.3, "large": 0.6}  # shares of the rows
# Shares of rows that only one of two equally good models gets right: one assumption for two fits of one recipe, one for
# models that have less in common.
DISAGREEMENTS = (0.12, 0.20)


@dataclass(frozen=True)
class Scenario:
    """What is true of the candidate, and how often it must be blocked.

    Attributes:
      name: in words.
      loss: of accuracy on all rows.
      slice_loss: of accuracy, only on the rows of `slice`.
      slice: that slice, "" for none.
      most_blocked: the largest share of draws that may be blocked.
      least_blocked: the smallest share that must be.
    """

    name: str
    loss: float = 0.0
    slice_loss: float = 0.0
    slice: str = ""
    most_blocked: float = 1.0
    least_blocked: float = 0.0


SCENARIOS = (
    Scenario("as good", most_blocked=0.05),
    # Two figures are held to a certainty of 0.95 each; 200 draws are within some 4 points.
    Scenario("0.2 points worse", loss=0.002, most_blocked=0.10),
    Scenario("3 points worse", loss=0.03, least_blocked=0.90),
    Scenario("15 points worse on 30% of the rows", slice_loss=0.15, slice="middle", least_blocked=0.95),
)


def draw(scenario: Scenario, disagreement: float, generator: np.random.Generator) -> Answers:
    """A test set: the labels and slices of ROWS rows, and both models' answers to them."""
    labels = generator.choice(len(CLASSES), ROWS, p=SHARES)
    slices = generator.choice(list(SLICES), ROWS, p=list(SLICES.values()))
    loss = scenario.loss + scenario.slice_loss * (slices == scenario.slice)  # [rows]
    # Each model gets half of the rows that only one gets right; then the candidate loses some that both would get.
    lot = generator.random(ROWS)
    both, only_one = ACCURACY - disagreement / 2, disagreement / 2
    previous = lot < both + only_one
    candidate = (lot < both - loss) | ((lot >= both + only_one) & (lot < both + 2 * only_one))
    wrong = (labels + generator.integers(1, len(CLASSES), ROWS)) % len(CLASSES)
    predicted = np.where(candidate, labels, wrong)
    names = np.array(CLASSES)[np.where(previous, labels, wrong)]
    return Answers(
        CLASSES,
        labels,
        predicted,
        probabilities=np.eye(len(CLASSES), dtype=np.float32)[predicted],
        columns={PREVIOUS: names.tolist()},
        version="last",
        slices={name: slices == name for name in SLICES},
    )


def blocked(scenario: Scenario, disagreement: float, draws: int = DRAWS) -> list[list[gates.Verdict]]:
    """The blocking verdicts of each draw, from the default gates that compare with the last blessed model."""
    generator = np.random.default_rng(0)
    options = GateOptions(beats_majority=False)
    by_draw = []
    for _ in range(draws):
        verdicts = gates.judge_answers(draw(scenario, disagreement, generator), options)
        by_draw.append([verdict for verdict in verdicts if not verdict.passed])
    return by_draw


def main() -> int:
    """Prints and writes the rates; returns 1 where a bar does not hold."""
    figures, holds = [], True
    for disagreement in DISAGREEMENTS:
        print(f"{DRAWS} draws of {ROWS:,} rows, the models disagree on {disagreement:.0%} where nothing was lost")
        for scenario in SCENARIOS:
            by_draw = blocked(scenario, disagreement)
            rate = float(np.mean([bool(verdicts) for verdicts in by_draw]))
            named = float(
                np.mean([{verdict.slice for verdict in verdicts} - {""} == {scenario.slice} for verdicts in by_draw])
            )
            # The bars are for two fits of one recipe; models that disagree more take more rows to tell apart.
            fine = disagreement > DISAGREEMENTS[0] or scenario.least_blocked <= rate <= scenario.most_blocked
            holds &= fine
            aside = f", that slice and no other named {named:.1%}" if scenario.slice else ""
            print(f"  {scenario.name:36} blocked {rate:6.1%}{aside}{'' if fine else '  FAILS'}")
            figures.append({"scenario": scenario.name, "disagreement": disagreement, "blocked": rate, "named": named})
    write_result("gates", {"rates": figures})
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
