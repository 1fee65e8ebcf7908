"""Checks objects against Kubernetes' schemas, Akri's CRDs and the Pod Security level `restricted`."""

import json
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import referencing
import yaml

SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
AKRI = yaml.safe_load((Path(__file__).parent / "akri" / "crds.yaml").read_text())
PROMETHEUS = yaml.safe_load((Path(__file__).parent / "prometheus-operator.yaml").read_text())
HASH = "4294ea"


@cache
def _validator(version, kind, api_version):
    """The strict validator of one kind. kubernetes-validate itself reads all definitions again for each object."""
    folder = SCHEMAS / f"v{version}-local-strict"
    group, _, name = api_version.rpartition("/")
    file = "-".join(filter(None, [kind.lower(), group.split(".")[0], name]))
    registry = _definitions(version)
    schema = json.loads((folder / f"{file}.json").read_text())
    registry = referencing.Resource.from_contents(schema) @ registry
    return jsonschema.Draft202012Validator(schema, registry=registry)


@cache
def _definitions(version):
    definitions = json.loads((SCHEMAS / f"v{version}-local-strict" / "_definitions.json").read_text())
    return referencing.Resource.from_contents(definitions) @ referencing.Registry()


def validate(thing, version):
    """Fails unless the object, and everything that Akri makes from it, is valid in this version of Kubernetes."""
    version = ".".join(version.split(".")[:2]) + ".0"
    if thing["apiVersion"] == "akri.sh/v0":
        jsonschema.Draft202012Validator(AKRI[thing["kind"]]).validate(thing)
        for made in made_by_akri(thing):
            validate(made, version)
    elif thing["apiVersion"] == "monitoring.coreos.com/v1":
        jsonschema.Draft202012Validator(PROMETHEUS[thing["kind"]]).validate(thing)
    else:
        _validator(version, thing["kind"], thing["apiVersion"]).validate(thing)
    check_names(thing)


def check_names(thing):
    """Refuses names and labels that the API server refuses although the schemas accept them."""
    metadata = thing["metadata"]
    longest = 63 if thing["kind"] in ("Service", "Job") else 253
    assert len(metadata["name"]) <= longest, f"{thing['kind']} {metadata['name']} is too long"
    for key, value in metadata.get("labels", {}).items():
        assert len(value) <= 63, f"label {key} of {metadata['name']} is too long: {value}"


def made_by_akri(configuration):
    """The Pod or Job and the Services that Akri's Controller makes for an Instance of an unshared device."""
    spec, name = configuration["spec"], configuration["metadata"]["name"]
    instance = f"{name}-{HASH}"
    broker = json.loads(json.dumps(spec.get("brokerSpec", {})).replace("{{PLACEHOLDER}}", f"akri.sh/{instance}"))
    labels = {"akri.sh/configuration": name, "akri.sh/instance": instance, "controller": "akri.sh"}
    if "brokerPodSpec" in broker:
        yield _object("v1", "Pod", f"{instance}-pod", labels, broker["brokerPodSpec"])
    if "brokerJobSpec" in broker:
        yield _object("batch/v1", "Job", f"{instance}-99-job", labels, broker["brokerJobSpec"])
    for key, service in (("instanceServiceSpec", instance), ("configurationServiceSpec", name)):
        if key in spec:
            yield _object("v1", "Service", f"{service}-svc", labels, spec[key] | {"selector": labels})


def _object(api_version, kind, name, labels, spec):
    metadata = {"name": name, "labels": labels | {"app": name}}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}


def pod_spec(thing):
    """The Pod spec in a Pod, a workload or a Configuration; None if there is none."""
    if thing["kind"] == "Configuration":
        broker = thing["spec"].get("brokerSpec", {})
        return broker.get("brokerPodSpec") or broker.get("brokerJobSpec", {}).get("template", {}).get("spec")
    if thing["kind"] == "Pod":
        return thing["spec"]
    return thing["spec"].get("template", {}).get("spec") if "spec" in thing else None


VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret", "image",
}  # fmt: skip


def violations(spec):
    """What the Pod Security level `restricted` forbids in a Pod spec."""
    pod = spec.get("securityContext", {})
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    for volume in spec.get("volumes", []):
        found += [f"volume {kind}" for kind in volume.keys() - VOLUMES - {"name"}]
    if pod.get("sysctls") or pod.get("seLinuxOptions") or pod.get("windowsOptions"):
        found.append("sysctls, seLinuxOptions or windowsOptions of the Pod")
    for container in spec.get("initContainers", []) + spec["containers"]:
        own = container.get("securityContext", {})
        both = pod | own
        capabilities = own.get("capabilities", {})
        rules = {
            "privileged": not own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities.drop": "ALL" in capabilities.get("drop", []),
            "capabilities.add": set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
            "runAsNonRoot": both.get("runAsNonRoot") is True,
            "runAsUser": both.get("runAsUser") != 0,
            "seccompProfile": both.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "procMount": own.get("procMount", "Default") == "Default",
            "hostPort": not any(port.get("hostPort") for port in container.get("ports", [])),
        }
        found += [f"{container['name']}: {rule}" for rule, kept in rules.items() if not kept]
    return found
