"""What the project says about the chart is true: the values, the manifests, Akri's values and docs/install.md."""

import json
import math
import re
import shlex

import pytest
import yaml
from chart import CHART, LOWEST_KUBERNETES, REGISTRY, ROOT, VALUES, grpc, helm, only, template
from manifests import FOLDER, MANIFESTS, render
from schemas import AKRI, pod_spec, validate
from values_table import README, keys, readme, rows

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES_TEXT = (CHART / "values.yaml").read_text()
AKRI_KEYS = {
    line
    for line in (ROOT / ".ci/chart-tests/akri/chart-keys.txt").read_text().splitlines()
    if line and not line.startswith("#")
}
INSTALL = ROOT / "docs" / "install.md"
# Keys whose form values.yaml describes in words, because they are empty by default.
IN_WORDS = {
    "configurations.broker.configurationService",
    "configurations.broker.image",
    "configurations.broker.instanceService",
    "configurations.broker.job",
    "configurations.broker.podSpec",
    "configurations.broker.ports",
    "configurations.discoveryDetails",
    "configurations.discoveryProperties",
    "global",
    "grpcClient.podSpec",
    "handler.extraContainers",
    "handler.initContainers",
    "imagePullSecrets",
    "readings.podSpec",
}


def resolved(schema):
    return SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")] if "$ref" in schema else schema


def schema_keys(schema, path=""):
    """Every key of the schema, with a dot between levels. Lists add no level."""
    schema = resolved(schema)
    for key, below in schema.get("properties", {}).items():
        name = f"{path}.{key}".lstrip(".")
        yield name
        yield from schema_keys(below, name)
    if "items" in schema:
        yield from schema_keys(schema["items"], path)


def value_keys(values, path=""):
    if isinstance(values, dict):
        for key, below in values.items():
            name = f"{path}.{key}".lstrip(".")
            yield name
            yield from value_keys(below, name)
    elif isinstance(values, list):
        for item in values:
            yield from value_keys(item, path)


def free(path):
    """Whether a key is in a map with any keys, such as nodeSelector."""
    schema = SCHEMA
    for key in path.split("."):
        schema = resolved(schema)
        schema = resolved(schema["items"]) if "items" in schema else schema
        if key not in schema.get("properties", {}):
            return schema.get("additionalProperties") is not False
        schema = schema["properties"][key]
    return False


def test_every_value_is_in_the_schema():
    unknown = {key for key in set(value_keys(VALUES)) - set(schema_keys(SCHEMA)) if not free(key)}
    assert unknown == set()


def test_every_key_of_the_schema_is_in_the_values():
    missing = set(schema_keys(SCHEMA)) - set(value_keys(VALUES))
    in_words = {key for key in missing for words in IN_WORDS if key == words or key.startswith(f"{words}.")}
    list_items = {key for key in missing if re.search(r"\.(env|tolerations)\.\w+$", key)}
    assert missing - in_words - list_items == set()


def test_every_object_of_the_schema_is_closed_or_left_to_kubernetes():
    def walk(schema, path):
        if isinstance(schema, dict):
            if schema.get("type") in ("object", ["string", "object"]) and "$comment" not in schema:
                assert "additionalProperties" in schema, path
            for key, below in schema.items():
                walk(below, f"{path}/{key}")

    walk(SCHEMA, "")


def test_every_value_is_explained_by_a_comment():
    """The nearest comment above a key names it."""
    obvious = {"repository", "tag", "pullPolicy", "memory", "cpu", "type", "kubernetes.io/os"}
    comment, unexplained = "", []
    previous = ""
    for line in VALUES_TEXT.splitlines():
        if line.lstrip().startswith("#"):
            comment = comment + line if previous.lstrip().startswith("#") else line
        elif key := re.match(r" *(?:- )?([\w./]+):", line):
            if key[1] not in obvious and not re.search(rf"\b{key[1]}\b", comment):
                unexplained.append(line)
        previous = line
    assert unexplained == []


