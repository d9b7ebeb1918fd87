"""Ray's token: a random one for a Ray that is started here, and a check against a running cluster.

Anybody who reaches Ray's ports may run any code as the user who started it, so every Ray that is
started here has a token. Ray 2.60 would make one as well, but leaves it in ``~/.ray/auth_token`` for
every later Ray, as readable as the umask allows, and leaves ``RAY_AUTH_MODE`` in our environment.
This one is in memory and in the environment of the processes that Ray starts, which only the same
user can read, and ends with them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MODE = "RAY_AUTH_MODE"
_TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105 - the name, not a token
_TOKEN_FILE = "RAY_AUTH_TOKEN_PATH"  # noqa: S105 - the same
_ANSWER_SECONDS = 5.0


@contextmanager
def own_token() -> Iterator[None]:
    """Start Ray in this block with a random token, unless the user chose a token or none.

    Afterwards the environment is as it was. Ray keeps what it read; call ``forget`` when that
    Ray has ended.
    """
    forget()  # the token of an earlier Ray of this process
    mode = os.environ.get(_MODE)
    has_token = os.environ.get(_TOKEN) or os.environ.get(_TOKEN_FILE)
    if mode and mode.lower() == "token":  # then a file in ~/.ray counts as well
        has_token = _loader().has_token(ignore_auth_mode=True)
    if mode and (mode.lower() != "token" or has_token):
        yield
        return
    before = {name: os.environ.get(name) for name in (_MODE, _TOKEN)}
    os.environ[_MODE] = "token"
    if not has_token:
        os.environ[_TOKEN] = secrets.token_hex(32)
    started = False
    try:
        forget()
        yield
        started = True
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if not started:
            forget()


def forget() -> None:
    """Have Ray read mode and token from the environment again, unless it is in use.

    The mode first: a thread that still ends inside Ray may read the token, and Ray ends the
    process where the mode requires a token and there is none.
    """
    import ray

    if ray._private.worker.global_worker.connected:
        return
    ray._raylet.Config.initialize("")
    _loader().reset_cache()


def _loader() -> Any:
    import ray

    return ray._raylet.AuthenticationTokenLoader.instance()


def token_refusal(address: str) -> str | None:
    """Why the control store at ``HOST:PORT`` refuses this process; None where it does not.

    ``ray.init`` itself tries for 20 seconds and its error does not name the token.
    """
    import grpc
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    tokens = _loader()
    header = tokens.get_token_for_http_header() if tokens.has_token() else {}
    with grpc.insecure_channel(address) as channel:
        store = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        try:
            store.GetClusterId(
                gcs_service_pb2.GetClusterIdRequest(),
                timeout=_ANSWER_SECONDS,
                metadata=tuple(header.items()),
            )
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return "the token is wrong" if header else "it asks for a token, and none was given"
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                return f"no answer within {_ANSWER_SECONDS:g} s"
            return str(error.details() or error.code().name)
    return None
