"""Ray's token: one of its own for a Ray that we start, and whether a cluster takes the one we have.

Who reaches Ray's ports may run any code as the user who started it, so nothing that we start is
without a token. Ray 2.60 would make one as well, but leaves it in ``~/.ray/auth_token``, readable
by whom the umask lets, for every later Ray, and leaves ``RAY_AUTH_MODE`` behind in our environment.
Ours is random, lives in memory and in the environment of the processes that Ray starts (which only
the same user reads), and ends with them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MODE = "RAY_AUTH_MODE"
_TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105 - the name, not a token
_TOKEN_FILE = "RAY_AUTH_TOKEN_PATH"  # noqa: S105
_ANSWER_SECONDS = 5.0


@contextmanager
def own_token() -> Iterator[None]:
    """While Ray is started: a random token, unless the user chose one or RAY_AUTH_MODE=disabled.

    Afterwards the environment is as it was. Ray keeps what it read; call ``forget`` when that
    Ray is over.
    """
    forget()  # what this process read for an earlier Ray
    mode = os.environ.get(_MODE)
    chosen = os.environ.get(_TOKEN) or os.environ.get(_TOKEN_FILE)
    if mode and mode.lower() == "token":  # a file in ~/.ray counts where it was asked for
        chosen = _loader().has_token(ignore_auth_mode=True)
    if mode and (mode.lower() != "token" or chosen):
        yield
        return
    before = {name: os.environ.get(name) for name in (_MODE, _TOKEN)}
    os.environ[_MODE] = "token"
    if not chosen:
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

    The mode first: a thread that still ends inside Ray reads a token that is gone, and Ray ends
    the process where there is none though the mode asks for one.
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
    """Why the control store at ``HOST:PORT`` does not let us in, or None.

    Asked at once: ``ray.init`` tries for 20 seconds and then does not say that it was the token.
    """
    import grpc
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    tokens = _loader()
    ours = tokens.get_token_for_http_header() if tokens.has_token() else {}
    with grpc.insecure_channel(address) as channel:
        store = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        try:
            store.GetClusterId(
                gcs_service_pb2.GetClusterIdRequest(),
                timeout=_ANSWER_SECONDS,
                metadata=tuple(ours.items()),
            )
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return "the token is wrong" if ours else "it asks for a token, and none was given"
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                return f"no answer within {_ANSWER_SECONDS:g} s"
            return str(error.details() or error.code().name)
    return None
