"""Renders the chart with Helm, one call for each case."""

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

# The lowest version that Chart.yaml promises, and the highest whose schemas kubernetes-validate has.
LOWEST_KUBERNETES = CHART_YAML["kubeVersion"].removeprefix(">=").removesuffix("-0")
HIGHEST_KUBERNETES = "1.37.0"


def helm(*arguments, values=None, environment=None):
    """Runs Helm; `values` go in as a file of values on standard input."""
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
    """The rendered objects, for Helm's default namespace unless the arguments say otherwise."""
    run = helm("template", release, CHART, "--kube-version", LOWEST_KUBERNETES, *arguments, values=values)
    assert run.returncode == 0, run.stderr
    return [document for document in yaml.safe_load_all(run.stdout) if document]


def refusal(*arguments, values=None):
    """What Helm says when it refuses these values."""
    run = helm("template", "akri-http", CHART, "--kube-version", LOWEST_KUBERNETES, *arguments, values=values)
    assert run.returncode != 0, "these values were accepted"
    return run.stderr


def only(objects, kind, name=None):
    """The one object of this kind, and this name if given."""
    found = [o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} objects of kind {kind}"
    return found[0]


def grpc(**keys):
    """Values with one Configuration, whose broker is of kind `grpc` and has these keys too."""
    return configuration(broker={"kind": "grpc"} | keys)


def configuration(**keys):
    """Values with one Configuration, which has these keys beside the required ones."""
    return {"configurations": [{"name": "cameras", "discoveryDetails": "http://discovery:9999/discovery"} | keys]}
