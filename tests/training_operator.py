"""A small Kubernetes with Kubeflow's training operator: TFJobs over its HTTP API, each pod a process of this machine.

Like the operator's it refuses what the schema of TFJob does not know, tells each pod of the others in TF_CONFIG,
starts a pod that has failed again while backoffLimit allows, and takes the first worker's success for the job's.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

TOP = Path(__file__).parents[1]
SCHEMA = json.loads((TOP / "tests/pipeline/schemas/TFJob.json").read_text(encoding="utf-8"))
NAMESPACE = "team"
PATH = f"/apis/kubeflow.org/v1/namespaces/{NAMESPACE}/tfjobs"


def check(job):
    """Raises where the API server would refuse a TFJob, or the pods that the operator makes of it."""
    jsonschema.validate(job, SCHEMA)
    for replicas in job["spec"]["tfReplicaSpecs"].values():
        pod = {"apiVersion": "v1", "kind": "Pod", **replicas["template"]}
        kubernetes_validate.validate(pod, "1.34", strict=True)


class Operator(ThreadingHTTPServer):
    """Serves the API on a free port. `refusal`: a status that it answers to each request for a new job."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.jobs, self.created, self.refusal = folder, {}, [], None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def kubeconfig(self):
        """Path of a file by which kubectl and Kubernetes' clients find this cluster."""
        path = self.folder / "kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}],
            "users": [{"name": "me", "user": {}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": NAMESPACE}}],
        }
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return str(path)

    def create(self, job):
        check(job)
        name = job["metadata"]["name"]
        self.created.append(name)
        self.jobs[name] = job
        threading.Thread(target=self._run, args=(job,), daemon=True).start()

    def log(self, name, index):
        return (self.folder / f"{name}-worker-{index}.log").read_text(errors="replace")

    def _run(self, job):
        replicas = job["spec"]["tfReplicaSpecs"]["Worker"]
        count, left = replicas["replicas"], job["spec"]["runPolicy"]["backoffLimit"]
        with ExitStack() as held:
            ports = [held.enter_context(socket.socket()) for _ in range(count)]
            for port in ports:
                port.bind(("127.0.0.1", 0))
            workers = [f"127.0.0.1:{port.getsockname()[1]}" for port in ports]
        pods = [self._start(job, workers, index) for index in range(count)]
        while pods[0].poll() != 0:
            for index, pod in enumerate(pods):
                if pod.poll():
                    left -= 1
                    pods[index] = self._start(job, workers, index) if left >= 0 else pod
            if left < 0:
                break
            time.sleep(0.1)
        for pod in pods:  # cleanPodPolicy: Running
            pod.kill()
            pod.wait()
        done = ("Succeeded", "all is well") if left >= 0 else ("Failed", "it has reached the backoff limit.")
        job["status"] = {"conditions": [{"type": "Running", "status": "False", "message": ""},
                                        {"type": done[0], "status": "True", "message": done[1]}]}  # fmt: skip

    def _start(self, job, workers, index):
        (container,) = job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
        program, *arguments = container["command"]
        assert program == "python"
        place = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}, "environment": "cloud"}
        env = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        with open(self.folder / f"{job['metadata']['name']}-worker-{index}.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments],
                env={**os.environ, **env, "TF_CONFIG": json.dumps(place)},
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.refusal or self.path != PATH:
            self._answer(self.server.refusal or 404, {"message": "refused"})
        else:
            self.server.create(body)
            self._answer(201, body)

    def do_GET(self):
        job = self.server.jobs.get(self.path.removeprefix(f"{PATH}/"))
        self._answer(200 if job else 404, job or {})

    def do_DELETE(self):
        self._answer(200, self.server.jobs.pop(self.path.removeprefix(f"{PATH}/").partition("?")[0]))

    def _answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
