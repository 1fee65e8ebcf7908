"""The plain manifests below kubernetes/, rendered from the chart. Run by itself, it writes them."""

import re

from chart import CHART, LOWEST_KUBERNETES, ROOT, helm

FOLDER = ROOT / "kubernetes"

# File to what it is for, the values as arguments of Helm, and the templates that it is rendered from.
MANIFESTS = {
    "device.yaml": (
        "Nine mock devices and their discovery service: one Deployment, ten Services",
        ["--set=mockDevices.enabled=true"],
        ["mock-devices"],
    ),
    "discovery-handler.yaml": ("The discovery handler on every node", [], ["discovery-handler"]),
    "configuration.yaml": ("A Configuration that gives each device a standalone broker", [], ["configurations"]),
    "grpc.yaml": (
        "Instead of configuration.yaml, a Configuration that gives each device a gRPC broker, and a client",
        ["--values=helm/examples/grpc.yaml"],
        ["configurations", "grpc-client"],
    ),
}


def render(name):
    """The text of one manifest, without the labels that only mean something to Helm."""
    purpose, values, templates = MANIFESTS[name]
    arguments = [*values] + [f"--show-only=templates/{t}.yaml" for t in templates]
    run = helm("template", "akri-http", CHART, "--kube-version", LOWEST_KUBERNETES, *arguments)
    assert run.returncode == 0, run.stderr
    text = re.sub(r"^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", "", run.stdout, flags=re.MULTILINE)
    documents = [re.sub(r"\A# Source: .*\n", "", part).strip() for part in re.split(r"^---\n", text, flags=re.MULTILINE)]
    head = f"# {purpose}.\n# Rendered from helm/akri-http by `.ci/chart --update`; change it there.\n"
    return head + "\n---\n".join(filter(None, documents)) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in MANIFESTS:
        (FOLDER / name).write_text(render(name))
        print(f"wrote kubernetes/{name}")
