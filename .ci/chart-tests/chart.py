"""Renders the chart with Helm, with one call per case."""

import json
import os
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "akri-http"
EXAMPLES = sorted((ROOT / "helm" / "examples").glob("*.yaml"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
CHART_YAML = yaml.safe_load((CHART / "Chart.yaml").read_text())
VERSION = CHART_YAML["version"]

# The lowest version that Chart.yaml supports, and the highest that kubernetes-validate has schemas for.
LOWEST_KUBERNETES = CHART_YAML["kubeVersion"].removeprefix(">=").removesuffix("-0")
HIGHEST_KUBERNETES = "1.37.0"
# The chart has no default for it. It is the placeholder of docs/install.md.
REGISTRY = "registry.example.com/me"
IN_REGISTRY = ["--set", f"images.registry={REGISTRY}"]


def helm(*arguments, values=None, environment=None):
    """Runs Helm, with `values` as a values file on standard input."""
    command = [os.environ["HELM"], *map(str, arguments)]
    if values is not None:
        command += ["--values", "-"]
    return subprocess.run(
        command,
        input=None if values is None else json.dumps(values),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env=os.environ | (environment or {}),
    )


def template(*arguments, values=None, release="akri-http"):
    """The rendered objects, in Helm's default namespace unless the arguments set another."""
    run = helm("template", release, CHART, "--kube-version", LOWEST_KUBERNETES, *IN_REGISTRY, *arguments, values=values)
    assert run.returncode == 0, run.stderr
    return [document for document in yaml.safe_load_all(run.stdout) if document]


def refusal(*arguments, values=None):
    """The error with which Helm refuses these values."""
    run = helm("template", "akri-http", CHART, "--kube-version", LOWEST_KUBERNETES, *IN_REGISTRY, *arguments, values=values)
    assert run.returncode != 0, "these values were accepted"
    return run.stderr


def only(objects, kind, name=None):
    """The only object of this kind, and of this name if there is one."""
    found = [o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} objects of kind {kind}"
    return found[0]


def grpc(**keys):
    """Values with one Configuration, with a broker of kind `grpc` and these keys."""
    return configuration(broker={"kind": "grpc"} | keys)


def configuration(**keys):
    """Values with one Configuration, with the required keys and these."""
    return {"configurations": [{"name": "cameras", "discoveryDetails": "http://discovery:9999/discovery"} | keys]}
