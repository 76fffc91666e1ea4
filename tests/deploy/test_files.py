"""The files of deploy/ agree with the program and with each other: flags, ports, names, times, versions."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from sdwebui_api.cli import COMMANDS
from sdwebui_api.config.flags import Flags, parse_flags
from sdwebui_api.queueing.stores.redis_keys import base_of
from tests.support.server import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
GRACE_AFTER_DRAIN = 30
"""Seconds for writing pictures and leaving, after --drain-seconds."""


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def manifests() -> list[dict[str, Any]]:
    listed = documents(KUBERNETES / "kustomization.yaml")[0]["resources"]
    return [document for name in listed for document in documents(KUBERNETES / name)]


def manifest(kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in manifests() if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pod_of(kind: str, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = manifest(kind, name)["spec"]["template"]["spec"]
    return spec


def container_of(name: str) -> dict[str, Any]:
    (container,) = pod_of("Deployment", name)["containers"]
    assert container["image"] == f"sdwebui-{name}"
    return dict(container)


def dockerfile() -> dict[str, list[tuple[str, str]]]:
    """Stage to its (instruction, rest), continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text())
    stages: dict[str, list[tuple[str, str]]] = {}
    lines: list[tuple[str, str]] = []
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            lines = stages.setdefault(rest.split(" AS ")[1], [])
        elif word and not word.startswith("#"):
            lines.append((word, rest))
    return stages


def words_of(stage: str, instruction: str) -> list[str]:
    (found,) = [rest for word, rest in dockerfile()[stage] if word == instruction]
    words: list[str] = json.loads(found)
    return words


