"""Manifests: those in ``deploy/`` are the generated ones, and their fields are right when parsed."""

from __future__ import annotations

import copy
import re
import shlex
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import typer
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

import api.deployed
import onepass
from api.app import create_app
from cluster.deploy import FILES, render
from cluster.errors import ClusterError, InputError
from cluster.machines import EXTRAS, PYTHON
from cluster.pods import Deployment
from cluster.submit import CODE

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MADE = Deployment(
    name="moths",
    namespace="night",
    image="registry/onepass:1",
    claim="photos",
    env_secret="aws",  # noqa: S106
)


def parsed(kind: str, made: Deployment = MADE, **how: Any) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(render(kind, made, **how)))


def groups(kind: str) -> dict[str, dict[str, Any]]:
    """The pods of a Ray cluster by the name of their group; the head's is 'head'."""
    spec = parsed(kind)[0]["spec"]
    spec = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    named = {each["groupName"]: each for each in spec["workerGroupSpecs"]}
    return named | {"head": spec["headGroupSpec"], "cluster": spec}


def pods(kind: str) -> Iterator[dict[str, Any]]:
    if kind == "api":
        yield parsed(kind)[0]["spec"]["template"]["spec"]
        return
    for name, group in groups(kind).items():
        if name != "cluster":
            yield group["template"]["spec"]


def parse(words: list[str]) -> Any:
    """Parse a onepass command without running it; its parameters."""
    assert words[:3] == ["python", "-m", "onepass"]
    command, rest = typer.main.get_command(onepass.app), words[3:]
    while hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    return command.make_context(command.name, rest, resilient_parsing=False).params


@pytest.mark.parametrize("kind", FILES)
def test_checked_in_files_are_the_generated_ones(kind: str) -> None:
    again = f"write it anew: onepass manifests {kind} > deploy/{FILES[kind]}"
    assert (ROOT / "deploy" / FILES[kind]).read_text() == render(kind, Deployment()), again
    assert {file.name for file in (ROOT / "deploy").iterdir()} == set(FILES.values())


@pytest.mark.parametrize("kind", ["rayjob", "raycluster", "rayservice", "api"])
def test_what_every_pod_has(kind: str) -> None:
    for document in parsed(kind):
        assert document["metadata"]["namespace"] == "night"
        assert document["metadata"]["name"].startswith("moths")
    for pod in pods(kind):
        (container,) = pod["containers"]
        assert container["image"] == "registry/onepass:1"
        assert container["envFrom"] == [{"secretRef": {"name": "aws"}}]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() == volumes.keys()
        assert volumes["data"]["persistentVolumeClaim"] == {"claimName": "photos"}
        assert (mounts["data"], mounts["shm"]) == ("/data", "/dev/shm")  # noqa: S108
        assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert not re.search(r"\btoken: |auth_token: \w", yaml.safe_dump(pod))


@pytest.mark.parametrize("kind", ["rayjob", "raycluster", "rayservice"])
def test_ray_asks_for_the_token_of_a_secret(kind: str) -> None:
    cluster = groups(kind)["cluster"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "onepass-ray-token"}
    assert cluster["rayVersion"] == ray.__version__
    # The head does no work, so that a worker's memory or a spot node's end does not take it.
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "nodeSelector" not in cluster["headGroupSpec"]["template"]["spec"]


