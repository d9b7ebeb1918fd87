"""Files of ``deploy/`` fit each other, this project and the tested version of Ray."""

from __future__ import annotations

import copy
import re
import shlex
import shutil
import subprocess
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
import ray.scripts.scripts
import typer
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

import api.ray_serve.apps
import onepass.cli.main
from api.app import create_app
from api.config import AppConfig, ServeConfig
from cluster.submit import CODE, check_command

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
HASHED = ("deploy/requirements.txt", "deploy/requirements-cuda.txt")
KINDS = ("rayjob", "raycluster", "rayservice", "api")
RAY = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
ONEPASS, RAY_CLI = typer.main.get_command(onepass.cli.main.app), ray.scripts.scripts.cli
STORE_SHARE = 0.3  # of memory; Ray warns of a larger object store


def built(folder: Path) -> list[dict[str, Any]]:
    """What kustomize builds from a folder, for the features used here: resources and JSON patches."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    documents = []
    for resource in kustomization["resources"]:
        inner = folder / resource
        documents += built(inner) if inner.is_dir() else yaml.safe_load_all(inner.read_text())
    for patch in kustomization.get("patches", ()):
        (target,) = (
            document
            for document in documents
            if patch["target"] == {"kind": document["kind"], "name": document["metadata"]["name"]}
        )
        for change in yaml.safe_load(patch["patch"]):
            *parents, last = change["path"].removeprefix("/").split("/")
            inner = target
            for step in parents:
                inner = inner[int(step) if isinstance(inner, list) else step]
            assert change["op"] in ("add", "replace")
            assert (last in inner) is (change["op"] == "replace"), change["path"]
            inner[last] = change["value"]
    return documents


def hashed(file: Path) -> dict[str, str]:
    """Versions by name of a file of requirements, each of which has a hash."""
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    matches = [re.fullmatch(r"([\w.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}", line) for line in lines]
    return {match[1]: match[2] for match in matches if match}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_requirements_with_hashes_are_what_was_tested() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = {
        canonical(name): version
        for name, version in (line.split("==") for line in lines if not line.startswith("#"))
    }
    assert hashed(ROOT / "constraints-hashes.txt") == tested
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"]]
    needed += [each for name in ("lite0", "openvino", "database") for each in extras[name]]
    names = {canonical(re.split(r"[<>=;\[]", each)[0]) for each in needed} - {"faiss-cpu"}
    installed: dict[str, str] = {}
    for file in HASHED:
        count = sum(not line.startswith("#") for line in (ROOT / file).read_text().splitlines())
        versions = hashed(ROOT / file)
        assert len(versions) == count
        assert not versions.keys() & installed.keys()
        installed |= versions
    assert names <= installed.keys()
    for name, version in installed.items():
        assert tested.get(name, version) == version


@pytest.mark.parametrize("overlay", sorted((DEPLOY / "overlays").iterdir()), ids=lambda f: f.name)
def test_overlays_name_images_by_digest(overlay: Path) -> None:
    for image in yaml.safe_load((overlay / "kustomization.yaml").read_text())["images"]:
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", image["digest"])
        assert "newTag" not in image


def groups(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The cluster of a Ray resource, and its groups of pods by name."""
    spec = document["spec"]
    spec = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    named = {each["groupName"]: each for each in spec["workerGroupSpecs"]}
    return named | {"head": spec["headGroupSpec"], "cluster": spec}


def pods(kind: str) -> list[dict[str, Any]]:
    document = built(DEPLOY / kind)[0]
    if kind == "api":
        return [document["spec"]["template"]["spec"]]
    return [each["template"]["spec"] for each in groups(document).values() if "template" in each]


def parse(program: Any, words: list[str]) -> Any:
    """Parse a command of onepass or ray without running it; its context."""
    while hasattr(program, "commands"):
        program, words = program.commands[words[0]], words[1:]
    return program.make_context(program.name, words)


