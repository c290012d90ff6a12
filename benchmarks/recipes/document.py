"""docs/recipes.md: the part between its two marks is written from the results, the rest by people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

from benchmarks.recipes import methods, picture
from benchmarks.recipes.cells import Cell, cells_of
from benchmarks.recipes.results import Result
from bertline.errors import UserError
from bertline.pipeline.init.recipe import RULES

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NAMES = {methods.TFIDF: "TF-IDF", methods.PROBE: "probe", methods.TRANSFORMERS: "Transformers"}
LEVELS = ((0, 12), (12, 100), (100, 10**9))  # rows a label, for the question of the picture


def write(results: Iterable[Result], page: Path) -> None:
    """Writes the measured part of the page, and the picture beside it.

    Raises:
        UserError: the page lacks its marks.
    """
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise UserError(f"{page}: {BEGIN} and {END} are missing; the measured part goes between them")
    cells = cells_of(results)
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    page.write_text(f"{head}{BEGIN}\n{measured(cells, page.stem)}{END}{tail}", encoding="utf-8")
    page.with_suffix(".svg").write_text(picture.draw(cells) + "\n", encoding="utf-8")


def measured(cells: list[Cell], stem: str) -> str:
    """The measured part, in Markdown."""
    parts = [_rules(cells), _crossing(cells, stem), _verdicts(cells)]
    sets = dict.fromkeys(cell.set for cell in cells)
    parts += [_set([cell for cell in cells if cell.set == name]) for name in sets]
    return "\n".join(parts)


def _table(header: list[str], rows: Iterable[list[str]], numbers: int) -> str:
    """Markdown; the last `numbers` columns stand to the right."""
    line = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, line, *rows))


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


# === What init writes ===


def _rules(cells: list[Cell]) -> str:
    rows = []
    for rule in RULES:
        own = [cell for cell in cells if cell.rule == rule and cell.by_init in cell.results]
        leads = [found[1].value for cell in own if (found := cell.best_rival())]
        measured_on = ", ".join(f"{cell.set} {cell.size}" for cell in own) or "not measured"
        rows.append([rule.name, described(methods.name_of(methods.Recipe(rule.options))), measured_on, _mean(leads)])
    head = ["row", "`init` writes", "measured on", "mean lead, points"]
    return "## What `init` writes\n\n" + _table(head, rows, 1)


def _mean(values: list[float]) -> str:
    return _points(mean(values)) if values else "-"


def described(method: str) -> str:
    """Such as "full, 3 epochs, rate 1e-04"."""
    if method in NAMES:
        return NAMES[method]
    options, pooling, weights = methods.recipe_of(method)
    named = {"method", "seed", "tensorboard", "epochs", "learning_rate", "patience"}
    more = [f"{key} {value}" for key, value in options.model_dump(exclude_defaults=True, exclude=named).items()]
    more += [f"pooling {pooling}"] if pooling != "auto" else []
    more += [f"{weights} weights"] if weights != "english" else []
    if options.method == methods.PROBE:
        return ", ".join([NAMES[methods.PROBE], *more])
    epochs = f"{options.epochs} epoch{'s' if options.epochs > 1 else ''}"
    return ", ".join([options.method, *more, epochs, f"{options.learning_rate:g}"])


# === From how many rows does fine-tuning beat the probe? ===


def _crossing(cells: list[Cell], stem: str) -> str:
    lines = [line for least, most in LEVELS if (line := _level(cells, least, most))]
    answer = ""
    if lines:
        span, sets, above, below, _ = lines[0]
        answer = (
            f"From the fewest that were measured, {span} rows a label: from the probe's head it is above the probe on "
            f"{above} of {sets} sets, and below it on {below}.\n\n"
        )
    head = ["rows a label", "sets", "above the probe", "below it", "mean difference, points"]
    return (
        f"## From how many rows does fine-tuning beat the probe?\n\n{answer}"
        f"![What fine-tuning adds to the probe's accuracy, by training rows for each label]({stem}.svg)\n\n"
        + _table(head, lines, 4)
        + "\nAbove and below count sets where the difference is more than one standard error of the test rows.\n"
    )


def _level(cells: list[Cell], least: int, most: int) -> list[str]:
    """The line of the cells with so many rows a label; none where nothing was measured."""
    found = {}
    for cell in cells:
        method = picture.tuned(cell) if least <= cell.rows_a_label < most else None
        if method and (difference := cell.difference(method, cell.rivals[1])):
            found[cell.set, cell.size] = cell.rows_a_label, difference
    if not found:
        return []
    rows = sorted({round(each) for each, _ in found.values()})
    span = f"{rows[0]:,}" if len(rows) == 1 else f"{rows[0]:,} to {rows[-1]:,}"
    counts = Counter(difference.verdict for _, difference in found.values())
    lead = _mean([difference.value for _, difference in found.values()])
    return [span, str(len(found)), str(counts["above"]), str(counts["below"]), lead]


# === Where init's recipe is above and below ===


def _verdicts(cells: list[Cell]) -> str:
    rows, leads, complete = [], [], []
    for cell in cells:
        if not (found := cell.best_rival()):
            continue
        rival, difference = found
        missing = [described(name) for name in cell.rivals if name not in cell.results and name != cell.by_init]
        leads.append(difference.value)
        complete += [] if missing else [difference.value]
        against = described(rival) + (f" (no {', '.join(missing)})" if missing else "")
        own = [described(cell.by_init), f"{cell.mean(cell.by_init):.3f}", against]
        rows.append(
            [cell.set, cell.size, *own, _points(difference.value), f"{100 * difference.error:.1f}", difference.verdict]
        )
    head = ["set", "rows", "`init` writes", "accuracy", "best of the others", "difference", "standard error", "verdict"]
    counts = Counter(row[-1] for row in rows)
    summary = (
        f"Above the best of TF-IDF, probe and Transformers by more than a standard error: {counts['above']}; level: "
        f"{counts['level']}; below: {counts['below']}. Mean difference: {_mean(leads)} points over all {len(leads)}, "
        f"{_mean(complete)} over the {len(complete)} where all three were measured.\n"
    )
    return "## Where `init`'s recipe is above and below\n\n" + summary + "\n" + _table(head, rows, 3)


# === Each set ===


def _set(cells: list[Cell]) -> str:
    first = cells[-1].any
    rows = []
    for cell in cells:
        for method in sorted(cell.results, key=lambda method: (method not in cell.rivals, cell.mean(method))):
            weights, count = cell.results[method][0].weights, len(cell.results[method])
            mark = " *" if method == cell.by_init else ""
            figures = [_figure(cell, method, name) for name in ("accuracy", "macro_f1")]
            cost = [cell.seconds(method), "" if weights is None else f"{weights:,}", str(count)]
            rows.append([f"{cell.any.train_rows:,}", described(method) + mark, *figures, *cost])
    head = ["rows", "method", "accuracy", "macro-F1", "seconds", "weights trained", "seeds"]
    about = f"{first.labels} labels, {first.tokens} wordpieces a row (median), {first.test_rows:,} test rows.\n\n"
    return f"### {first.set}\n\n{about}" + _table(head, rows, 5)


def _figure(cell: Cell, method: str, figure: str) -> str:
    spread = cell.spread(method, figure)
    return f"{cell.mean(method, figure):.3f}" + ("" if spread is None else f" ± {spread:.3f}")
