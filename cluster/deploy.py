"""Manifests as text, by their names: what ``onepass manifests`` prints and ``deploy/`` holds."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from cluster.machines import dockerfile, dockerignore, machines
from cluster.manifests import api, ray_cluster, ray_job, ray_service
from cluster.pods import DATA, Deployment
from cluster.submit import check_command

EXAMPLE = ("extract", f"{DATA}/photos", "--model", "lite0", "--out", f"{DATA}/runs/first")
FILES = {
    "rayjob": "rayjob.yaml",
    "raycluster": "raycluster.yaml",
    "rayservice": "rayservice.yaml",
    "api": "api.yaml",
    "machines": "machines.yaml",
    "dockerfile": "Dockerfile",
    "dockerignore": "Dockerfile.dockerignore",
}


def render(
    kind: str,
    made: Deployment,
    *,
    command: Sequence[str] = EXAMPLE,
    head: str = "10.0.0.1",
    workers: Sequence[str] = ("10.0.0.2", "10.0.0.3"),
    user: str = "ubuntu",
) -> str:
    """One file of ``FILES``.

    Args:
        kind: a key of ``FILES``.
        made: what it is written from.
        command: of ``rayjob``: the onepass command.
        head, workers, user: of ``machines``: addresses, and who logs in.

    Raises:
        ClusterError: the command cannot run on a cluster, as ``onepass submit`` would say.
    """
    import yaml

    if kind == "dockerfile":
        return dockerfile()
    if kind == "dockerignore":
        return dockerignore()
    if kind == "rayjob":
        check_command(command)
    documents = {
        "rayjob": lambda: [ray_job(made, command)],
        "raycluster": lambda: [ray_cluster(made)],
        "rayservice": lambda: [ray_service(made)],
        "api": lambda: api(made),
        "machines": lambda: [machines(made, head=head, workers=workers, user=user)],
    }[kind]()
    text: str = yaml.safe_dump_all(documents, sort_keys=False, width=100)
    return _header(kind, made) + text


def _header(kind: str, made: Deployment) -> str:
    """How to make what the file names, as comments."""
    where = f" -n {made.namespace}" if made.namespace else ""
    token = [
        f"#   kubectl{where} create secret generic {made.token_secret} \\",
        '#     --from-literal=auth_token="$(openssl rand -hex 32)"',
    ]
    keys = [
        f"#   kubectl{where} create secret generic {made.keys_secret} --from-file=api-keys=FILE",
    ]
    needs = {
        "rayjob": token,
        "raycluster": token,
        "rayservice": token + keys,
        "api": keys,
        "machines": ["#   RAY_AUTH_MODE=token ray get-auth-token --generate"],
    }[kind]
    return "\n".join(
        [f"# Written by 'onepass manifests {kind}', for Ray {version('ray')}. First:", *needs, ""]
    )