@pytest.mark.parametrize("kind", [*KINDS, "overlays/example"])
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_builds_what_is_checked_here(kind: str) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", DEPLOY / kind], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ours = sorted(built(DEPLOY / kind), key=lambda document: document["kind"])
    theirs = sorted(yaml.safe_load_all(done.stdout), key=lambda document: document["kind"])
    if kind == "overlays/example":  # the transformers, which are kustomize's own
        assert {each["metadata"].pop("namespace") for each in theirs} == {"photos"}
        (image,) = set(re.findall(r"image: (\S+)", done.stdout))
        assert re.fullmatch(r"registry\.example\.com/onepass@sha256:[0-9a-f]{64}", image)
        ours = yaml.safe_load(yaml.safe_dump(ours).replace("onepass:latest", image))
    assert theirs == ours


@pytest.mark.parametrize("kind", KINDS)
def test_pods_have_their_volumes_and_no_more_rights_than_they_need(kind: str) -> None:
    for pod in pods(kind):
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        # Only Ray's autoscaler, on the head, talks to Kubernetes.
        assert pod.get("automountServiceAccountToken", True) is (container["name"] == "ray-head")
        assert not re.search(r"\btoken: |auth_token: \w", yaml.safe_dump(pod))
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() == volumes.keys()
        assert (mounts["data"], mounts["shm"]) == ("/data", "/dev/shm")  # noqa: S108
        assert volumes["data"]["persistentVolumeClaim"] == {"claimName": "onepass-data"}
        assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
        assert container["image"] == "onepass:latest"
        assert container["resources"]["requests"] == container["resources"]["limits"]


@pytest.mark.parametrize("kind", ["rayjob", "raycluster", "rayservice"])
def test_groups_ask_ray_for_what_their_pods_have(kind: str) -> None:
    (document,) = built(DEPLOY / kind)
    pods_of = groups(document)
    cluster, head = pods_of.pop("cluster"), pods_of.pop("head")
    assert cluster["authOptions"] == {"mode": "token", "secretName": "onepass-ray-token"}
    assert [cluster["rayVersion"]] == RAY
    # A worker's memory or a spot node's end must not take the head.
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "nodeSelector" not in head["template"]["spec"]
    for name, group in pods_of.items():
        pod, start = group["template"]["spec"], group["rayStartParams"]
        limits = pod["containers"][0]["resources"]["limits"]
        assert start["num-cpus"] == limits["cpu"]
        assert start["num-gpus"] == limits.get("nvidia.com/gpu", "0") == str(int(name == "gpu"))
        assert ("nodeSelector" in pod) is (name == "gpu")
        shm = int(pod["volumes"][1]["emptyDir"]["sizeLimit"].removesuffix("Mi")) * 2**20
        memory = int(limits["memory"].removesuffix("Gi")) * 2**30
        assert int(start["object-store-memory"]) <= STORE_SHARE * memory < shm < memory
        # Actors are laid out over what is there at the start: only a cluster that stays scales.
        assert (group["minReplicas"] < group["maxReplicas"]) is (kind == "raycluster")
        assert group["replicas"] == group["minReplicas"] >= 1
    assert cluster.get("enableInTreeAutoscaling", False) is (kind == "raycluster")