def settings(source):
    """The settings with a variable in a Rust source: the variable's name and its default, None if it has none."""
    text = (ROOT / source).read_text()
    found = {}
    for attributes, field in re.findall(r"#\[arg\(([^\]]*)\)\]\s*(?://.*\s*)*pub (\w+):", text):
        if variable := re.search(r'\benv\b(?: = "(\w+)")?', attributes):
            default = re.search(r'default_value(?: = "([^"]*)"|_t = (\w+))', attributes)
            if default and default[2]:
                product = re.search(rf"^const {default[2]}: usize = ([\d* ]+);", text, flags=re.MULTILINE)[1]
                default = [None, str(math.prod(map(int, product.split("*"))))]
            found[variable[1] or field.upper()] = default and default[1]
    return found


def test_the_handlers_settings_and_their_defaults_are_those_of_the_handler():
    own = "discovery-handler/src/config.rs"
    handlers = settings("discovery/src/settings.rs") | settings("daemon/src/admin.rs") | settings(own)
    for name, default in re.findall(r'mut_arg\("(\w+)".*default_value\("(\w+)"\)', (ROOT / own).read_text()):
        handlers[name.upper()] = default
    (container,) = pod_spec(only(template("--set", "handler.network.enabled=true"), "DaemonSet"))["containers"]
    charts = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    # The handler alone has these off.
    assert (handlers["ADMIN_ADDRESS"], handlers["STATE_DIRECTORY"]) == ("", "")
    assert charts == handlers | {"ADMIN_ADDRESS": ":8081", "STATE_DIRECTORY": "/var/lib/akri-http", "RUST_LOG": "info"}


def test_the_details_have_the_keys_that_the_handler_reads():
    mapping = re.search(r"^struct Mapping \{\n(.*?)^\}", (ROOT / "discovery-handler/src/details.rs").read_text(), re.M | re.S)[1]
    keys = {re.sub(r"_(\w)", lambda m: m[1].upper(), name) for name in re.findall(r"^    (\w+):", mapping, re.M)}
    assert keys == set(SCHEMA["properties"]["configurations"]["items"]["properties"]["discoveryDetails"]["properties"])


def test_the_grpc_port_and_settings_are_those_of_the_broker_and_the_client():
    broker, client = settings("broker/src/grpc/settings.rs"), settings("broker/src/client/settings.rs")
    assert broker.keys() == {"GRPC_ENDPOINT", "MIN_INTERVAL", "MAX_READS"}
    (container,) = pod_spec(only(template(values=grpc()), "Configuration"))["containers"]
    assert broker["GRPC_ENDPOINT"] == f"0.0.0.0:{container['ports'][0]['containerPort']}"
    known = re.sub(r"\n +#", "", VALUES_TEXT)
    for name, default in broker.items():
        assert f"{name} ({default}" in known
    for name in ("POLL_INTERVAL", "SENSOR_NAME"):
        assert f"{name} ({client[name]})" in known


def test_the_standalone_brokers_setting_is_explained():
    known = re.sub(r"\n +#", "", VALUES_TEXT)
    for name, default in settings("broker/src/standalone.rs").items():
        assert f"The standalone broker reads {name} ({default})" in known


