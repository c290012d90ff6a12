"""A task compiled for Kubeflow, and a cluster that runs it."""

import json

import backend
import factories
from lines import States

from bertline.pipeline import config as configs
from bertline.pipeline import kubeflow


class Cluster:
    """The local line's task, and a cluster to run it on; its serving folder and checkpoints lie in a volume."""

    def __init__(self, first_config, folder, warm):
        self.folder, self.backend = folder, backend.Backend(folder / "kubeflow", warm, cold=["Facts"])
        self.backend.folder.mkdir(parents=True)
        factories.write_csv(folder / "reviews.csv", factories.reviews(900))
        volume = folder / "volume"
        config = folder / "task.yaml"
        config.write_text(
            f"{first_config}kubeflow:\n"
            "  image: registry.example.com/bertline:1\n"
            f"  data_folder: {folder}\n  root: {volume}\n  volumes: [{{claim: models, path: {volume}}}]\n"
            "  default: {retries: 1}\n",
            encoding="utf-8",
        )
        self.serving = volume / "serving"
        self.config = configs.load(config)
        self.compiled = kubeflow.compile_line(self.config).dump()
        self.states = States(folder)

    def first_run(self):
        self.first = self.run()
        self.backend.cold.clear()
        self.states.keep("first run")
        self.cached = dict(self.backend.cache)

    def after_first_run(self):
        self.states.put_back("first run")
        self.backend.cache = dict(self.cached)
        return self

    def run(self, **parameters):
        return self.backend.run(self.compiled, parameters)

    def gated(self, **gates):
        """The pipeline's parameter `evaluate` with only these gates."""
        return json.dumps({**self.config.evaluate.model_dump(mode="json"), "gates": gates})

    def versions(self):
        return sorted(path.name for path in self.serving.iterdir() if path.name.isdigit())

    def metrics(self, run):
        uri = run.tasks["Evaluator"].artifacts["evaluation"]["uri"]
        return json.loads((self.backend.path(uri) / "metrics.json").read_text())
