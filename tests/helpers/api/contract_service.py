"""Contract of every server of the API: the index being served, errors and request ids.

A module that imports these classes runs them against its fixture ``base_url``.
"""

import httpx

from api.client import Client
from tests.helpers.api.world import FAILED, JSON, World, detection_url, error_of


class TestIndex:
    """What is being served."""

    def test_the_summary_is_that_of_the_snapshot(self, client: Client, world: World) -> None:
        served = client.index()
        assert (served.version, served.versions) == ("v0001", ["v0001"])
        assert served.rows == len(world.all_ids)
        assert served.dim == served.model.feature_dim == world.model.feature_dim
        assert served.fingerprint == world.model.fingerprint
        assert served.model.spec == "tiny"
        assert served.runs == ["first", "second"]
        assert served.since.tzinfo is not None

    def test_a_reload_of_the_current_version_changes_nothing(self, client: Client) -> None:
        done = client.reload()
        assert (done.reloaded, done.version, done.before) == (False, "v0001", "v0001")

    def test_no_answer_shows_a_folder_of_the_server(self, http: httpx.Client, world: World) -> None:
        base = str(world.index.parent)
        track = "/v1/tracks/trap:00000?run="
        urls = ["/v1/index", "/v1/tracks", track + "0", track + "1", "/openapi.json", "/metrics"]
        for detection_id in world.all_ids:
            url = detection_url(detection_id)
            urls += [url, url + "/neighbours?k=100", url + "/neighbours?where=x"]
            if detection_id.startswith("b-"):
                urls.append(url + "/image")
        texts = [http.get(url).text for url in urls]
        assert len(texts) > 100
        assert not [text for text in texts if base in text or str(world.images) in text]


class TestErrors:
    """One shape for every error, and an id for every request."""

    def test_every_error_has_the_one_shape(self, http: httpx.Client) -> None:
        assert "not JSON" in error_of(http.post("/v1/search", content=b"{", headers=JSON), 422)[1]
        nan = b'{"vector": [' + b",".join([b"NaN"] * 32) + b"]}"
        assert "not finite" in error_of(http.post("/v1/search", content=nan, headers=JSON), 422)[1]
        plain = {"content-type": "text/plain"}
        message = error_of(http.post("/v1/search", content=b"{}", headers=plain), 422)[1]
        assert "send application/json, not text/plain" in message
        unknown = {"detection_id": f"a-{FAILED}"}  # in the run, with an error: not in the index
        assert error_of(http.post("/v1/search", json=unknown), 404)[0] == "detection_not_found"
        half = b'{"detection_id": "\\ud800"}'
        assert http.post("/v1/search", content=half, headers=JSON).status_code in (404, 422)
        deep = b'{"vector": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        error_of(http.post("/v1/search", content=deep, headers=JSON), 422)
        assert "k" in error_of(http.get("/v1/detections/a-0/neighbours?k=x"), 422)[1]
        assert error_of(http.get("/v1/detections/a%0Ab"), 404)[0] in (
            "not_found",
            "detection_not_found",
        )
        assert "offset" in error_of(http.get(f"/v1/tracks?offset={10**30}"), 422)[1]
        assert error_of(http.get("/v2/search"), 404)[0] == "not_found"
        assert error_of(http.get("/v1/search"), 405)[0] == "method_not_allowed"
        multipart = {"content-type": "multipart/form-data; boundary=x"}
        assert error_of(http.post("/v1/search/image", content=b"--y", headers=multipart), 400)[
            0
        ] == ("bad_request")

    def test_a_request_keeps_its_valid_id(self, http: httpx.Client) -> None:
        for path in ("/livez", "/nowhere"):
            answered = http.get(path, headers={"x-request-id": "job-7/a.b"}).headers["x-request-id"]
            assert answered == "job-7/a.b"
        for invalid in ("a b", "x" * 200, '"'):
            answered = http.get("/livez", headers={"x-request-id": invalid}).headers["x-request-id"]
            assert answered not in (invalid, "")
        names = {http.get("/livez").headers["x-request-id"] for _ in range(20)}
        assert len(names) == 20
