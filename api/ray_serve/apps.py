"""The applications of Ray Serve: replicas of the same app, and shards that search segments.

A config file of Ray Serve names ``shard`` and ``service``, as that of a RayService in ``deploy/``
does; ``onepass serve --ray`` deploys the same. Each shard is an application of its own, so that
stopping has an order: first the replicas finish the requests under way, then the shards that they
use stop. Every node must see the index folder; replicas map its rows, shards its vectors.
"""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.app import create_app
from api.config import AppConfig
from api.http.keys import Keys, read_keys
from api.http.logs import configure
from api.ray_serve.shards import Shard, Shards
from common.errors import WorkError

START_SECONDS = 180.0  # imports on a busy machine; nodes that must start first
OPEN_SECONDS = 60.0  # for a replica; one that needs longer answers "not ready" until then
END_SECONDS = 20.0  # for requests under way
QUIET = {"log_level": "WARNING", "enable_access_log": False}  # the app logs requests itself


class Replica:
    """One process that answers requests; Ray Serve creates it and calls it for its app.

    The app is built in that process: it holds locks and objects of an event loop.

    Args:
        config: of the application.
        api_keys: of ``config.api_key_file``; a node that sees the file follows its changes.
    """

    def __init__(self, config: AppConfig, api_keys: Keys | None) -> None:
        configure(config.log_json)
        self._config = config
        self._api_keys = api_keys

    def __serve_build_asgi_app__(self) -> FastAPI:
        shards = Shards([_wait_for_handle(name) for name in self._config.shard_names])
        app = create_app(
            self._config,
            api_keys=self._api_keys,
            open_snapshot=shards.open_snapshot,
            startup_wait_s=OPEN_SECONDS,
        )
        app.add_middleware(SingleRequestId)
        return app


class SingleRequestId:
    """ASGI middleware: removes an X-Request-ID equal to the one that Ray Serve's proxy adds.

    The proxy adds the id of the request, or one that it generated, to every answer; where the app
    did not accept that id, the answer keeps both.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; remove the header from its answer."""
        sent = [pair for pair in scope.get("headers", []) if pair[0] == b"x-request-id"]

        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair not in sent]
            await send(message)

        await self.app(scope, receive, send_without_id)


def shard(args: dict[str, Any] | AppConfig) -> Any:
    """One shard as an application, of the fields of ``AppConfig``."""
    config = AppConfig.model_validate(args)
    return _deployment(Shard, config).bind(config)


def service(args: dict[str, Any]) -> Any:
    """The replicas that answer requests as an application, of the fields of ``AppConfig``."""
    config = AppConfig.model_validate(args)
    return replicas(config, read_keys(config.api_key_file) if config.api_key_file else None)


def replicas(config: AppConfig, api_keys: Keys | None) -> Any:
    """The replicas that answer requests as an application; parameters as for ``Replica``."""
    from ray import serve  # late: Ray takes seconds

    return _deployment(serve.ingress()(Replica), config).bind(config, api_keys)


def _deployment(kind: type, config: AppConfig) -> Any:
    from ray import serve  # late: Ray takes seconds

    return serve.deployment(
        kind,
        num_replicas=config.replicas,
        ray_actor_options={"num_cpus": config.cpus},
        graceful_shutdown_timeout_s=END_SECONDS,
        logging_config=QUIET,
        # The app itself rejects requests when too many wait, with an answer that says so.
        max_ongoing_requests=2 * config.limits.waiting_queries,
    )


def _wait_for_handle(name: str) -> Any:
    """The handle of a shard; a cluster that starts all applications at once may not have it yet.

    Raises:
        WorkError: there is none after ``START_SECONDS``.
    """
    from ray import serve  # late: Ray takes seconds
    from ray.serve.exceptions import RayServeException

    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return serve.get_app_handle(name)
        except RayServeException:
            if time.monotonic() > deadline:
                raise WorkError(f"{name} did not start within {START_SECONDS:g} s") from None
        time.sleep(0.5)
