"""The example manifests: valid by Kubernetes' published schemas, and consistent with the image and the
configuration that they carry."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions

from fastmesh import __version__
from fastmesh.config import load
from support.proxy import ROOT

MANIFESTS = sorted((ROOT / "examples" / "kubernetes").glob("*.yaml"))
# Init containers that are sidecars are there, without a feature gate, from this version on.
FIRST = (1, 29)
VERSIONS = [text for text in all_versions() if tuple(map(int, text.split(".")[:2])) >= FIRST]
PROXY_USER = 1337


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pods() -> Iterator[tuple[str, dict[str, Any], dict[str, dict[str, str]]]]:
    """(file, pod, its ConfigMaps by name) of each manifest."""
    for path in MANIFESTS:
        found = documents(path)
        maps = {item["metadata"]["name"]: item["data"] for item in found if item["kind"] == "ConfigMap"}
        for item in found:
            if "template" in item.get("spec", {}):
                yield path.name, item["spec"]["template"]["spec"], maps


PODS = list(pods())
each_pod = pytest.mark.parametrize(("pod", "maps"), [p[1:] for p in PODS], ids=[p[0] for p in PODS])


def proxy_of(pod: dict[str, Any]) -> dict[str, Any]:
    """The container of the proxy."""
    (found,) = (
        item
        for item in [*pod.get("initContainers", []), *pod["containers"]]
        if item["image"].startswith("fastmesh:")
    )
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
def test_manifests_are_valid(path: Path, version: str) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("spec", "template", "spec", "initContainers", 0, "restartPolici"), "Always"),
        (("spec", "template", "spec", "initContainers", 0, "ports"), "9400"),
        (("spec", "template", "spec", "containers"), None),
    ],
)
def test_a_mistake_would_be_seen(place: tuple[str | int, ...], value: object) -> None:
    (deployment,) = (item for item in documents(MANIFESTS[0]) if item["kind"] == "Deployment")
    changed: Any = copy.deepcopy(deployment)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(changed, VERSIONS[-1], strict=True)


@each_pod
def test_the_configuration_is_valid_and_lies_where_it_is_looked_for(
    pod: dict[str, Any], maps: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    proxy = proxy_of(pod)
    (mount,) = proxy["volumeMounts"]
    (volume,) = (item for item in pod["volumes"] if item["name"] == mount["name"])
    text = maps[volume["configMap"]["name"]]["fastmesh.yaml"]
    (tmp_path / "fastmesh.yaml").write_text(text)
    loaded = load(tmp_path / "fastmesh.yaml")
    assert not loaded.warnings
    assert proxy["args"] == ["run", "fastmesh.yaml"]
    assert mount["mountPath"] == "/etc/fastmesh"  # the image's working directory
    assert "subPath" not in mount


@each_pod
def test_ports_are_those_of_the_configuration(
    pod: dict[str, Any], maps: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    proxy = proxy_of(pod)
    named = {item["name"]: item["containerPort"] for item in proxy.get("ports", [])}
    probes = [
        proxy[name]["httpGet"]
        for name in ("startupProbe", "readinessProbe", "livenessProbe")
        if name in proxy
    ]
    (data,) = (data for data in maps.values() if "fastmesh.yaml" in data)
    (tmp_path / "fastmesh.yaml").write_text(data["fastmesh.yaml"])
    admin = load(tmp_path / "fastmesh.yaml").config.admin
    if probes:
        assert admin is not None
        assert admin.bind == f"0.0.0.0:{named['admin']}"
    assert {probe["port"] for probe in probes} <= {"admin"}
    assert {probe["path"] for probe in probes} <= {"/readyz", "/healthz"}


@each_pod
def test_the_proxy_has_no_privilege_and_its_user_to_itself(
    pod: dict[str, Any], maps: dict[str, dict[str, str]]
) -> None:
    proxy = proxy_of(pod)
    context = proxy["securityContext"]
    assert (context["runAsUser"], context["runAsNonRoot"], context["readOnlyRootFilesystem"]) == (
        PROXY_USER,
        True,
        True,
    )
    assert context["capabilities"] == {"drop": ["ALL"]}
    others = [item for item in pod["containers"] if item is not proxy]
    assert all(item.get("securityContext", {}).get("runAsUser") != PROXY_USER for item in others)


@each_pod
def test_images_are_of_this_version(pod: dict[str, Any], maps: dict[str, dict[str, str]]) -> None:
    containers = [*pod.get("initContainers", []), *pod["containers"]]
    ours = {item["image"] for item in containers if item["image"].startswith("fastmesh")}
    assert ours <= {f"fastmesh:{__version__}", f"fastmesh-init:{__version__}"}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_services_name_no_port_of_a_sidecar(path: Path) -> None:
    """Older ones, from 1.29 on, find no endpoint so: kubernetes/kubernetes#127958, #128850."""
    found = documents(path)
    named = {
        port["name"]
        for item in found
        if "template" in item.get("spec", {})
        for container in item["spec"]["template"]["spec"]["containers"]
        for port in container.get("ports", [])
    }
    for item in found:
        if item["kind"] == "Service":
            targets = [port.get("targetPort") for port in item["spec"]["ports"]]
            assert {one for one in targets if isinstance(one, str)} <= named
