"""The parts of a Kubernetes API that Helm uses while it renders for a cluster: its list of APIs, and `lookup`."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CORE = [("pods", "Pod"), ("services", "Service")]
GROUPS = {
    "apps/v1": [("daemonsets", "DaemonSet"), ("deployments", "Deployment")],
    "networking.k8s.io/v1": [("networkpolicies", "NetworkPolicy")],
    "rbac.authorization.k8s.io/v1": [("roles", "Role"), ("rolebindings", "RoleBinding")],
    "akri.sh/v0": [("configurations", "Configuration")],
}


def _resources(group_version, resources):
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": [
            {"name": name, "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get"]}
            for name, kind in resources
        ],
    }


def _answers(configurations):
    """Each path with its answer. `configurations` is None if Akri's CRDs are missing."""
    answers = {
        "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/api/v1": _resources("v1", CORE),
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    }
    for group_version, resources in GROUPS.items():
        if group_version == "akri.sh/v0" and configurations is None:
            continue
        group, version = group_version.split("/")
        version = {"groupVersion": group_version, "version": version}
        answers["/apis"]["groups"].append({"name": group, "versions": [version], "preferredVersion": version})
        answers[f"/apis/{group_version}"] = _resources(group_version, resources)
    for configuration in configurations or []:
        name = configuration["metadata"]["name"]
        answers[f"/apis/akri.sh/v0/namespaces/default/configurations/{name}"] = configuration
    return answers


@contextmanager
def cluster(folder, configurations):
    """A kubeconfig for a cluster with these Configurations, on a free loopback port."""
    answers = _answers(configurations)

    class Api(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.split("?")[0]
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(answers.get(path, missing)).encode()
            self.send_response(200 if path in answers else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "current-context": "test",
                "users": [{"name": "test", "user": {}}],
            }
        )
    )
    try:
        yield kubeconfig
    finally:
        server.shutdown()
        server.server_close()
