"""Runs Python commands in forks of a process that has imported TensorFlow and TFX once: ten seconds less for each."""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path


class Warm:
    """The process; close it, or use it as a context manager."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, module, arguments, *, cwd, stdout, stderr, stdin=os.devnull, env=None):
        """Runs `python -m module arguments` in a folder, from and to files; returns its exit code."""
        files = [str(stdin), str(stdout), str(stderr)]
        job = {"module": module, "arguments": arguments, "cwd": str(cwd), "files": files, "env": env or {}}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def bertline(self, *arguments, cwd, env=None, input=""):
        """What `bertline arguments` answers, as subprocess.run would tell it."""
        with tempfile.TemporaryDirectory() as scratch:
            files = {name: Path(scratch) / name for name in ("stdin", "stdout", "stderr")}
            files["stdin"].write_text(input, encoding="utf-8")
            code = self.run("bertline.pipeline.cli", [*map(str, arguments)], cwd=cwd, env=env, **files)
            shown = [files[name].read_text(encoding="utf-8") for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(arguments, code, *shown)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()  # all that it started has ended, and TensorFlow takes seconds to say goodbye
        self._process.wait()


# === Within the process ===


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    import tensorflow_text  # noqa: F401
    from tfx.dsl.compiler import compiler  # noqa: F401
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor  # noqa: F401
    from tfx.orchestration.local import runner_utils  # noqa: F401

    import bertline.pipeline.facts_stage
    import bertline.pipeline.lineage
    import bertline.pipeline.pipeline  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(run(**json.loads(line)))
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")


def run(module, arguments, cwd, files, env):
    """Runs one command in this process; returns its exit code."""
    for descriptor, file in enumerate(files):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND if descriptor else os.O_RDONLY
        os.dup2(os.open(file, flags), descriptor)
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = [module, *arguments]
    try:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  the old one has read ahead
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    main()
