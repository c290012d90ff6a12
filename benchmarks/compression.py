"""What students gain and lose against their teacher: `python -m benchmarks.compression configs/sentiment.yaml`.

For each seed a teacher is trained by the config's recipe, and each of the STUDENTS is made of it, by the stages of a
run that come before the evaluation. Figures are those of the StudentGate: both models answer the same test rows, in
turns. The students with fewer layers and of another family learn from those texts of the data, too, that the config's
limits leave out of all splits. A bench that was stopped goes on; a student that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from benchmarks import finished
from benchmarks.peer import RESULTS, write_result
from bertline.errors import UserError
from bertline.models.features import ROW_ID, SPLITS
from bertline.pipeline import config as configs
from bertline.pipeline import lineage, local_runner, stages
from bertline.pipeline.local_runner import RunFailed
from bertline.pipeline.stages import Node


class Student(NamedTuple):
    """A student, and its bars, None for none.

    Attributes:
        sections: of the config.
        learns: whether it is trained, and so reads the further texts.
        loses: the most accuracy that it may lose.
        faster: the least ratio of examples a second.
        bytes: the largest share of the teacher's.
        same: the least share of the test rows that keep their label.
    """

    sections: dict[str, Any]
    learns: bool = False
    loses: float | None = None
    faster: float | None = None
    bytes: float | None = None
    same: float | None = None


STUDENTS = {
    "layers": Student({"compress": {"layers": 3}}, learns=True, loses=0.01, faster=1.8),
    "static": Student({"compress": {"family": "static"}}, learns=True, loses=0.06, faster=50.0),
    "vocabulary": Student({"compress": {"vocabulary": "used"}}, loses=0.0, bytes=0.6),
    "int8": Student({"export": {"dtype": "int8"}}, bytes=0.3, same=0.995),
}


class Run(NamedTuple):
    """A finished run of a task."""

    task: configs.Config
    run_id: str

    def artifact(self, node: Node, key: str) -> str:
        """The folder of what a stage left."""
        return lineage.Store(self.task).stage(self.run_id, node).outputs[key][0].uri


class Bench:
    """The runs of a folder.

    Args:
        config: file of the task, whose data and weights are in packages or at absolute paths.
        folder: of the runs.
    """

    def __init__(self, config: Path, folder: Path):
        self._task = yaml.safe_load(config.read_text(encoding="utf-8"))
        self._task.pop("stream", None)
        self._folder, self._teachers = folder, {}
        folder.mkdir(parents=True, exist_ok=True)

    def teacher(self, seed: int) -> Run:
        """The run that trains the teacher."""
        if seed not in self._teachers:
            self._teachers[seed] = self.run(seed, {})
        return self._teachers[seed]

    def run(self, seed: int, sections: dict[str, Any]) -> Run:
        """Runs the stages up to the student's gate, with a seed and with sections of the bench's own.

        Raises:
            RunFailed: a stage failed; the screen has said why.
        """
        train = {**self._task.get("train", {}), "seed": seed}
        own = {"root": str(self._folder / "runs"), "train": train, **sections}
        file = self._folder / "task.yaml"
        file.write_text(yaml.safe_dump({**self._task, **own}, sort_keys=False), encoding="utf-8")
        task = configs.load(file)
        with local_runner.launching(task, str(file)) as (console, launcher):
            for line in takewhile(lambda line: line != Node.EVALUATOR.line, stages.lines()):
                launcher.launch_line(console, line)
        return Run(task, launcher.run_id)

    def texts(self, run: Run) -> str:
        """The file of the texts that no split of a run has; it is written once for the same rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from bertline.components.data import formats, task_files
        from bertline.components.labelling import pool
        from bertline.components.scoring.cut import Source, text_columns

        examples = Path(run.artifact(Node.EXAMPLE_GEN, "examples"))
        file = self._folder / f"texts-{examples.name}.parquet"  # the number of the ingestion
        if not file.exists():
            task = run.task
            known = {row[ROW_ID] for split in SPLITS for row in finished.read_examples(examples, split)}
            names = text_columns(task.data)  # without those of labels, so that every row is one without a label
            sources = [
                Source(formats.settled(source, task.data), names)
                for source in task_files.of_task(task.data, task.folder)
            ]
            rows = pool.candidates(sources, task.data, frozenset(known), pool.Counts())
            texts = zip(*((row.text, row.text_pair) for row in rows), strict=True)
            hidden = file.with_suffix(".unfinished")
            pq.write_table(pa.table(dict(zip(names, texts, strict=False))), hidden)
            hidden.rename(file)
        return str(file)


