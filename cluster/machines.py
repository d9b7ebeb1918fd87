"""What is not Kubernetes: the image, and a Ray cluster on machines that one has.

The cluster is for Ray's launcher (``ray up``) with addresses that are known. Ray's other providers
ask for an account's regions, networks and machine types, which nobody can check from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.manifests import DASHBOARD_PORT
from cluster.pods import DATA, USER_ID, Deployment
from cluster.session import store_bytes
from cluster.submit import CODE

PYTHON = "3.11"  # the oldest that pyproject.toml allows, and the one that CI runs
EXTRAS = ("lite0", "openvino", "database")
TOKEN_FILE = "/home/onepass/.ray/auth_token"  # noqa: S105 - where Ray looks for one


def machines(made: Deployment, *, head: str, workers: Sequence[str], user: str) -> dict[str, Any]:
    """A configuration for ``ray up``: containers on machines that are reached by SSH.

    Args:
        made: the image and the name; ``cpus`` and ``memory_gib`` are a machine's.
        head: address of the head, which does no work.
        workers: addresses of the workers.
        user: who logs in; may run docker.
    """
    store = store_bytes(made.cpus, memory=made.memory_gib * 2**30, shm=None)
    start = "RAY_AUTH_MODE=token ray start --disable-usage-stats"
    return {
        "cluster_name": made.name,
        "provider": {"type": "local", "head_ip": head, "worker_ips": list(workers)},
        "auth": {"ssh_user": user},
        "max_workers": len(workers),
        "docker": {
            "image": made.image,
            "container_name": made.name,
            "run_options": [
                f"--shm-size={store * 11 // 10}",
                f"--volume={DATA}:{DATA}",
                "--env=RAY_AUTH_MODE=token",
            ],
        },
        # The same token on every machine, from the one that 'ray get-auth-token --generate' made.
        "file_mounts": {TOKEN_FILE: "~/.ray/auth_token"},
        "head_start_ray_commands": [
            "ray stop",
            f"{start} --head --port=6379 --num-cpus=0 --num-gpus=0 "
            f"--dashboard-port={DASHBOARD_PORT} --autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": [
            "ray stop",
            f"{start} --address=$RAY_HEAD_IP:6379 --num-cpus={made.cpus} "
            f"--object-store-memory={store}",
        ],
    }


def dockerfile() -> str:
    """The image: ``--target cpu`` or ``--target cuda``.

    Nothing secret is in a layer: the token and all credentials come when it is run.
    """
    folders = "\n".join(f"COPY {name} {name}" for name in CODE if not name.endswith(".py"))
    extras = ",".join(EXTRAS)
    return f"""\
# Written by 'onepass manifests dockerfile'; from the root of a checkout:
#   docker build -f deploy/Dockerfile --target cpu -t onepass:cpu .
#   docker build -f deploy/Dockerfile --target cuda -t onepass:cuda .

FROM python:{PYTHON}-slim-bookworm AS base
# g++ for --engine compile; wget for the probes that KubeRay adds to each Ray container.
RUN apt-get update \\
 && apt-get install -y --no-install-recommends g++ wget \\
 && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 \\
    RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RUN useradd --create-home --uid {USER_ID} onepass && mkdir -p {DATA} && chown onepass {DATA}
WORKDIR /src
COPY pyproject.toml constraints.txt README.md onepass.py ./
{folders}

FROM base AS cpu
# First, and from PyTorch's own index: PyPI's wheels for Linux bring CUDA along.
RUN pip install --index-url https://download.pytorch.org/whl/cpu torch torchvision
RUN pip install -c constraints.txt '.[{extras}]' && rm -rf /src
USER {USER_ID}
WORKDIR /home/onepass

FROM base AS cuda
# PyPI's wheels bring CUDA's libraries; the driver is the machine's.
RUN pip install -c constraints.txt '.[{extras}]' && rm -rf /src
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER {USER_ID}
WORKDIR /home/onepass
"""


def dockerignore() -> str:
    """What the build sees: the code, and nothing else that lies in a checkout."""
    kept = ["pyproject.toml", "constraints.txt", "README.md", *CODE]
    return "\n".join(["*", *(f"!{name}" for name in kept), "**/__pycache__", ""])
