"""serving/deploy: the files are checked by the schemas of those who read them, and by what must agree between them."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from bertline.serving import flags, log_proxy, ops
from bertline.serving.batching import BatchingOptions
from bertline.serving.client import Client
from bertline.serving.configuration import BatchingParameters, MonitoringConfig, read_text_proto
from bertline.serving.protos import ModelServerConfig
from bertline.serving.server import Server

TOP = Path(__file__).parents[2]
DEPLOY = TOP / "serving" / "deploy"
CONFIG = DEPLOY / "config"
KUBERNETES = DEPLOY / "kubernetes"
SCHEMAS = Path(__file__).parent / "schemas"  # of custom resources, which kubernetes-validate does not know
OVERLAYS = ("pvc", "object-store", "queue-time", "records", "kserve", "kserve-canary", "gateway", "gateway-canary")
DEPLOYED = [name for name in OVERLAYS if name != "records" and not name.startswith("kserve")]  # with one container
KUBECTL = shutil.which("kubectl", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
BUILDS = pytest.mark.skipif(
    KUBECTL is None, reason="kubectl builds the kustomizations, and is no Python package to install: put it on the PATH"
)


def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def kustomizations():
    return {file.parent: yaml.safe_load(file.read_text()) for file in DEPLOY.rglob("kustomization.yaml")}


def objects(text):
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text)}


def check(resource):
    """Validates a whole object by the schema of its kind; fields that the schema does not know are faults."""
    own = SCHEMAS / f"{resource['kind']}.json"
    if own.exists():
        jsonschema.validate(resource, json.loads(own.read_text()))
    else:
        kubernetes_validate.validate(resource, "1.34", strict=True)


@pytest.fixture(scope="module")
def built():
    """Overlay -> its objects by (kind, name), as `kubectl apply -k` would send them."""
    return {
        name: objects(
            subprocess.run(
                [KUBECTL, "kustomize", KUBERNETES / "overlays" / name], capture_output=True, text=True, check=True
            ).stdout
        )
        for name in OVERLAYS
    }


def deployment(overlay):
    (deployed,) = [built for (kind, _), built in overlay.items() if kind == "Deployment"]
    return deployed


def pod(overlay):
    return deployment(overlay)["spec"]["template"]["spec"]


# === The configuration files, shared with the embedded server ===


def test_batching_config_is_what_both_servers_read():
    options = BatchingOptions.of(read_text_proto(CONFIG / "batching.config", BatchingParameters))
    assert options == BatchingOptions(
        max_batch_size=256,
        batch_timeout_micros=0,
        num_batch_threads=2,
        max_enqueued_batches=64,
        enable_large_batch_splitting=True,
        max_execution_batch_size=16,
    )


def test_monitoring_config_is_what_the_manifests_scrape():
    config = read_text_proto(CONFIG / "monitoring.config", MonitoringConfig)
    monitor = yaml.safe_load((KUBERNETES / "components/prometheus/service-monitor.yaml").read_text())
    assert config.prometheus_config.enable
    assert [endpoint["path"] for endpoint in monitor["spec"]["endpoints"]] == [config.prometheus_config.path]


MODELS_CONFIGS = sorted(DEPLOY.rglob("models.config"))
PINNED = {"gateway": 1795295123, "gateway-canary": 1795302291, "kserve-canary": 1795302291}


@pytest.mark.parametrize("file", MODELS_CONFIGS, ids=lambda file: file.parent.name)
def test_models_config_names_one_model(file):
    (model,) = read_text_proto(file, ModelServerConfig).model_config_list.config
    assert (model.name, model.model_platform) == ("sentiment", "tensorflow")
    assert re.fullmatch(r"/models/sentiment|gs://BUCKET/sentiment/serving|/mnt/models", model.base_path)
    policy = model.model_version_policy
    if file.parent.name in PINNED:
        assert list(policy.specific.versions) == [PINNED[file.parent.name]]
    else:
        assert policy.latest.num_versions == 1


@pytest.mark.parametrize(
    "file", [file for file in MODELS_CONFIGS if file.parent.name not in PINNED], ids=lambda file: file.parent.name
)
def test_version_is_pinned_by_the_line_in_the_comment(file, tmp_path):
    lines = [line for line in file.read_text().splitlines() if not line.strip().startswith("model_version_policy")]
    pinned = tmp_path / "models.config"
    pinned.write_text("\n".join(lines).replace("#   model_version_policy", "model_version_policy"))
    (model,) = read_text_proto(pinned, ModelServerConfig).model_config_list.config
    assert list(model.model_version_policy.specific.versions) == [1795307951]


def arguments_of(args):
    """Flags with the container's paths as they are here, and the model's own as a parser needs them."""
    here = [arg.replace("=/config/", f"={CONFIG}/").replace("${MODEL_NAME:-sentiment}", "sentiment") for arg in args]
    named = any("model_base_path" in arg or "model_config_file" in arg for arg in here)
    return here if named else [*here, "--model_name=sentiment", "--model_base_path=/mnt/models"]


@pytest.mark.parametrize(
    "args",
    [
        compose()["services"]["model-server"]["command"],
        yaml.safe_load((KUBERNETES / "base/deployment.yaml").read_text())["spec"]["template"]["spec"]["containers"][0][
            "args"
        ],
        yaml.safe_load((KUBERNETES / "overlays/kserve/inference-service.yaml").read_text())["spec"]["predictor"][
            "model"
        ]["args"],
    ],
    ids=["compose", "base", "kserve"],
)
def test_flags_are_ones_that_the_embedded_server_takes_too(args):
    options, _ = flags.parse(arguments_of(args))
    assert options.batching.run_size == 16
    assert options.metrics_path == "/monitoring/prometheus/metrics"
    assert options.health


def test_version_is_one_throughout():
    (pinned,) = re.findall(r"^tensorflow-serving-api==([\d.]+)", (TOP / "requirements.lock").read_text(), re.MULTILINE)
    image = f"tensorflow/serving:{pinned}"
    named = re.findall(r"tensorflow/serving:[\w.-]+", (DEPLOY / "compose.yaml").read_text())
    named += re.findall(r"image: (\S+)", (KUBERNETES / "base/deployment.yaml").read_text())
    assert set(named) == {image}
    service = yaml.safe_load((KUBERNETES / "overlays/kserve/inference-service.yaml").read_text())
    assert service["spec"]["predictor"]["model"]["runtimeVersion"] == pinned
    assert f"TF Serving {pinned}" == ops.SERVER


# === Compose ===


def compose_with_records():
    """compose.records.yaml, which lies over compose.yaml: its `!reset` empties what stands there."""
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor("!reset", lambda loader, node: loader.construct_sequence(node))
    return yaml.load((DEPLOY / "compose.records.yaml").read_text(), loader)


@pytest.mark.parametrize("read", [compose, compose_with_records], ids=["compose", "records"])
def test_compose_file_follows_the_compose_specification(read):
    package = Path(importlib.util.find_spec("check_jsonschema").origin).parent
    schema = json.loads((package / "builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validate(read(), schema)


def test_compose_puts_the_log_proxy_where_the_server_was():
    services = compose_with_records()["services"]
    server, proxy = services["model-server"], services["log-proxy"]
    assert server == {"ports": []}
    assert set(compose()["services"]["model-server"]["ports"]) < set(proxy["ports"])
    assert all(port.startswith("127.0.0.1:") for port in proxy["ports"])
    assert proxy["read_only"] and proxy["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in proxy["security_opt"]
    options = log_proxy.options_of(proxy["command"])
    assert {port.rpartition(":")[2] for port in proxy["ports"]} == {
        str(port) for port in (options.port, options.rest_port, options.metrics_port)
    }
    assert (options.upstream, options.rest_upstream) == ("model-server:8500", "http://model-server:8501")
    (volume,) = proxy["volumes"]
    assert volume["target"] == str(options.records.folder)
    default = volume["source"].removeprefix("${RECORDS_FOLDER:-").removesuffix("}")
    assert (
        DEPLOY / default.replace("${MODEL_NAME:-sentiment}", "sentiment")
    ).resolve() == TOP / "runs/sentiment/records"


def test_compose_service_is_hardened_and_on_loopback_alone():
    (service,) = compose()["services"].values()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["user"].split(":")[0] not in ("0", "root")
    assert all(volume["read_only"] for volume in service["volumes"])


def test_compose_mounts_what_is_there():
    models, config = compose()["services"]["model-server"]["volumes"]
    assert (DEPLOY / config["source"]).resolve() == CONFIG
    default = models["source"].removeprefix("${SERVING_FOLDER:-").removesuffix("}")
    runs = (DEPLOY / default.replace("${MODEL_NAME:-sentiment}", "sentiment")).resolve()
    assert runs == TOP / "runs/sentiment/serving"


@pytest.mark.parametrize(("model", "status"), [("sentiment", 0), ("absent", 1)])
def test_compose_health_check_tells_whether_the_model_answers(mood_models, tmp_path, model, status):
    (tmp_path / "1").symlink_to(mood_models["good"])
    script = compose()["services"]["model-server"]["healthcheck"]["test"]
    assert script[0] == "CMD"
    with Server.of(tmp_path, "sentiment", port=0, rest_port=0) as server:
        port = server.rest_address.rpartition(":")[2]
        command = [part.replace("8501", port).replace("${MODEL_NAME:-sentiment}", model) for part in script[1:]]
        assert subprocess.run(command, timeout=10).returncode == status
    assert subprocess.run(command, timeout=10, capture_output=True).returncode != 0, "the server is gone"


def test_embedded_server_runs_with_the_same_files(mood_models, tmp_path):
    (tmp_path / "1").symlink_to(mood_models["good"])
    models = tmp_path / "models.config"
    models.write_text((CONFIG / "models.config").read_text().replace("/models/sentiment", str(tmp_path)))
    args = yaml.safe_load((KUBERNETES / "base/deployment.yaml").read_text())["spec"]["template"]["spec"]["containers"]
    replaced = {"--port": "-1", "--rest_api_port": "-1", "--model_config_file": models}
    kept = [arg for arg in arguments_of(args[0]["args"]) if arg.split("=")[0] not in replaced]
    options, _ = flags.parse([*kept, *(f"{name}={value}" for name, value in replaced.items())])
    with Server(options) as server, Client(server.address, "sentiment") as client:
        answers = client.predict(["a good film"] * 100)
        assert {answer.label for answer in answers} == {"positive"}
        with urllib.request.urlopen(f"{server.rest_address}/monitoring/prometheus/metrics") as response:
            assert b":tensorflow:serving:request_count" in response.read()


# === Kubernetes, file by file ===


def test_kustomizations_name_files_that_are_there():
    for folder, kustomization in kustomizations().items():
        names = [*kustomization.get("resources", []), *kustomization.get("components", [])]
        names += kustomization.get("configurations", [])
        names += [patch["path"] for patch in kustomization.get("patches", []) if "path" in patch]
        for generator in kustomization.get("configMapGenerator", []):
            names += generator["files"]
            assert all((folder / file).resolve().is_relative_to(folder) for file in generator["files"]), (
                "kustomize reads no file outside its folder"
            )
        for name in names:
            path = folder / name
            assert path.is_file() or (path / "kustomization.yaml").is_file(), f"{folder}: {name}"


def test_every_manifest_is_used_by_a_kustomization():
    used = {
        (folder / name).resolve()
        for folder, kustomization in kustomizations().items()
        for name in [
            *kustomization.get("resources", []),
            *kustomization.get("configurations", []),
            *(patch["path"] for patch in kustomization.get("patches", []) if "path" in patch),
        ]
    }
    files = {file for file in KUBERNETES.rglob("*.yaml") if file.name != "kustomization.yaml"}
    assert {file.name for file in files - used} == {"prometheus-adapter.yaml"}, "which Helm reads"


def test_files_of_whole_objects_are_valid():
    checked = []
    for folder, kustomization in kustomizations().items():
        for name in kustomization.get("resources", []):
            if (folder / name).is_file():
                resource = yaml.safe_load((folder / name).read_text())
                check(resource)
                checked.append(resource["kind"])
    assert sorted(checked) == [
        "Deployment",
        "GRPCRoute",
        "HTTPRoute",
        "HorizontalPodAutoscaler",
        "InferenceService",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
    ]


def test_patches_name_objects_of_their_base():
    whole = {
        (resource["kind"], resource["metadata"]["name"])
        for folder, kustomization in kustomizations().items()
        for name in kustomization.get("resources", [])
        if (folder / name).is_file()
        for resource in [yaml.safe_load((folder / name).read_text())]
    }
    for folder, kustomization in kustomizations().items():
        for patch in kustomization.get("patches", []):
            target = patch.get("target")
            if target is None:
                partial = yaml.safe_load((folder / patch["path"]).read_text())
                target = {"kind": partial["kind"], "name": partial["metadata"]["name"]}
            assert (target["kind"], target["name"]) in whole, f"{folder}: {target}"


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("base/deployment.yaml", "spec.template.spec.containers.0.readinesProbe", {}),
        ("base/deployment.yaml", "spec.template.spec.containers.0.ports.0.containerPort", "eighty"),
        ("base/autoscaler.yaml", "spec.maxReplicas", "many"),
        ("base/network-policy.yaml", "spec.policyTypes", "Ingress"),
        ("components/prometheus/service-monitor.yaml", "spec.endpoints.0.intervall", "15s"),
        ("overlays/kserve/inference-service.yaml", "spec.predictor.model.modelFormat", "tensorflow"),
        ("overlays/kserve/inference-service.yaml", "spec.predictor.canaryTrafficPercent", "10%"),
        ("overlays/kserve/inference-service.yaml", "spec.predictor.canaryTraffic", 10),
        ("overlays/gateway/grpc-route.yaml", "spec.rules.1.backendRefs.1.weight", "10%"),
        ("overlays/gateway/grpc-route.yaml", "spec.rules.1.backendRefs.1.wieght", 10),
        ("overlays/gateway/http-route.yaml", "spec.rules.1.matches.0.path.type", "Prefix"),
    ],
)
def test_a_slip_in_a_manifest_would_be_found(file, path, value):
    resource = yaml.safe_load((KUBERNETES / file).read_text())
    *parents, last = path.split(".")
    place = resource
    for part in parents:
        place = place[int(part) if part.isdigit() else part]
    place[last] = value
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        check(resource)


# === Kubernetes, as it is built ===


@BUILDS
@pytest.mark.parametrize("name", OVERLAYS)
def test_built_objects_are_valid(built, name):
    for resource in built[name].values():
        check(resource)


@BUILDS
@pytest.mark.parametrize("name", DEPLOYED)
def test_selectors_pick_the_pods(built, name):
    labels = deployment(built[name])["spec"]["template"]["metadata"]["labels"].items()
    overlay = {kind: resource for (kind, _), resource in built[name].items()}
    selectors = [
        deployment(built[name])["spec"]["selector"]["matchLabels"],
        overlay["Service"]["spec"]["selector"],
        overlay["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        overlay["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        pod(built[name])["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)
    monitored = overlay["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= overlay["Service"]["metadata"]["labels"].items()


@BUILDS
@pytest.mark.parametrize("name", DEPLOYED)
def test_names_between_objects_are_those_of_objects_that_are_there(built, name):
    overlay = built[name]
    by_kind = {kind: resource for (kind, _), resource in overlay.items()}
    target = by_kind["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) in overlay
    container = pod(overlay)["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["targetPort"] for port in by_kind["Service"]["spec"]["ports"]} == set(ports)
    (endpoint,) = by_kind["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in by_kind["Service"]["spec"]["ports"]}
    for volume in pod(overlay)["volumes"]:
        if "configMap" in volume:
            assert set(overlay["ConfigMap", volume["configMap"]["name"]]["data"]) == {
                "batching.config",
                "monitoring.config",
                "models.config",
            }
        if "persistentVolumeClaim" in volume:  # the canary reads that of the version that answers
            claim = "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
            assert claim in built["gateway" if name == "gateway-canary" else name]
    assert {mount["name"] for mount in container["volumeMounts"]} == {each["name"] for each in pod(overlay)["volumes"]}
    probed = {container[probe]["grpc"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert probed == {ports["grpc"]}


@BUILDS
def test_the_log_proxy_has_the_ports_that_clients_dial(built):
    server, proxy = pod(built["records"])["containers"]
    before, _ = flags.parse(arguments_of(pod(built["pvc"])["containers"][0]["args"]))
    behind, _ = flags.parse(arguments_of(server["args"]))
    options = log_proxy.options_of(proxy["args"])
    assert (options.port, options.rest_port) == (before.port, before.rest_port)
    assert options.upstream == f"127.0.0.1:{behind.port}"
    assert options.rest_upstream == f"http://127.0.0.1:{behind.rest_port}"
    assert options.grpc_arguments == behind.grpc_arguments == before.grpc_arguments
    ports = {port["name"]: port["containerPort"] for port in proxy["ports"]}
    assert ports == {"grpc": options.port, "rest": options.rest_port, "log-metrics": options.metrics_port}
    service = built["records"]["Service", "model-server"]["spec"]
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports
    endpoints = built["records"]["ServiceMonitor", "model-server"]["spec"]["endpoints"]
    assert {endpoint["port"] for endpoint in endpoints} == {"rest", "log-metrics"}
    assert {server[probe]["grpc"]["port"] for probe in server if probe.endswith("Probe")} == {behind.port}
    assert proxy["securityContext"] == server["securityContext"]
    claims = {
        v["name"]: v["persistentVolumeClaim"] for v in pod(built["records"])["volumes"] if "persistentVolumeClaim" in v
    }
    (mount,) = [mount for mount in proxy["volumeMounts"] if mount["name"] in claims]
    assert options.records.folder.is_relative_to(mount["mountPath"]) and not claims[mount["name"]].get("readOnly")
    assert ("PersistentVolumeClaim", claims[mount["name"]]["claimName"]) in built["records"]


@BUILDS
@pytest.mark.parametrize("name", DEPLOYED)
def test_pods_meet_the_restricted_security_standard(built, name):
    spec = pod(built[name])
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}


@BUILDS
def test_models_come_from_where_the_overlay_says(built):
    for name, base_path in (("pvc", "/models/sentiment"), ("object-store", "gs://BUCKET/sentiment/serving")):
        (config,) = [each for (kind, _), each in built[name].items() if kind == "ConfigMap"]
        assert f'base_path: "{base_path}"' in config["data"]["models.config"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod(built["pvc"])["containers"][0]["volumeMounts"]}
    assert mounts["models"] == "/models"


@BUILDS
def test_each_overlay_scales_by_its_metric(built):
    def metrics(name):
        return built[name]["HorizontalPodAutoscaler", "model-server"]["spec"]["metrics"]

    (cpu,) = metrics("pvc")
    assert (cpu["type"], cpu["resource"]["name"]) == ("Resource", "cpu")
    (queue,) = metrics("queue-time")
    adapter = yaml.safe_load((KUBERNETES / "components/queue-time/prometheus-adapter.yaml").read_text())
    assert queue["pods"]["metric"]["name"] == adapter["rules"]["custom"][0]["name"]["as"]


@BUILDS
def test_routes_share_the_requests_between_the_two_services(built):
    services = {name: built[overlay]["Service", name] for overlay, name in SERVICES.items()}
    for kind, port in (("GRPCRoute", "grpc"), ("HTTPRoute", "rest")):
        by_header, by_share = built["gateway"][kind, "model-server"]["spec"]["rules"]
        assert [each["name"] for each in by_header["backendRefs"]] == ["model-server-canary"]
        assert by_header["matches"][0]["headers"] == [{"name": "x-model-version", "value": "canary"}]
        shares = {each["name"]: each["weight"] for each in by_share["backendRefs"]}
        assert shares == {"model-server": 90, "model-server-canary": 10}
        for each in by_header["backendRefs"] + by_share["backendRefs"]:
            ports = {named["name"]: named["port"] for named in services[each["name"]]["spec"]["ports"]}
            assert each["port"] == ports[port]


SERVICES = {"gateway": "model-server", "gateway-canary": "model-server-canary"}


@BUILDS
def test_the_canarys_objects_are_apart_from_those_of_the_version_that_answers(built):
    stable, canary = (pod(built[overlay]) for overlay in SERVICES)
    assert not set(built["gateway"]) & set(built["gateway-canary"])
    assert {key: value for key, value in stable.items() if key not in ("volumes", "topologySpreadConstraints")} == {
        key: value for key, value in canary.items() if key not in ("volumes", "topologySpreadConstraints")
    }
    labels = [deployment(built[overlay])["spec"]["template"]["metadata"]["labels"] for overlay in SERVICES]
    for overlay, own, other in zip(SERVICES, labels, labels[::-1], strict=True):
        selector = built[overlay]["Service", SERVICES[overlay]]["spec"]["selector"].items()
        assert selector <= own.items() and not selector <= other.items()
        rules = built[overlay]["NetworkPolicy", SERVICES[overlay]]["spec"]["ingress"]
        sources = [each for rule in rules for each in rule["from"]]
        assert {"podSelector": {"matchLabels": {"bertline/model-client": "true"}}} in sources
        spaces = [each["namespaceSelector"]["matchLabels"] for each in sources if "namespaceSelector" in each]
        assert {"kubernetes.io/metadata.name": "gateway-system"} in spaces


@BUILDS
def test_kserve_gives_the_new_revision_a_share_and_each_revision_its_version(built):
    service = built["kserve-canary"]["InferenceService", "sentiment"]["spec"]["predictor"]
    assert service["canaryTrafficPercent"] == 10
    assert service["model"]["args"][-1] == "--model_config_file=/config/models.config"
    (volume,) = service["volumes"]
    config = built["kserve-canary"]["ConfigMap", volume["configMap"]["name"]]
    assert "specific { versions: 1795302291 }" in config["data"]["models.config"]
    assert (
        volume["configMap"]["name"]
        != built["kserve"]["InferenceService", "sentiment"]["spec"]["predictor"]["volumes"][0]["configMap"]["name"]
    ), "another version is another revision"


@BUILDS
def test_kserve_mounts_the_config_map_under_its_hashed_name(built):
    service = built["kserve"]["InferenceService", "sentiment"]
    (volume,) = service["spec"]["predictor"]["volumes"]
    assert ("ConfigMap", volume["configMap"]["name"]) in built["kserve"]
