"""What a Ray Serve config file names: the same shards and replicas as ``onepass serve --ray``.

A RayService on Kubernetes has such a file in it, as in ``deploy/``. Nobody stays to watch: Ray Serve
keeps the applications running.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from api.http.keys import read_keys
from api.ray_serve.scaled import Replica, deployment_options, shard_name
from api.ray_serve.shards import Shard


class Args(BaseModel):
    """Arguments of an application in the file.

    Attributes:
        index: the index folder, as every node sees it.
        shards: how many there are; segment s is searched by shard s modulo this.
        own: of a shard: which one it is.
        replicas: processes of this part.
        cpus: logical CPUs of each.
        api_key_file: of the service: keys of which one is asked for under /v1.
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
    from ray import serve

    given = Args.model_validate(args)
    made = serve.deployment(Shard, **deployment_options(given.replicas, given.cpus))
    return made.bind(given.index, given.own, given.shards, max(1, int(given.cpus)), True)


def service(args: dict[str, Any]) -> Any:
    """The replicas that answer requests, as an application.

    Live linking keeps its state in a file of one machine, so here it is off.
    """
    from ray import serve

    given = Args.model_validate(args)
    keys = read_keys(given.api_key_file) if given.api_key_file else None
    names = [shard_name(own) for own in range(given.shards)]
    replica = serve.deployment(
        serve.ingress()(Replica), **deployment_options(given.replicas, given.cpus)
    )
    return replica.bind(given.index, names, keys, True, (None, None))
