import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster.yaml"
MANIFEST = ROOT / "deploy" / "kuberay-rayjob.yaml"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
FILES = [CLUSTER, MANIFEST, DOCKERFILE]


@pytest.fixture
def cluster():
    return yaml.safe_load(CLUSTER.read_text())


@pytest.fixture
def node_types(cluster):
    return cluster["available_node_types"]


@pytest.fixture
def job():
    return yaml.safe_load(MANIFEST.read_text())


@pytest.fixture
def ray_cluster(job):
    return job["spec"]["rayClusterSpec"]


@pytest.fixture
def groups(ray_cluster):
    return {group["groupName"]: group for group in ray_cluster["workerGroupSpecs"]}


def pinned_ray():
    (version,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return version


def ray_starts(cluster):
    commands = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    return [command for command in commands if "ray start" in command]


def wheel_inputs():
    """What pyproject.toml builds a wheel from, and the constraints it is installed with."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, target = settings["project"], settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    named = {project["readme"], *project["license-files"], *target["packages"]}
    return {"pyproject.toml", "constraints.txt", *named, *target["force-include"]}


def container(group):
    (only,) = group["template"]["spec"]["containers"]
    return only


# cluster.yaml


@pytest.mark.ray
def test_ray_accepts_the_cluster(cluster):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_no_node_type_may_outgrow_the_cluster(cluster, node_types):
    assert all(kind["max_workers"] <= cluster["max_workers"] for kind in node_types.values())


def test_every_node_type_says_what_aws_must_launch(cluster, node_types):
    assert cluster["provider"]["type"] == "aws"
    for kind in node_types.values():
        node = kind["node_config"]
        assert re.fullmatch(r"[a-z0-9]+\.[a-z0-9]+", node["InstanceType"])
        assert node["ImageId"].startswith("ami-")
        assert node["IamInstanceProfile"], "without a profile of its own it cannot reach the bucket"


def test_every_node_type_has_the_same_image(node_types):
    # Ray refuses a node whose Python differs from the head's even in the patch version
    assert len({kind["node_config"]["ImageId"] for kind in node_types.values()}) == 1


def test_nothing_is_scheduled_on_the_head(cluster, node_types):
    head = node_types[cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0


def test_workers_start_from_zero_and_are_given_back(cluster, node_types):
    workers = {name: kind for name, kind in node_types.items() if name != cluster["head_node_type"]}
    assert set(workers) == {"rollout", "train"}
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in workers.values())
    assert 0 < cluster["idle_timeout_minutes"] <= 30


def test_rollouts_run_on_spot_and_without_a_gpu(node_types):
    rollout = node_types["rollout"]
    assert rollout["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert rollout["resources"]["CPU"] >= 1
    assert "GPU" not in rollout["resources"]


def test_training_nodes_have_a_gpu(node_types):
    # said outright in the file: without it, Ray would ask AWS what the instance type has
    assert node_types["train"]["resources"]["GPU"] >= 1
    assert re.match(r"(g|p)\d", node_types["train"]["node_config"]["InstanceType"])


def test_every_ray_start_demands_the_token(cluster):
    starts = ray_starts(cluster)
    assert len(starts) == 2
    assert all(re.search(r"(^|[;\s])RAY_AUTH_MODE=token ray start ", start) for start in starts)


def test_the_token_reaches_every_node(cluster):
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in cluster["setup_commands"]


def test_the_head_starts_workers_and_they_find_it(cluster):
    head, worker = ray_starts(cluster)
    assert "--head" in head and "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    (port,) = re.findall(r"--port=(\d+)", head)
    assert f"--address=$RAY_HEAD_IP:{port}" in worker


def test_the_dashboard_listens_on_loopback_alone(cluster):
    for start in ray_starts(cluster):
        assert set(re.findall(r"--dashboard-host[= ](\S+)", start)) <= {"127.0.0.1"}


def test_the_firewall_is_the_users_own_and_not_rays(node_types):
    # the group that Ray would make admits SSH from anywhere
    groups = [kind["node_config"].get("SecurityGroupIds") for kind in node_types.values()]
    assert all(groups)


def test_nodes_install_this_package_from_the_constraints_on_python_311(cluster):
    setup = cluster["setup_commands"]
    assert any("python3.11 -m venv" in command for command in setup)
    (install,) = [command for command in setup if "pip install" in command]
    assert re.search(r"cd ~/flowshield && pip install .*-c constraints\.txt \.$", install)
    assert not any("pip install" in command for command in cluster.get("worker_setup_commands", []))
    assert not cluster.get("docker")


def test_what_is_mounted_exists_and_builds_the_package(cluster):
    mounts = cluster["file_mounts"]
    del mounts["~/.ray/auth_token"]
    assert all(remote == f"~/flowshield/{local}" for remote, local in mounts.items())
    assert set(mounts.values()) == wheel_inputs()
    assert [local for local in mounts.values() if not (ROOT / local).exists()] == []


# versions and addresses


@pytest.mark.ray
def test_the_ray_that_checked_these_files_is_the_pinned_one():
    import ray

    assert ray.__version__ == pinned_ray()


def test_files_name_the_pinned_ray(ray_cluster):
    assert ray_cluster["rayVersion"] == pinned_ray()
    named = re.findall(r"ray\[default\]==([0-9.]+)", CLUSTER.read_text())
    assert named == [pinned_ray()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_hold_no_address_but_loopback(path):
    text = path.read_text()
    assert set(re.findall(r"\d+\.\d+\.\d+\.\d+", text)) <= {"127.0.0.1"}
    # the one other is the name of an access scope of GCP's
    hosts = set(re.findall(r"https?://([^/:\s\]]+)", text))
    assert hosts <= {"localhost", "www.googleapis.com"}


# deploy/kuberay-rayjob.yaml


def test_the_job_runs_the_entry_point_and_cleans_up(job):
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    program, script, *overrides = spec["entrypoint"].split()
    assert (program, script) == ("python", "ray_jobs/train.py")
    assert "profile=quick" in overrides
    assert any(re.match(r"run_dir=(s3|gs)://", override) for override in overrides)
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0


def test_the_jobs_cluster_scales_from_zero(ray_cluster, groups):
    assert ray_cluster["enableInTreeAutoscaling"] is True
    assert set(groups) == {"rollout", "train"}
    for group in groups.values():
        assert group["minReplicas"] == 0
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["maxReplicas"] > 0


def test_the_jobs_head_is_not_exposed_and_runs_no_work(ray_cluster):
    head = ray_cluster["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["serviceType"] == "ClusterIP"
    assert not head.get("enableIngress")
    pod = head["template"]["spec"]
    assert not pod.get("hostNetwork")
    assert not [port for port in container(head).get("ports", []) if "hostPort" in port]


def test_only_training_pods_ask_for_a_gpu(groups):
    assert container(groups["train"])["resources"]["limits"]["nvidia.com/gpu"] >= 1
    assert "nvidia.com/gpu" not in container(groups["rollout"])["resources"]["limits"]


def test_the_job_takes_its_token_from_a_secret(ray_cluster):
    assert ray_cluster["authOptions"]["mode"] == "token"
    # the manifest's own instructions make the Secret under this name, with the key KubeRay reads
    create = f"create secret generic {ray_cluster['authOptions']['secretName']} "
    assert f"{create}--from-literal=auth_token=" in MANIFEST.read_text()


def test_every_pod_runs_the_same_image(ray_cluster, groups):
    pods = [ray_cluster["headGroupSpec"], *groups.values()]
    assert len({container(pod)["image"] for pod in pods}) == 1


@pytest.mark.ray
def test_rays_autoscaler_reads_the_same_cluster_from_the_manifest(ray_cluster, node_types):
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr,
    )

    metadata = {"name": "flowshield-train", "namespace": "default"}
    derived = _derive_autoscaling_config_from_ray_cr({"metadata": metadata, "spec": ray_cluster})
    read = derived["available_node_types"]
    assert read["headgroup"]["resources"]["CPU"] == 0
    for name in ("rollout", "train"):
        assert read[name]["max_workers"] == node_types[name]["max_workers"]
        assert read[name]["resources"]["CPU"] >= 1
        assert read[name]["resources"].get("GPU", 0) == node_types[name]["resources"].get("GPU", 0)


def test_the_image_is_built_from_the_constraints_on_python_311():
    lines = DOCKERFILE.read_text().splitlines()
    assert "FROM python:3.11-slim" in lines
    (install,) = [line for line in lines if "pip install" in line]
    assert re.search(r"-c constraints\.txt \.$", install)
    before = lines[: lines.index(install)]
    copied = [name for line in before if line.startswith("COPY") for name in line.split()[1:-1]]
    assert set(copied) == wheel_inputs()
    assert "COPY ray_jobs ray_jobs" in lines
