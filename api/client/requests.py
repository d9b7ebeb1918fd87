"""Requests to the service: its errors, and values as JSON, forms and queries carry them."""

from __future__ import annotations

import base64
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from common.errors import WorkError

Answer = TypeVar("Answer", bound=BaseModel)
Vector = NDArray[np.floating]


class ServiceError(WorkError):
    """The service answered with an error.

    Attributes:
        status: HTTP status.
        code: identifier to switch on; ``http_error`` if something other than the service answered.
        message: one line for people.
        request_id: the service's log has more under this id; None if the answer has none.
        retry_after: seconds to wait before trying again; None if the answer does not say.
    """

    def __init__(self, response: httpx.Response) -> None:
        try:
            error = response.json()["error"]
            self.code, self.message = str(error["code"]), str(error["message"])
        except (ValueError, KeyError, TypeError):
            self.code, self.message = "http_error", response.reason_phrase
        self.status = response.status_code
        self.request_id = response.headers.get("x-request-id")
        after = response.headers.get("retry-after", "")
        self.retry_after = int(after) if after.isdecimal() else None
        super().__init__(f"{self.status} {self.code}: {self.message}")


class Requests:
    """A connection to one service, and how a request is sent over it."""

    _http: httpx.Client

    def _get(self, path: str, answer: type[Answer], **params: Any) -> Answer:
        response = self._http.get(path, params=drop_none(**params))
        return answer.model_validate_json(response.content)

    def _post(self, path: str, answer: type[Answer], **body: Any) -> Answer:
        return answer.model_validate_json(self._http.post(path, **body).content)


def raise_error(response: httpx.Response) -> None:
    """Raise ``ServiceError`` for an answer that is an error."""
    if not response.is_success:
        response.read()
        raise ServiceError(response)


def drop_none(**fields: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def vector_text(vectors: Vector) -> str:
    """Base64 of vectors as little-endian float32."""
    return base64_text(np.ascontiguousarray(vectors, "<f4").tobytes())


def base64_text(data: bytes) -> str:
    """Base64 of bytes."""
    return base64.b64encode(data).decode()


def detection_path(detection_id: str) -> str:
    """Path of a detection, whose id may hold any character."""
    return f"/v1/detections/{quote(detection_id, safe='')}"
