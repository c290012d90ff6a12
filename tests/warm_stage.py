"""Imports what every stage imports, then runs each command that it is sent in a fork of itself (see backend.Warm)."""

import json
import os
import runpy
import sys
import traceback

answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

import tensorflow_text  # noqa: E402, F401
from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor  # noqa: E402, F401

import pipeline.facts_stage  # noqa: E402
import pipeline.pipeline  # noqa: E402, F401


def run(job):
    """Runs one command in this process; returns its exit code."""
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    sys.argv = job["command"][2:]
    try:
        runpy.run_module("pipeline.stage", run_name="__main__", alter_sys=True)
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


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os._exit(run(json.loads(line)))
    answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
