"""Kubernetes manifests for KubeRay and the API, written from one description.

A file in ``deploy/`` is what ``render`` writes by default; a user writes his own with
``onepass manifests``. KubeRay 1.6 or newer is needed, for ``authOptions.secretName``: the operator
asks the job server too, so the token must be known to it and not only to the pods.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from cluster.errors import InputError
from cluster.pods import KEYS, Deployment, container_of, pod_of, probe_of
from cluster.session import store_bytes

API_PORT = 8000
DASHBOARD_PORT = 8265
_GIB = 2**30


def ray_job(made: Deployment, command: Sequence[str]) -> dict[str, Any]:
    """A RayJob: a cluster for one command, taken down at its end.

    The number of workers is fixed: a job lays its actors out over what is there when it starts.
    A spot node that goes is replaced and its rows are done again; where the head goes, the job
    is begun again with a new cluster, and the same command continues what is committed.
    """
    return _resource(
        "RayJob",
        made,
        {
            "entrypoint": shlex.join(["python", "-m", "onepass", *command]),
            "submissionMode": "K8sJobMode",
            "backoffLimit": made.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "rayClusterSpec": _cluster(made, scaled=False),
        },
    )


def ray_cluster(made: Deployment) -> dict[str, Any]:
    """A RayCluster that stays, for ``onepass submit``; its workers come and go.

    One of each kind stays, because a job lays its actors out over what is there when it starts.
    """
    return _resource("RayCluster", made, _cluster(made, scaled=True))


def ray_service(made: Deployment) -> dict[str, Any]:
    """A RayService: the API on Ray Serve, shards of the index in processes of their own.

    Probes are KubeRay's: they ask the node and Ray Serve's proxy, which answers for an
    application that is healthy. A replica that is not is started again by Ray Serve.
    """
    import yaml

    common = {"index": made.index, "shards": made.shards, "replicas": made.replicas}
    shards = [
        {
            "name": f"onepass-shard-{own}",
            "import_path": "api.deployed:shard",
            "route_prefix": None,
            "args": {**common, "own": own},
        }
        for own in range(made.shards)
    ]
    service = {
        "name": "onepass",
        "import_path": "api.deployed:service",
        "route_prefix": "/",
        "args": {**common, "api_key_file": KEYS},
    }
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": API_PORT, "request_timeout_s": 120},  # noqa: S104
        "applications": [*shards, service],
    }
    workers = _group(
        "serve", made, cpus=made.cpus, gpus=0, most=made.replicas, least=made.replicas, keys=True
    )
    workers["template"]["spec"]["containers"][0]["ports"] = [
        {"containerPort": API_PORT, "name": "serve"}
    ]
    return _resource(
        "RayService",
        made,
        {
            "serveConfigV2": yaml.safe_dump(config, sort_keys=False),
            "rayClusterConfig": {
                "rayVersion": version("ray"),
                "authOptions": _auth(made),
                "headGroupSpec": _head(made),
                "workerGroupSpecs": [workers],
            },
        },
    )


def api(made: Deployment) -> list[dict[str, Any]]:
    """A Deployment and a Service of the API in one process a pod; no Ray, and faster per request."""
    labels = {"app.kubernetes.io/name": f"{made.name}-api"}
    serve = ["python", "-m", "onepass", "serve", made.index]
    container = container_of(
        "api",
        made,
        cpus=made.cpus,
        gpus=0,
        extra={
            "command": [
                *serve,
                *("--host", "0.0.0.0", "--port", str(API_PORT)),  # noqa: S104
                *("--api-key-file", KEYS, "--link-state", "/tmp/links.sqlite3"),  # noqa: S108
            ],
            "ports": [{"containerPort": API_PORT, "name": "http"}],
            # It answers /livez before the index is open, and /readyz when it is.
            "livenessProbe": probe_of("/livez", period=10, failures=6),
            "readinessProbe": probe_of("/readyz", period=5, failures=2),
        },
        keys=True,
    )
    pod = pod_of(made, container, keys=True, token=False) | {
        # The process drains for 2 s and then finishes answers for 30.
        "terminationGracePeriodSeconds": 40,
    }
    pods = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"replicas": made.replicas, "selector": {"matchLabels": labels}, "template": pods}
    port = {"name": "http", "port": 80, "targetPort": "http"}
    service = {"selector": labels, "ports": [port]}
    return [
        _resource("Deployment", made, spec, api_version="apps/v1", suffix="-api"),
        _resource("Service", made, service, api_version="v1", suffix="-api"),
    ]


def _resource(
    kind: str,
    made: Deployment,
    spec: dict[str, Any],
    *,
    api_version: str = "ray.io/v1",
    suffix: str = "",
) -> dict[str, Any]:
    where = {"namespace": made.namespace} if made.namespace else {}
    named = {"name": f"{made.name}{suffix}", **where}
    return {"apiVersion": api_version, "kind": kind, "metadata": named, "spec": spec}


def _auth(made: Deployment) -> dict[str, str]:
    return {"mode": "token", "secretName": made.token_secret}


def _cluster(made: Deployment, *, scaled: bool) -> dict[str, Any]:
    def group(name: str, cpus: int, gpus: int, most: int) -> dict[str, Any]:
        return _group(name, made, cpus=cpus, gpus=gpus, most=most, least=1 if scaled else most)

    groups = []
    if made.gpu_workers:
        groups.append(group("gpu", made.cpus_a_gpu, 1, made.gpu_workers))
    if made.decode_workers:
        groups.append(group("decode", made.cpus, 0, made.decode_workers))
    if not groups:
        raise InputError("--gpu-workers 0 and --decode-workers 0: a cluster needs a worker")
    scaling = {
        "enableInTreeAutoscaling": True,
        # Longer than a job takes from its start to its first task.
        "autoscalerOptions": {"idleTimeoutSeconds": 600, "upscalingMode": "Default"},
    }
    return {
        "rayVersion": version("ray"),
        "authOptions": _auth(made),
        **(scaling if scaled else {}),
        "headGroupSpec": _head(made),
        "workerGroupSpecs": groups,
    }


def _head(made: Deployment) -> dict[str, Any]:
    """The head does no work: it must not go when a worker takes too much memory, nor be spot."""
    ports = [
        {"containerPort": 6379, "name": "gcs-server"},
        {"containerPort": DASHBOARD_PORT, "name": "dashboard"},
        {"containerPort": 10001, "name": "client"},
    ]
    container = container_of("ray-head", made, cpus=2, gpus=0, memory_gib=8, extra={"ports": ports})
    return {
        "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104
        "template": {"spec": pod_of(made, container, memory_gib=8, token=True)},
    }


def _group(
    name: str,
    made: Deployment,
    *,
    cpus: int,
    gpus: int,
    most: int,
    least: int,
    keys: bool = False,
) -> dict[str, Any]:
    store = store_bytes(cpus, memory=made.memory_gib * _GIB, shm=None)
    pod = pod_of(
        made,
        container_of("ray-worker", made, cpus=cpus, gpus=gpus, keys=keys),
        keys=keys,
        token=False,
    )
    if gpus:
        key, _, value = made.spot.partition("=")
        pod |= {
            "nodeSelector": {key: value},
            "tolerations": [
                {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"},
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
            ],
        }
    return {
        "groupName": name,
        "replicas": least,
        "minReplicas": least,
        "maxReplicas": most,
        "rayStartParams": {
            "num-cpus": str(cpus),
            "num-gpus": str(gpus),
            "object-store-memory": str(store),
        },
        "template": {"spec": pod},
    }