def exported(teacher: Run, student: Run) -> dict[str, Any]:
    """The figures of a model that is the teacher in another form."""
    from tfx.utils import path_utils

    from bertline.components import evaluator, student_gate
    from bertline.components.compression_report import Steps
    from bertline.components.examples import read_examples
    from bertline.components.options import StudentGates
    from bertline.serving import storage

    table = read_examples(f"{teacher.artifact(Node.EXAMPLE_GEN, 'examples')}/Split-test", [])
    folders = {
        name: path_utils.serving_model_path(run.artifact(Node.EXPORTER, "model"))
        for name, run in (("teacher", teacher), ("student", student))
    }
    options = teacher.task.evaluate
    rows = {name: evaluator.predict(folder, table, options.batch_size)[0] for name, folder in folders.items()}
    timed = student_gate.measure(*folders.values(), table, options.batch_size)
    sides = {name: student_gate.side(rows[name], storage.size(folders[name]), timed[name]) for name in folders}
    report = student_gate.compare(Steps(), sides, rows, timed, StudentGates(), options.gates.certainty)
    same = float(np.mean(rows["teacher"].predicted == rows["student"].predicted))
    return {**report.model_dump(mode="json"), "same": same}


def figures_of(bench: Bench, name: str, seed: int, distill: dict[str, Any]) -> dict[str, Any]:
    """A student's figures against the teacher of a seed, as in compression.json, and what it was made of.

    Args:
        bench: makes both.
        name: of the student.
        seed: of both trainings.
        distill: `compress.distill` of a student that is trained; {} for its defaults.
    """
    from bertline.components import compression_report

    student, teacher = STUDENTS[name], bench.teacher(seed)
    sections = student.sections
    if student.learns:
        more = {"unlabelled": bench.texts(teacher), **({"distill": distill} if distill else {})}
        sections = {"compress": {**sections["compress"], **more}}
    run = bench.run(seed, sections)
    if "compress" in sections:
        figures = compression_report.read(run.artifact(Node.STUDENT_GATE, "report")).model_dump(mode="json")
    else:
        figures = exported(teacher, run)
    return {"student": name, "seed": seed, "sections": sections, "figures": figures}


def bars(name: str, made: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    """What a student's figures are, the mean over the seeds, beside their bars, and whether they hold."""
    student = STUDENTS[name]

    def mean(figure: Any) -> float:
        return float(np.mean([figure(each["figures"]) for each in made]))

    change = mean(lambda figures: figures["comparison"]["differences"]["accuracy"]["value"])
    faster, share = mean(lambda figures: figures["faster"]), mean(lambda figures: 1 / figures["smaller"])
    told = []
    if student.loses is not None:
        # Rounded: 0.78 - 0.79 is a hair below -0.01 in floating point.
        told.append((f"accuracy {change:+.4f}, at least {-student.loses:+.2f}", round(change, 9) >= -student.loses))
    if student.faster is not None:
        least = f"at least {student.faster:g}"
        told.append((f"{faster:.2f} times the examples a second, {least}", faster >= student.faster))
    if student.bytes is not None:
        told.append((f"{share:.1%} of the bytes, at most {student.bytes:.0%}", share <= student.bytes))
    if student.same is not None:
        same = mean(lambda figures: figures["same"])
        told.append((f"{same:.2%} of the rows keep their label, at least {student.same:.1%}", same >= student.same))
    return told


def line(made: dict[str, Any]) -> str:
    """A student of a seed, for the screen."""
    figures = made["figures"]
    change, bounds = figures["comparison"]["differences"]["accuracy"], figures["faster_bounds"]
    return (
        f"{made['student']:10} seed {made['seed']}  accuracy {figures['teacher']['accuracy']:.4f} to "
        f"{figures['student']['accuracy']:.4f}: {change['value']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})"
        f"  {figures['faster']:.2f} times as fast ({bounds[0]:.2f} to {bounds[1]:.2f})"
        f"  {figures['teacher']['bytes'] / 1e6:.1f} to {figures['student']['bytes'] / 1e6:.1f} MB"
    )


def main() -> int:
    """The command line; 1 where a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[17, 18, 19])
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--distill", type=json.loads, default={}, help="compress.distill as JSON, of those that learn")
    parser.add_argument("--folder", type=Path, default=RESULTS / "compression", help="of the runs")
    arguments = parser.parse_args()
    made: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.students}
    try:
        bench = Bench(arguments.config.absolute(), arguments.folder.absolute())
        for seed in arguments.seeds:
            for name in arguments.students:
                made[name].append(figures_of(bench, name, seed, arguments.distill))
                print(line(made[name][-1]), flush=True)
    except (UserError, RunFailed) as error:
        print(f"compression: {error}", file=sys.stderr)
        return 2
    told = [(name, *bar) for name in arguments.students for bar in bars(name, made[name])]
    for name, text, holds in told:
        print(f"{name:10} {text}: {'holds' if holds else 'FAILS'}")
    print(f"figures: {write_result('compression', [each for students in made.values() for each in students])}")
    return int(not all(holds for *_, holds in told))


if __name__ == "__main__":
    sys.exit(main())