@pytest.mark.parametrize("kind", ["rayjob", "raycluster"])
def test_gpu_pods_are_on_spot_and_decode_pods_have_none(kind: str) -> None:
    found = groups(kind)
    gpu, decode = found["gpu"], found["decode"]
    pod = gpu["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert gpu["rayStartParams"]["num-gpus"] == "1"
    assert pod["nodeSelector"] == {"onepass/spot": "true"}
    assert {one["key"] for one in pod["tolerations"]} == {"onepass/spot", "nvidia.com/gpu"}
    pod = decode["template"]["spec"]
    assert "nvidia.com/gpu" not in pod["containers"][0]["resources"]["limits"]
    assert decode["rayStartParams"]["num-gpus"] == "0"
    assert "nodeSelector" not in pod
    for group in (gpu, decode):
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits["cpu"] == group["rayStartParams"]["num-cpus"]
        store = int(group["rayStartParams"]["object-store-memory"])
        shm = group["template"]["spec"]["volumes"][1]["emptyDir"]["sizeLimit"]
        assert store <= int(shm.removesuffix("Mi")) * 2**20 < int(limits["memory"][:-2]) * 2**30


def test_a_job_has_all_its_workers_and_a_cluster_scales() -> None:
    job, cluster = groups("rayjob"), groups("raycluster")
    assert "enableInTreeAutoscaling" not in job["cluster"]
    assert cluster["cluster"]["enableInTreeAutoscaling"] is True
    for name in ("gpu", "decode"):
        assert job[name]["replicas"] == job[name]["minReplicas"] == job[name]["maxReplicas"] == 2
        assert (cluster[name]["minReplicas"], cluster[name]["maxReplicas"]) == (1, 2)


def test_a_job_runs_a_command_that_parses_and_is_begun_again() -> None:
    words = ["extract", "s3://b/two words", "--model", "lite0", "--out", "s3://b/runs/a"]
    spec = parsed("rayjob", command=words)[0]["spec"]
    assert shlex.split(spec["entrypoint"]) == ["python", "-m", "onepass", *words]
    params = parse(shlex.split(spec["entrypoint"]))
    assert params["source"] == "s3://b/two words"
    assert spec["backoffLimit"] == 3
    with pytest.raises(ClusterError, match="give an absolute path"):
        render("rayjob", MADE, command=["extract", "photos", "--out", "/data/a"])
    with pytest.raises(ClusterError, match="nothing to submit"):
        render("rayjob", MADE, command=[])


def test_the_service_names_applications_that_are_there() -> None:
    with warnings.catch_warnings():  # Ray Serve's own, of pydantic
        warnings.simplefilter("ignore")
        from ray.serve.schema import ServeDeploySchema
    made = Deployment(shards=2, replicas=3)
    (document,) = parsed("rayservice", made)
    config = ServeDeploySchema.model_validate(yaml.safe_load(document["spec"]["serveConfigV2"]))
    *shards, service = config.applications
    assert [one.name for one in shards] == [api.deployed.shard_name(own) for own in range(2)]
    assert [one.route_prefix for one in config.applications] == [None, None, "/"]
    for one in config.applications:
        module, _, function = one.import_path.partition(":")
        assert module == "api.deployed"
        assert callable(getattr(api.deployed, function))
        args = api.deployed.Args.model_validate(one.args)
        assert (args.shards, args.replicas, str(args.index)) == (2, 3, "/data/index")
    assert service.args["api_key_file"] == "/etc/onepass/keys/api-keys"
    (workers,) = document["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    pod = workers["template"]["spec"]
    (container,) = pod["containers"]
    port = config.http_options.port
    assert container["ports"] == [{"containerPort": port, "name": "serve"}]
    # Each replica and each shard asks for one CPU.
    assert 3 * int(container["resources"]["limits"]["cpu"]) >= 3 * (1 + 2)


def test_the_api_is_asked_on_paths_that_it_has(tmp_path: Path) -> None:
    deployment, service = parsed("api")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    routes = create_app(tmp_path).openapi()["paths"]
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert {"/livez", "/readyz"} <= routes.keys()
    params = parse(container["command"])
    assert params["host"] == "0.0.0.0"  # noqa: S104
    assert params["port"] == container["ports"][0]["containerPort"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert str(params["api_key_file"]).startswith(mounts["keys"]["mountPath"] + "/")
    assert mounts["keys"]["readOnly"] is True
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]


def test_machines_are_what_rays_launcher_reads() -> None:
    (config,) = parsed("machines", head="10.1.0.1", workers=["10.1.0.2"], user="anna")
    validate_config(prepare_config(copy.deepcopy(config)))
    assert config["provider"] == {
        "type": "local",
        "head_ip": "10.1.0.1",
        "worker_ips": ["10.1.0.2"],
    }
    for start in (config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]):
        assert start.startswith("RAY_AUTH_MODE=token ray start ")
    assert list(config["file_mounts"].values()) == ["~/.ray/auth_token"]
    assert "--num-cpus=0" in config["head_start_ray_commands"][-1]


def test_the_image_is_of_this_project() -> None:
    lines = render("dockerfile", Deployment()).replace("\\\n", "").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and line[0] not in "# "]
    assert {name for name, _ in steps} <= {"FROM", "RUN", "ENV", "COPY", "WORKDIR", "USER"}
    froms = [what for name, what in steps if name == "FROM"]
    assert froms == [f"python:{PYTHON}-slim-bookworm AS base", "base AS cpu", "base AS cuda"]
    assert PROJECT["project"]["requires-python"] == f">={PYTHON}"
    assert set(EXTRAS) <= PROJECT["project"]["optional-dependencies"].keys()
    copied = {file for name, what in steps if name == "COPY" for file in what.split()[:-1]}
    assert copied >= set(CODE)
    assert all((ROOT / file).exists() for file in copied)
    assert (ROOT / PROJECT["project"]["readme"]).name in copied
    # Each target ends as an ordinary user, and no layer holds a secret.
    for target in ("cpu", "cuda"):
        at = froms.index(f"base AS {target}")
        begin = [number for number, (name, _) in enumerate(steps) if name == "FROM"][at]
        rest = steps[begin + 1 :]
        end = next((n for n, (name, _) in enumerate(rest) if name == "FROM"), len(rest))
        assert [what for name, what in rest[:end] if name == "USER"] == ["1000"]
    assert not re.search(r"(?i)secret|password|auth_token=|aws_", "\n".join(lines))
    seen = render("dockerignore", Deployment()).splitlines()
    assert seen[0] == "*"
    assert {line[1:] for line in seen if line.startswith("!")} == copied


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "Moths"}, "--name Moths: a name is lower-case"),
        ({"namespace": "a: b"}, "--namespace a: b"),
        ({"image": "a b"}, "--image a b: give REGISTRY/NAME:TAG"),
        ({"spot": "true"}, "--spot true: give KEY=VALUE"),
    ],
)
def test_names_that_kubernetes_would_refuse(wrong: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        Deployment(**wrong)
    with pytest.raises(InputError, match="needs a worker"):
        render("raycluster", Deployment(gpu_workers=0, decode_workers=0))