@pytest.mark.parametrize("kind", ["rayjob", "overlays/example"])
def test_a_job_runs_a_command_that_can_be_submitted(kind: str) -> None:
    (document,) = built(DEPLOY / kind)
    words = shlex.split(document["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "onepass"]
    assert parse(ONEPASS, words[3:]).params["model"] == "lite0"
    check_command(words[3:])
    assert document["spec"]["backoffLimit"] > 0  # begun again, it continues


def test_the_service_names_existing_applications() -> None:
    with warnings.catch_warnings():  # Ray Serve's own, of pydantic
        warnings.simplefilter("ignore")
        from ray.serve.schema import ServeDeploySchema
    (document,) = built(DEPLOY / "rayservice")
    config = ServeDeploySchema.model_validate(yaml.safe_load(document["spec"]["serveConfigV2"]))
    *shards, service = config.applications
    names = AppConfig.model_validate(service.args).shard_names
    assert [shard.name for shard in shards] == names
    assert [app.route_prefix for app in config.applications] == [*(None for _ in shards), "/"]
    workers = groups(document)["serve"]
    for app in config.applications:
        module, _, function = app.import_path.partition(":")
        assert (module, function) == (
            "api.ray_serve.apps",
            "service" if app is service else "shard",
        )
        args = AppConfig.model_validate(app.args)
        assert callable(getattr(api.ray_serve.apps, function))
        assert (args.shards, args.replicas) == (len(shards), workers["replicas"])
    (container,) = workers["template"]["spec"]["containers"]
    port = config.http_options.port
    assert container["ports"] == [{"containerPort": port, "name": "serve"}]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert service.args["api_key_file"] == f"{mounts['keys']}/api-keys"


def test_the_api_is_probed_on_its_routes(tmp_path: Path) -> None:
    deployment, service = built(DEPLOY / "api")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    routes = create_app(ServeConfig(index=tmp_path)).openapi()["paths"]
    port = container["ports"][0]
    for probe in ("livenessProbe", "readinessProbe"):
        request = container[probe]["httpGet"]
        assert request["path"] in routes
        assert request["port"] == port["name"]
    assert container["command"][:3] == ["python", "-m", "onepass"]
    params = parse(ONEPASS, container["command"][3:]).params
    assert (params["host"], params["port"]) == ("0.0.0.0", port["containerPort"])  # noqa: S104
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert params["api_key_file"] == f"{mounts['keys']['mountPath']}/api-keys"
    assert mounts["keys"]["readOnly"] is True
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]


def test_machines_are_what_rays_launcher_reads() -> None:
    config = yaml.safe_load((DEPLOY / "machines.yaml").read_text())
    validate_config(prepare_config(copy.deepcopy(config)))
    mode, *head = shlex.split(config["head_start_ray_commands"][-1])
    same, *worker = shlex.split(config["worker_start_ray_commands"][-1])
    assert mode == same == "RAY_AUTH_MODE=token"
    assert head[0] == worker[0] == "ray"
    head_options, worker_options = (parse(RAY_CLI, line[1:]).params for line in (head, worker))
    assert (head_options["head"], head_options["num_cpus"]) == (True, 0)
    assert worker_options["address"] == "$RAY_HEAD_IP:6379"
    assert list(config["file_mounts"].values()) == ["~/.ray/auth_token"]
    assert config["max_workers"] == len(config["provider"]["worker_ips"])


def test_the_image_is_of_this_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", "")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] not in "# "]
    python = re.findall(r"^ARG PYTHON=python:([\d.]+)-slim", text, re.MULTILINE)
    assert re.findall(r"^FROM (\S+) AS", text, re.MULTILINE) == ["${PYTHON}", "base", "base"]
    assert [f">={version}" for version in python] == [project["requires-python"]]
    extras = {name for list_ in re.findall(r"'\.\[(.+?)\]'", text) for name in list_.split(",")}
    assert extras <= project["optional-dependencies"].keys()
    copied = {file for name, what in steps if name == "COPY" for file in what.split()[:-1]}
    assert copied >= {*CODE, project["readme"], *HASHED}
    assert all((ROOT / file).exists() for file in copied)
    _, *targets = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    for target in targets:  # each ends as the user of the pods
        assert re.findall(r"^USER (.+)$", target, re.MULTILINE) == ["1000"]
        # What comes from PyPI is what it was when it was tested, and nothing else is fetched.
        for command in re.findall(r"pip install (?!--index-url)([^&\n]+)", target):
            assert command.startswith(("--require-hashes --no-deps ", "--no-deps --no-build-iso"))
    assert not re.search(r"(?i)password|auth_token=|aws_", text)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
