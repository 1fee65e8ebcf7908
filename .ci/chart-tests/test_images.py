"""Where the images come from."""

from chart import CHART, EXAMPLES, LOWEST_KUBERNETES, REGISTRY, VERSION, configuration, helm, only, template
from schemas import pod_spec

EVERYTHING = {
    "mockDevices": {"enabled": True},
    "grpcClient": {"enabled": True},
    "readings": {"enabled": True},
    "configurations": [
        {"name": "logged", "discoveryDetails": "http://a/", "broker": {"kind": "standalone"}},
        {"name": "served", "discoveryDetails": "http://a/", "broker": {"kind": "grpc"}},
    ],
}


def images(*arguments, values=None):
    """Every image that the chart renders."""
    found = set()
    for thing in template(*arguments, values=values):
        if spec := pod_spec(thing):
            found |= {container["image"] for container in spec["containers"]}
    return found


def without_registry(*arguments, values=None):
    return helm("template", "akri-http", CHART, "--kube-version", LOWEST_KUBERNETES, *arguments, values=values)


def ours(registry, tag):
    names = ("discovery-handler", "broker", "grpc-broker", "grpc-client", "mock-device", "readings")
    return {f"{registry}/http-{name}:{tag}" for name in names}


def test_without_a_registry_nothing_renders_and_the_error_says_how_to_get_images():
    for arguments in ([], *(["--values", example] for example in EXAMPLES if example.name != "private-registry.yaml")):
        error = without_registry(*arguments).stderr
        assert "images.registry: it is not set, and no public registry has this project's images" in error
        assert "Build and push them (docs/install.md of the project, step 1)" in error


def test_no_registry_is_needed_where_no_image_is_in_it():
    own = {"handler": {"enabled": False}} | configuration(broker={"image": {"repository": "busybox", "tag": "1"}})
    assert without_registry(values=own).returncode == 0
    whole = configuration() | {"images": {"discoveryHandler": {"repository": "registry.test/handler"}}}
    assert without_registry(values=whole).returncode == 0


def test_a_registry_is_neither_an_address_nor_a_folder():
    for registry in ("https://registry.test", "registry.test/", "registry test"):
        assert "at '/images/registry'" in without_registry(values={"images": {"registry": registry}}).stderr


def test_all_our_images_are_in_the_registry_with_the_tag():
    assert images(values=EVERYTHING) == ours(REGISTRY, VERSION)
    own = ["--set", "images.registry=localhost:5000", "--set", "images.tag=v2"]
    assert images(*own, values=EVERYTHING) == ours("localhost:5000", "v2")


def test_an_image_can_have_a_name_and_a_tag_of_its_own():
    values = {"images": {"tag": "v2", "discoveryHandler": {"repository": "handler", "tag": "v3"}, "standaloneBroker": {"repository": "b/c"}}}
    assert images(values=values) == {f"{REGISTRY}/handler:v3", "b/c:v2"}


def test_a_brokers_own_image_is_never_in_the_registry():
    values = configuration(broker={"image": {"repository": "busybox", "tag": "1"}}) | {"images": {"tag": "v2"}}
    (container,) = pod_spec(only(template(values=values), "Configuration"))["containers"]
    assert container["image"] == "busybox:1"
