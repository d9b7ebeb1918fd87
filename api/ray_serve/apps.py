"""What a Ray Serve config file names: the same shards and replicas as ``onepass serve --ray``.

A RayService on Kubernetes contains such a file, as in ``deploy/``. No process of onepass watches
the applications: Ray Serve keeps them running.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from api.http.keys import read_keys
from api.ray_serve.serve import replica_app, shard_app, shard_name


class Args(BaseModel):
    """Arguments of an application in the file.

    Attributes:
        index: the index folder, as every node sees it.
        shards: number of shards; segment s is searched by shard s modulo this.
        own: number of this shard, for a shard.
        replicas: processes of this application.
        cpus: logical CPUs of each.
        api_key_file: file of keys for requests under /v1, for the service.
    """

    model_config = ConfigDict(extra="forbid")

    index: Path
    shards: int = 1
    own: int = 0
    replicas: int = 1
    cpus: float = 1.0
    api_key_file: Path | None = None


def shard(args: dict[str, Any]) -> Any:
    """One shard as an application."""
    given = Args.model_validate(args)
    return shard_app(
        given.index,
        given.own,
        given.shards,
        replicas=given.replicas,
        cpus=given.cpus,
        log_json=True,
    )


def service(args: dict[str, Any]) -> Any:
    """The replicas that answer requests, as an application.

    Live linking keeps its state in a file of one machine, so here it is off.
    """
    given = Args.model_validate(args)
    keys = read_keys(given.api_key_file) if given.api_key_file else None
    names = [shard_name(number) for number in range(given.shards)]
    return replica_app(
        given.replicas,
        given.cpus,
        given.index,
        names,
        api_keys=keys,
        log_json=True,
        link_state=None,
    )