def test_the_probes_ask_for_the_service_that_the_broker_serves():
    proto = (ROOT / "proto" / "http.proto").read_text()
    package = re.search(r"^package (\w+);", proto, flags=re.MULTILINE)[1]
    service = re.search(r"^service (\w+)", proto, flags=re.MULTILINE)[1]
    (container,) = pod_spec(only(template(values=grpc()), "Configuration"))["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["service"] == f"{package}.{service}"


def test_the_table_in_the_readme_is_what_the_values_say():
    assert README.read_text() == readme(), "run .ci/chart --update"


def test_the_table_has_a_default_for_every_value():
    paths = {path for path, value, _ in rows(VALUES_TEXT) if value}
    every = {path for path, _ in keys(VALUES_TEXT)}
    leaves = {path for path in every if not any(other[: len(path)] == path and other != path for other in every)}
    assert {leaf for leaf in leaves if not any(leaf[:length] in paths for length in range(1, len(leaf) + 1))} == set()


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_plain_manifests_are_what_the_chart_renders(name):
    assert (FOLDER / name).read_text() == render(name), "run .ci/chart --update"


def test_there_is_no_other_plain_manifest():
    assert {path.name for path in FOLDER.iterdir()} == MANIFESTS.keys()


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_plain_manifests_are_valid_and_say_nothing_of_helm(name):
    text = (FOLDER / name).read_text()
    for thing in yaml.safe_load_all(text):
        validate(thing, LOWEST_KUBERNETES)
        assert "namespace" not in thing["metadata"]
    assert "Helm" not in text and "helm.sh" not in text and "# Source" not in text


def test_the_values_for_akris_chart_have_keys_that_exist_there():
    values = yaml.safe_load((ROOT / "helm/akri-custom-values.yaml").read_text())
    leaves = {key for key in value_keys(values) if not any(other.startswith(f"{key}.") for other in value_keys(values))}
    assert leaves <= AKRI_KEYS


def test_the_values_for_akris_chart_name_the_images_and_details_of_ours():
    custom = yaml.safe_load((ROOT / "helm/akri-custom-values.yaml").read_text())["custom"]
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    ours = VALUES["configurations"][0]
    assert custom["discovery"]["image"]["repository"] == f"{REGISTRY}/{VALUES['images']['discoveryHandler']['repository']}"
    assert custom["discovery"]["image"]["tag"] == custom["configuration"]["brokerPod"]["image"]["tag"] == version
    broker = f"{REGISTRY}/{VALUES['images']['standaloneBroker']['repository']}"
    assert custom["configuration"]["brokerPod"]["image"]["repository"] == broker
    assert custom["configuration"]["name"] == ours["name"]
    assert custom["configuration"]["discoveryDetails"] == ours["discoveryDetails"]
    assert custom["configuration"]["discoveryHandlerName"] == VALUES["handler"]["name"]


def generated(name):
    """A file of values in template/, as cargo-generate writes it for akri-foo-discovery-handler."""
    text = (ROOT / "template" / name).read_text()
    for variable, value in (("project-name", "akri-foo-discovery-handler"), ("handler_name", "foo"), ("shared", "false")):
        text = text.replace("{{" + variable + "}}", value)
    assert "{{" not in text and "{%" not in text
    return yaml.safe_load(text)


def test_a_generated_handler_runs_by_our_chart():
    objects = template(values=generated("values.yaml"))
    handler = only(objects, "DaemonSet", "akri-foo-discovery-handler")
    (container,) = handler["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"{REGISTRY}/akri-foo-discovery-handler:0.1.0"
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert (environment["DISCOVERY_HANDLER_NAME"], environment["SHARED"]) == ("foo", "false")
    configuration = only(objects, "Configuration", "foo")["spec"]
    assert configuration["discoveryHandler"] == {"name": "foo", "discoveryDetails": "attic"}
    (broker,) = configuration["brokerSpec"]["brokerPodSpec"]["containers"]
    assert broker["image"].startswith("docker.io/library/busybox:")
    assert not [thing for thing in objects if thing["metadata"].get("annotations", {}).get("helm.sh/hook")]


def test_a_generated_handler_runs_by_akris_chart():
    values = generated("akri-values.yaml")
    leaves = {key for key in value_keys(values) if not any(other.startswith(f"{key}.") for other in value_keys(values))}
    assert leaves <= AKRI_KEYS
    assert values["custom"]["configuration"]["discoveryHandlerName"] == "foo"


def test_the_placeholder_registry_is_the_same_everywhere():
    example = yaml.safe_load((ROOT / "helm/examples/private-registry.yaml").read_text())["images"]
    for name, value in (("REGISTRY", example["registry"]), ("TAG", example["tag"])):
        assert re.search(rf"^{name}=(.*)$", INSTALL.read_text(), flags=re.MULTILINE)[1] == value
    assert example["registry"] == REGISTRY
    assert f"for example {REGISTRY}." in VALUES_TEXT


def test_the_document_builds_and_pushes_every_image_of_the_values():
    images = {image["repository"] for image in VALUES["images"].values() if isinstance(image, dict)}
    for action, option in (("build", "--tag"), ("push", None)):
        found = {next(options(w, option)) if option else w[2] for w in COMMANDS if w[:2] == ["docker", action]}
        assert found == {f"$REGISTRY/{image}:$TAG" for image in images}


def test_the_chart_has_the_version_of_the_workspace():
    cargo = (ROOT / "Cargo.toml").read_text()
    version = re.search(r'^version = "(.*)"$', cargo, flags=re.MULTILINE)[1]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == version


def test_an_instance_as_in_akris_documents_fits_the_schema_that_we_wrote():
    assert set(AKRI) == {"Configuration", "Instance"}
    validate(
        {
            "apiVersion": "akri.sh/v0",
            "kind": "Instance",
            "metadata": {"name": "akri-http-4294ea"},
            "spec": {"capacity": 1, "cdiName": "akri.sh/akri-http=4294ea", "configurationName": "akri-http", "shared": True},
        },
        LOWEST_KUBERNETES,
    )


def commands():
    """Every command of docs/install.md, as words. Continued lines are one command."""
    text = INSTALL.read_text()
    for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                yield shlex.split(line, comments=True)


COMMANDS = list(commands())


def options(words, *names):
    """The values of these options, given as `--name value` or `--name=value`."""
    for index, word in enumerate(words):
        for name in names:
            if word == name:
                yield words[index + 1]
            elif word.startswith(f"{name}="):
                yield word.split("=", 1)[1]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_file_that_a_documented_command_names_exists(words):
    files = {file for file in options(words, "--file", "--filename", "-f", "--values") if file != "-"}
    files |= {word for word in words if word.startswith(("helm/", "./helm/", "kubernetes/", "./kubernetes/"))}
    for file in files:
        assert (ROOT / file).exists(), file


HELM_COMMANDS = [w for w in COMMANDS if w[0] == "helm" and w[1] in ("install", "upgrade", "template", "show", "lint")]


@pytest.mark.parametrize("words", HELM_COMMANDS, ids=" ".join)
def test_every_value_that_a_documented_command_sets_exists(words):
    known = AKRI_KEYS if "akri-helm-charts/akri-dev" in words else set(schema_keys(SCHEMA))
    for setting in options(words, "--set", "--set-string"):
        key = re.sub(r"\[\d+\]", "", setting.split("=")[0])
        assert key in known or (key.startswith("imagePullSecrets.") and "imagePullSecrets" in known), key


@pytest.mark.parametrize("words", [w for w in HELM_COMMANDS if "./helm/akri-http" in w], ids=" ".join)
def test_every_documented_command_for_our_chart_renders(words):
    arguments = [word for word in words[words.index("./helm/akri-http") + 1 :] if word not in ("--install", "--wait")]
    if words[1] == "show":
        return
    run = helm("template", "akri-http", CHART, "--kube-version", LOWEST_KUBERNETES, *arguments)
    assert run.returncode == 0, run.stderr


def test_every_document_names_the_version_of_akri_in_every_command():
    files = [ROOT / "README.md", INSTALL, ROOT / "helm/akri-custom-values.yaml", *(CHART / "templates").rglob("*.t*")]
    lines = [line for file in files for line in file.read_text().splitlines()]
    lines = [line for line in lines if re.search(r"helm (install|upgrade) akri ", line)]
    # `helm install akri` in a sentence is not a command.
    lines = [line for line in lines if not re.search("helm install akri` (hangs|says)", line)]
    assert len(lines) >= 7
    for line in lines:
        assert re.search(r"akri-dev (--repo \S+ )?--version 0\.13\.26\b", line), line


def test_the_values_of_akris_chart_that_the_document_names_exist():
    named = set(re.findall(r"\b((?:webhookConfiguration|cleanupHook)\.[\w.]*\w)", INSTALL.read_text()))
    assert len(named) == 4
    assert named <= AKRI_KEYS


def test_the_document_has_commands_for_both_routes():
    text = [" ".join(words) for words in HELM_COMMANDS]
    assert any("akri-helm-charts/akri-dev --version 0.13.26 --values helm/akri-custom-values.yaml" in line for line in text)
    assert any("./helm/akri-http" in line for line in text)
