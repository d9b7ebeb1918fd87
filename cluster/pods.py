"""What manifests are written from, and the pods in them: volumes, resources, who they run as."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cluster.errors import InputError

DATA = "/data"  # where the claim is mounted, on every node
USER_ID = 1000
KEYS = "/etc/onepass/keys/api-keys"


@dataclass(frozen=True)
class Deployment:
    """What a manifest is written from.

    Attributes:
        name: of what is made; the other names begin with it.
        namespace: of all of it; None: the one that kubectl uses.
        image: with onepass in it, as ``deploy/Dockerfile`` makes it.
        claim: a persistent volume claim that many nodes mount, at ``/data``.
        token_secret: a Secret whose key ``auth_token`` is Ray's token.
        env_secret: a Secret whose keys become environment variables, as AWS credentials; or None.
        keys_secret: a Secret whose key ``api-keys`` is the API's key file, one key a line.
        spot: label that spot nodes have, KEY=VALUE, and their taint where they have one.
        gpu_workers: pods with one GPU each, on spot nodes; the most where they are scaled.
        cpus_a_gpu: logical CPUs of such a pod; some 11 cores decode for one fast GPU.
        decode_workers: pods without a GPU that only decode; the most where they are scaled.
        cpus: logical CPUs of such a pod, and of one that serves.
        memory_gib: memory of a worker, with its object store.
        retries: how often a job is begun again with a new cluster; it continues.
        replicas: of the API: pods, or processes that answer.
        shards: of the API on Ray: processes that search parts of the index.
        index: folder of the index, as the pods see it.
    """

    name: str = "onepass"
    namespace: str | None = None
    image: str = "onepass:latest"
    claim: str = "onepass-data"
    token_secret: str = "onepass-ray-token"  # noqa: S105 - the name of one
    env_secret: str | None = None
    keys_secret: str = "onepass-api-keys"  # noqa: S105
    spot: str = "onepass/spot=true"
    gpu_workers: int = 2
    cpus_a_gpu: int = 12
    decode_workers: int = 2
    cpus: int = 8
    memory_gib: int = 32
    retries: int = 3
    replicas: int = 2
    shards: int = 1
    index: str = f"{DATA}/index"

    def __post_init__(self) -> None:
        """Refuse what Kubernetes would refuse, or take for something else."""
        names = {
            "--name": self.name,
            "--namespace": self.namespace,
            "--claim": self.claim,
            "--token-secret": self.token_secret,
            "--env-secret": self.env_secret,
        }
        for option, value in names.items():
            if value is not None and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?", value):
                raise InputError(
                    f"{option} {value}: a name is lower-case letters, digits and -, at most 50"
                )
        if not re.fullmatch(r"[\w.\-/]+=[\w.\-]+", self.spot):
            raise InputError(f"--spot {self.spot}: give KEY=VALUE, the label of your spot nodes")
        if not re.fullmatch(r"[\w.\-/:@]+", self.image):
            raise InputError(f"--image {self.image}: give REGISTRY/NAME:TAG")


def container_of(
    name: str,
    made: Deployment,
    *,
    cpus: int,
    gpus: int,
    memory_gib: int | None = None,
    keys: bool = False,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A container with its data, shared memory and limits; ``keys``: with the API's key file."""
    amounts: dict[str, Any] = {"cpu": str(cpus), "memory": f"{memory_gib or made.memory_gib}Gi"}
    if gpus:
        amounts["nvidia.com/gpu"] = str(gpus)
    mounts: list[dict[str, Any]] = [
        {"name": "data", "mountPath": DATA},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
    ]
    if keys:
        mounts.append({"name": "keys", "mountPath": KEYS.rpartition("/")[0], "readOnly": True})
    secret = {"envFrom": [{"secretRef": {"name": made.env_secret}}]} if made.env_secret else {}
    return {
        "name": name,
        "image": made.image,
        **(extra or {}),
        "resources": {"requests": amounts, "limits": dict(amounts)},
        **secret,
        "volumeMounts": mounts,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def pod_of(
    made: Deployment,
    container: dict[str, Any],
    *,
    token: bool,
    memory_gib: int | None = None,
    keys: bool = False,
) -> dict[str, Any]:
    """A pod of one container; ``token``: may talk to Kubernetes, as Ray's autoscaler must."""
    # A third of memory, which it is a part of: Ray's objects have at most 30 %.
    shm = f"{(memory_gib or made.memory_gib) * 1024 // 3}Mi"
    volumes: list[dict[str, Any]] = [
        {"name": "data", "persistentVolumeClaim": {"claimName": made.claim}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shm}},
    ]
    if keys:
        # Kubernetes gives it to root and the group of fsGroup, which is ours.
        secret = {"secretName": made.keys_secret, "defaultMode": 0o440}
        volumes.append({"name": "keys", "secret": secret})
    return {
        **({} if token else {"automountServiceAccountToken": False}),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }


def probe_of(path: str, *, period: int, failures: int) -> dict[str, Any]:
    """Asks a path of the port called http."""
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }
