"""The files of deploy/ agree with each other and with the server: ports, paths, variables, names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from medsam2.hub import HOME_VARIABLE
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import Runtime
from medsam2.serving.app import create_app
from medsam2.serving.guard import OPEN_PATHS
from medsam2.serving.settings import ServerSettings, load_settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = ("Dockerfile", "azureml/Dockerfile")
YAMLS = sorted(path.relative_to(DEPLOY).as_posix() for path in DEPLOY.rglob("*.y*ml"))
PORT = ServerSettings.model_fields["port"].default
AZURE_PORT = 5001  # of azureml-inference-server-http


def documents(path: str) -> list[dict]:
    return [document for document in yaml.safe_load_all((DEPLOY / path).read_text()) if document]


def kubernetes() -> dict[str, dict]:
    """The resources of the kustomization, by kind."""
    (kustomization,) = documents("kubernetes/kustomization.yaml")
    found = [part for path in kustomization["resources"] for part in documents(f"kubernetes/{path}")]
    return {"Kustomization": kustomization, **{part["kind"]: part for part in found}}


def pod() -> dict:
    return kubernetes()["Deployment"]["spec"]["template"]


def container() -> dict:
    (only,) = pod()["spec"]["containers"]
    return only


def instructions(path: str) -> Iterator[tuple[str, str]]:
    text = re.sub(r"(?m)^\s*#.*\n", "", (DEPLOY / path).read_text())
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word:
            yield word, rest.strip()


@pytest.fixture
def paths(runtime: Runtime) -> set[str]:
    """What the server answers."""
    return set(create_app(Predictor(runtime), load_settings({})).openapi()["paths"])


@pytest.mark.parametrize("path", YAMLS)
def test_every_yaml_file_parses(path: str) -> None:
    assert all(isinstance(document, dict) for document in documents(path))


def test_there_are_as_many_as_there_should_be() -> None:
    assert len(YAMLS) >= 11


@pytest.mark.parametrize("path", DOCKERFILES)
def test_what_images_are_made_of_is_there_and_reaches_the_builder(path: str) -> None:
    ignored = [line for line in (DEPLOY / f"{path}.dockerignore").read_text().splitlines() if line[:1] == "!"]
    for word, rest in instructions(path):
        if word == "COPY" and not rest.startswith("--from"):
            *sources, _ = shlex.split(rest)
            for source in sources:
                assert (ROOT / source).exists(), source
                assert f"!{source.removeprefix('./')}" in ignored


@pytest.mark.parametrize("path", DOCKERFILES)
def test_images_run_as_nobody_in_particular_and_hold_no_key(path: str) -> None:
    found = list(instructions(path))
    assert [rest for word, rest in found if word == "USER"] == ["10001:10001"]
    last_user = max(number for number, (word, _) in enumerate(found) if word == "USER")
    assert not [word for word, _ in found[last_user:] if word in ("RUN", "COPY", "ADD")]
    assert "API_KEY" not in (DEPLOY / path).read_text()
    for word, rest in found:
        if word == "FROM":
            assert not rest.endswith(":latest")


def test_the_image_serves_where_it_says(paths: set[str]) -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert f"EXPOSE {PORT}" in text
    assert f"MEDSAM2_PORT={PORT}" in text
    (probe,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", text)
    assert probe[0] == str(PORT)
    assert probe[1] in paths & set(OPEN_PATHS)
    assert f"EXPOSE {AZURE_PORT}" in (DEPLOY / "azureml/Dockerfile").read_text()


@pytest.mark.parametrize("path", [*DOCKERFILES, *YAMLS, "README.md"])
def test_every_variable_is_a_setting(path: str) -> None:
    known = {f"MEDSAM2_{name.upper()}" for name in ServerSettings.model_fields} | {HOME_VARIABLE}
    assert set(re.findall(r"MEDSAM2_[A-Z_]+[A-Z]", (DEPLOY / path).read_text())) <= known


def test_values_of_settings_can_be() -> None:
    environments = [
        {entry["name"]: entry["value"] for entry in container()["env"] if "value" in entry},
        documents("azureml/deployment.yml")[0]["environment_variables"],
        {
            name: value
            for name, value in documents("compose/compose.yaml")[0]["services"]["medsam2"][
                "environment"
            ].items()
            if name != "MEDSAM2_API_KEY"
        },
    ]
    for environment in environments:
        values = {
            name.removeprefix("MEDSAM2_").lower(): value
            for name, value in environment.items()
            if name.startswith("MEDSAM2_")
        }
        assert values
        load_settings(values)


def test_kubernetes_probes_ask_what_is_open(paths: set[str]) -> None:
    probes = {name: container()[name]["httpGet"] for name in container() if name.endswith("Probe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/readyz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/healthz",
    }
    assert {probe["path"] for probe in probes.values()} <= paths & set(OPEN_PATHS)
    (port,) = container()["ports"]
    assert port["containerPort"] == PORT
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    (service_port,) = kubernetes()["Service"]["spec"]["ports"]
    assert service_port["port"] == PORT
    assert service_port["targetPort"] == port["name"]
    ((policy_port,),) = [rule["ports"] for rule in kubernetes()["NetworkPolicy"]["spec"]["ingress"]]
    assert policy_port["port"] == port["name"]


def test_kubernetes_resources_mean_the_same_pods_and_secret() -> None:
    found = kubernetes()
    labels = pod()["metadata"]["labels"].items()
    for selector in (
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", found["Deployment"]["metadata"]["name"])
    assert "replicas" not in found["Deployment"]["spec"]
    (secret,) = found["Kustomization"]["secretGenerator"]
    (reference,) = [entry for entry in container()["env"] if entry["name"] == "MEDSAM2_API_KEY"]
    assert reference["valueFrom"]["secretKeyRef"] == {"name": secret["name"], "key": "MEDSAM2_API_KEY"}
    assert found["Namespace"]["metadata"]["name"] == found["Kustomization"]["namespace"]


def test_kubernetes_pods_may_do_little_and_end_in_peace() -> None:
    spec = pod()["spec"]
    security = container()["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert spec["terminationGracePeriodSeconds"] > load_settings({}).answer_timeout_s
    values = {entry["name"]: entry.get("value") for entry in container()["env"]}
    taken_mib = int(values["MEDSAM2_MEMORY_BUDGET"])
    taken_mib += int(values["MEDSAM2_READERS"]) * int(values["MEDSAM2_READER_MEMORY"]) + 1024
    assert taken_mib <= 1024 * int(container()["resources"]["limits"]["memory"].removesuffix("Gi"))


def test_kubernetes_with_a_gpu_changes_what_is_there() -> None:
    (overlay,) = documents("kubernetes/gpu/kustomization.yaml")
    (patch,) = overlay["patches"]
    assert patch["target"]["name"] == kubernetes()["Deployment"]["metadata"]["name"]
    (change,) = yaml.safe_load(patch["patch"])
    assert change["path"].startswith("/spec/template/spec/containers/0/resources/limits/")
    assert overlay["images"][0]["name"] == container()["image"]


def test_compose_builds_our_image_and_opens_to_this_machine_alone() -> None:
    (compose,) = documents("compose/compose.yaml")
    build = compose["services"]["medsam2"]["build"]
    context = (DEPLOY / "compose" / build["context"]).resolve()
    assert context == ROOT
    assert (context / build["dockerfile"]).is_file()
    ports = [port for service in compose["services"].values() for port in service["ports"]]
    assert f"127.0.0.1:{PORT}:{PORT}" in ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    example = (DEPLOY / "compose/example.env").read_text()
    for name in re.findall(r"\$\{(\w+)", (DEPLOY / "compose/compose.yaml").read_text()):
        assert f"{name}=" in example


def test_azure_files_name_each_other() -> None:
    (environment,) = documents("azureml/environment.yml")
    context = (DEPLOY / "azureml" / environment["build"]["path"]).resolve()
    assert context == ROOT
    assert (context / environment["build"]["dockerfile_path"]).is_file()
    routes = environment["inference_config"]
    assert {route["port"] for route in routes.values()} == {AZURE_PORT}
    assert routes["scoring_route"]["path"] == "/score"
    (endpoint,) = documents("azureml/endpoint.yml")
    (deployment,) = documents("azureml/deployment.yml")
    assert deployment["endpoint_name"] == endpoint["name"]
    assert deployment["environment"] == f"azureml:{environment['name']}:{environment['version']}"
    assert deployment["app_insights_enabled"] is False
    variables = deployment["environment_variables"]
    timeout_s = deployment["request_settings"]["request_timeout_ms"] / 1000
    assert float(variables["MEDSAM2_ANSWER_TIMEOUT_S"]) < timeout_s
    places = int(variables["MEDSAM2_QUEUE"]) + 1
    assert deployment["request_settings"]["max_concurrent_requests_per_instance"] == places


def test_ray_serves_the_application() -> None:
    (config,) = documents("ray/serve.yaml")
    (app,) = config["applications"]
    module, _, function = app["import_path"].partition(":")
    source = ROOT / "src" / f"{module.replace('.', '/')}.py"
    assert f"def {function}(" in source.read_text()
    assert config["http_options"]["port"] == PORT
    assert config["http_options"]["request_timeout_s"] > load_settings({}).answer_timeout_s


def test_versions_are_the_package_s() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert kubernetes()["Kustomization"]["images"][0]["newTag"] == version[1]
    assert documents("azureml/environment.yml")[0]["version"] == version[1]
    assert f"medsam2:{version[1]}" in (DEPLOY / "compose/compose.yaml").read_text()