def flags_of(words: list[str], caplog: pytest.LogCaptureFixture) -> Flags:
    """What the program makes of a container's arguments; unknown flags fail."""
    plain = [
        re.sub(r"\$\{\w+:-(.*?)\}|\$\{\w+:\?.*?\}|\$\(\w+\)", lambda found: found[1] or "x", word) for word in words
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        flags = parse_flags(plain, {})
    assert "unknown flags" not in caplog.text, caplog.text
    return flags


def compose() -> dict[str, Any]:
    return documents(DEPLOY / "docker-compose.yml")[0]


# -- everything parses -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.y*ml")), ids=lambda path: path.name)
def test_every_file_is_yaml_and_says_what_it_is(path):
    found = documents(path)
    assert found
    for document in found:
        assert document.keys() >= {"apiVersion", "kind"} or "services" in document


def test_the_kustomization_lists_every_file():
    listed = documents(KUBERNETES / "kustomization.yaml")[0]["resources"]
    assert sorted(listed) == sorted(
        path.name for path in KUBERNETES.glob("*.yaml") if path.name != "kustomization.yaml"
    )


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_accepts_it():
    built = subprocess.run(["kubectl", "kustomize", str(KUBERNETES)], capture_output=True, text=True, timeout=60)
    assert built.returncode == 0, built.stderr
    made = [document for document in yaml.safe_load_all(built.stdout) if document]
    assert len(made) == len(manifests())
    images = {
        c["image"] for one in made if one["kind"] == "Deployment" for c in one["spec"]["template"]["spec"]["containers"]
    }
    assert all(image.startswith("registry.example.com/") for image in images)


# -- the images --------------------------------------------------------------------------------------


def test_the_images_hold_what_they_copy():
    for stage in dockerfile().values():
        for word, rest in stage:
            if word == "COPY":
                for source in rest.split()[:-1]:
                    assert (ROOT / source).exists(), source


def test_the_build_context_holds_what_is_copied_and_no_secrets():
    allowed = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = {s for stage in dockerfile().values() for word, rest in stage if word == "COPY" for s in rest.split()[:-1]}
    assert allowed == copied


@pytest.mark.parametrize("stage", ["frontend", "worker"])
def test_an_image_starts_its_command(stage, caplog):
    words = words_of(stage, "ENTRYPOINT") + words_of(stage, "CMD")
    assert words[:3] == ["python", "launch.py", stage]
    assert stage in COMMANDS
    flags = flags_of(words[3:], caplog)
    assert flags.skip_prepare_environment
    assert flags.listen
    port = flags.port if stage == "frontend" else flags.metrics_port
    (health,) = [rest for word, rest in dockerfile()[stage] if word == "HEALTHCHECK"]
    assert f"127.0.0.1:{port}/health/" in health
    assert ("EXPOSE", str(port)) in dockerfile()[stage]


def pins(path: Path) -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return dict(line.split("==") for line in lines if line and not line.startswith("-r"))


def test_the_front_end_has_the_tested_versions():
    ours, all_of_them = pins(DEPLOY / "requirements-frontend.txt"), pins(ROOT / "requirements.txt")
    assert ours.items() <= all_of_them.items()
    assert not {"torch", "diffusers", "transformers", "opencv-python-headless"} & ours.keys()


# -- compose -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["frontend", "worker"])
def test_compose_starts_what_the_program_understands(name, caplog):
    service = compose()["services"][name]
    flags = flags_of(service["command"], caplog)
    assert flags.queue_url == "redis://redis:6379/0"
    assert service["build"]["target"] == name
    assert (ROOT / "deploy" / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).exists()
    assert service["depends_on"]["redis"]["condition"] == "service_healthy"
    assert set(compose()["services"]) == {"redis", "frontend", "worker"}


def test_compose_agrees_with_itself(caplog):
    services = compose()["services"]
    front, worker = (flags_of(services[name]["command"], caplog) for name in ("frontend", "worker"))
    assert services["frontend"]["ports"] == [f"${{PORT:-8000}}:{front.port}"]
    assert (front.service_name, front.queue_retention) == (worker.service_name, worker.queue_retention)
    assert seconds(services["worker"]["stop_grace_period"]) >= worker.drain_seconds + GRACE_AFTER_DRAIN
    named = {v.partition(":")[0] for s in services.values() for v in s.get("volumes", [])}
    assert {name for name in named if re.fullmatch(r"\w+", name)} <= compose()["volumes"].keys()
    over = documents(DEPLOY / "docker-compose.gpu.yml")[0]["services"]
    assert over.keys() <= services.keys()


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_redis_is_durable_everywhere():
    command = compose()["services"]["redis"]["command"]
    settings = dict(zip(command[1::2], command[2::2], strict=True))
    conf = dict(line.split(" ", 1) for line in manifest("ConfigMap", "redis")["data"]["redis.conf"].splitlines())
    for wanted in ("appendonly yes", "appendfsync always", "maxmemory-policy noeviction"):
        name, value = wanted.split()
        assert settings[f"--{name}"] == value
        assert conf[name] == value


# -- Kubernetes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["frontend", "worker"])
def test_pods_start_what_the_program_understands(name, caplog):
    container = container_of(name)
    flags = flags_of(container["args"], caplog)
    assert flags.listen
    port = flags.port if name == "frontend" else flags.metrics_port
    ports = {entry["name"]: entry["containerPort"] for entry in container["ports"]}
    assert list(ports.values()) == [port]
    for probe, path in [
        ("startupProbe", "/health/live"),
        ("livenessProbe", "/health/live"),
        ("readinessProbe", "/health/ready"),
    ]:
        assert container[probe]["httpGet"] == {"path": path, "port": next(iter(ports))}


def test_front_ends_and_workers_mean_the_same_queue(caplog):
    front, worker = (flags_of(container_of(name)["args"], caplog) for name in ("frontend", "worker"))
    assert (front.service_name, front.queue_url, front.queue_retention) == (
        worker.service_name, worker.queue_url, worker.queue_retention,
    )  # fmt: skip
    assert front.queue_url is not None
    assert f"@{manifest('Service', 'redis')['metadata']['name']}:6379/" in front.queue_url


def test_a_worker_is_not_killed_before_it_has_drained(caplog):
    flags = flags_of(container_of("worker")["args"], caplog)
    grace = pod_of("Deployment", "worker")["terminationGracePeriodSeconds"]
    assert grace >= flags.drain_seconds + GRACE_AFTER_DRAIN
    assert flags.queue_lease * 2 < grace


def test_what_pods_refer_to_exists():
    kinds = {(one["kind"], one["metadata"]["name"]) for one in manifests()}
    to_make = set(re.findall(r"create secret generic (\w+)", (ROOT / "docs" / "scaling.md").read_text()))
    for found in references(manifests()):
        kind, name = found
        assert name in to_make if kind == "Secret" else found in kinds, found


def references(value: Any) -> Iterator[tuple[str, str]]:
    """(kind, name) of everything that pods and KEDA's objects name."""
    keys = {"claimName": "PersistentVolumeClaim", "secretName": "Secret", "serviceName": "Service"}
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in keys:
                yield keys[key], inner
            elif key in ("secretKeyRef", "configMap"):
                yield {"secretKeyRef": "Secret", "configMap": "ConfigMap"}[key], inner["name"]
            elif key == "authenticationRef":
                yield "TriggerAuthentication", inner["name"]
            elif key == "scaleTargetRef":
                yield "Deployment", inner["name"]
            elif key == "secretTargetRef":
                yield from (("Secret", entry["name"]) for entry in inner)
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_selectors_find_their_pods():
    pods = [one["spec"]["template"]["metadata"]["labels"] for one in manifests() if "template" in one.get("spec", {})]
    for one in manifests():
        spec = one.get("spec", {})
        selector = spec.get("selector", {}).get("matchLabels") or spec.get("podSelector", {}).get("matchLabels")
        if one["kind"] == "Service":
            selector = spec["selector"]
        assert selector is None or any(selector.items() <= labels.items() for labels in pods), one["metadata"]


def test_the_autoscaler_looks_at_the_streams_of_the_queue(caplog):
    service = flags_of(container_of("worker")["args"], caplog).service_name
    spec = manifest("ScaledObject", "worker")["spec"]
    assert [trigger["metadata"]["stream"] for trigger in spec["triggers"]] == [
        f"{base_of(service)}:low", f"{base_of(service)}:high",
    ]  # fmt: skip
    for trigger in spec["triggers"]:
        assert trigger["metadata"]["address"] == "redis.sdwebui.svc.cluster.local:6379"
        assert int(trigger["metadata"]["streamLength"]) > 0
        assert "consumerGroup" not in trigger["metadata"], "KEDA would look at what is pending instead"
    assert 1 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
    assert "replicas" not in manifest("Deployment", "worker")["spec"], "that is the autoscaler's"


def test_the_network_policy_lets_in_those_who_need_redis():
    (rule,) = manifest("NetworkPolicy", "redis")["spec"]["ingress"]
    (pods,) = [peer["podSelector"]["matchExpressions"][0]["values"] for peer in rule["from"] if "podSelector" in peer]
    assert sorted(pods) == ["frontend", "worker"]


@pytest.mark.parametrize("name", ["frontend", "worker"])
def test_pods_run_without_privileges(name):
    assert pod_of("Deployment", name)["securityContext"]["runAsNonRoot"]
    assert not container_of(name)["securityContext"]["allowPrivilegeEscalation"]
