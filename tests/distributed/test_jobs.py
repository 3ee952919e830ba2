"""The entry points, submitted to a head as their users do it."""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from patience import PATIENCE_S
from tiny import TINY

from flowshield.cli import main
from flowshield.data import TrajectoryDataset

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
SCRIPTS = sysconfig.get_path("scripts")
# `ray` where it waits for minutes: its agents' ports are known before its raylet starts
PATIENT_RAY = """
import sys

sys.path.insert(0, sys.argv.pop(1))
from ray.scripts.scripts import main

from flowshield.distributed.patience import patient_start

with patient_start():
    main()
"""
RUN = ["profile=quick", *TINY, "shield=quantile", "env.commands=[[200,280]]"]
ON_RAY = [*RUN, "ray.rollout_workers=1"]  # a process less to start


class Head(NamedTuple):
    """A Ray of its own, with a dashboard that takes jobs."""

    url: str
    tree: Path

    def submit(self, job, *arguments, **variables):
        """Submits an entry point and waits for it."""
        from ray.job_submission import JobSubmissionClient

        name = f"{job}-{time.monotonic_ns()}"
        where = ["--address", self.url, "--submission-id", name, "--working-dir", self.tree]
        where += ["--runtime-env-json", json.dumps({"env_vars": variables})]
        command = [f"{SCRIPTS}/ray", "job", "submit", *where]
        command += ["--", "python", f"ray_jobs/{job}.py", *arguments]
        deadline = time.monotonic() + PATIENCE_S
        while True:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
            if self._has(name):
                break
            # a busy head has no agent for the job after the ten seconds that it waits for one
            assert time.monotonic() < deadline, done.stdout + done.stderr
            time.sleep(1)
        client = JobSubmissionClient(self.url)
        while not (info := client.get_job_info(name)).status.is_terminal():
            assert time.monotonic() < deadline, done.stdout + done.stderr
            time.sleep(1)
        log = client.get_job_logs(name)
        return Job(done.returncode, str(info.status), info.driver_exit_code, log)

    def _has(self, name):
        """Whether the head took the job."""
        from ray.job_submission import JobSubmissionClient

        try:
            JobSubmissionClient(self.url).get_job_info(name)
        except (ConnectionError, RuntimeError):
            return False
        return True


class Job(NamedTuple):
    code: int
    status: str
    driver_code: int
    log: str

    @property
    def last_line(self):
        return self.log.strip().splitlines()[-1]

    def assert_succeeded(self):
        assert (self.status, self.code, self.driver_code) == ("SUCCEEDED", 0, 0), self.log


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    tree = tmp_path_factory.mktemp("checkout")
    for name in ("flowshield", "configs", "ray_jobs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    # what runs is what was submitted, whatever is installed
    (tree / "flowshield" / "__init__.py").write_text('__version__ = "0+submitted"\n')
    port, dashboard, agent, client = free_ports(4)
    with tempfile.TemporaryDirectory() as folder:  # short: Ray's sockets lie in it
        command = [sys.executable, "-c", PATIENT_RAY, ROOT]
        command += ["start", "--head", "--block", "--disable-usage-stats"]
        command += [f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        command += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
        command += ["--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={folder}"]
        log = Path(folder) / "start.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command, env=without_this_checkout(), stdout=output, stderr=output
            )
        try:
            url = f"http://127.0.0.1:{dashboard}"
            wait_until_it_takes_jobs(url, process, log)
            yield Head(url, tree)
        finally:
            end(process)


def free_ports(number):
    """Ports that nobody listens on, and that no process is given that asks for any.

    Another Ray starts beside this one: it takes what the kernel gives it (32768 and above, as a
    rule), and for its workers 10002 to 19999.
    """
    found = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == number:
            return found
    raise AssertionError(f"expected {number} free ports of a hundred, got {len(found)}")


def without_this_checkout():
    """The environment of a node: it finds `python`, and no flowshield by way of ours."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RAY_ADDRESS")}
    return {**environment, "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}


def wait_until_it_takes_jobs(url, process, log):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/api/jobs/", timeout=60):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"no head:\n{log.read_text()}")


def end(process):
    """Ends the head and what it started, and no other Ray of this machine."""
    import psutil  # which comes with Ray

    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        _, left = psutil.wait_procs(family, timeout=30)
        for one in left:
            one.kill()
        process.kill()
    process.wait()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The same run in this process."""
    folder = tmp_path_factory.mktemp("run") / "here"
    assert main(["run", f"run_dir={folder}", "ray.num_workers=0", *RUN]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(head, tmp_path_factory):
    folder = tmp_path_factory.mktemp("job") / "run"
    # at an address: what workers write goes there, what the driver writes is sent there
    return folder, head.submit("train", f"run_dir={folder.as_uri()}", *ON_RAY)


def test_train_collects_what_is_missing_and_leaves_the_models(trained):
    folder, job = trained
    job.assert_succeeded()
    assert job.last_line.endswith(f"the models are in {folder.as_uri()}/models")
    assert TrajectoryDataset(folder / "dataset.npz").n_episodes == 80
    assert {path.stem for path in (folder / "models").glob("*.pt")} == {"agent", "quantile"}
    assert (folder / "checkpoints" / "agent" / "last.pt").exists()


def test_probe_and_certify_are_stages_of_their_own(head, trained):
    folder, _ = trained
    for job, said in (
        ("probe", "the outcome model is {}/models/outcome.pt"),
        ("certify", "the certificates are in {}/certificates"),
    ):
        done = head.submit(job, f"run_dir={folder.as_uri()}")
        done.assert_succeeded()
        assert done.last_line.endswith(said.format(folder.as_uri()))
    assert (folder / "models" / "outcome.pt").exists()
    assert (folder / "certificates" / "quantile.json").exists()


def test_evaluate_ends_with_the_episodes_and_numbers_of_one_process(head, trained, here):
    folder, _ = trained
    job = head.submit("evaluate", f"run_dir={folder.as_uri()}")
    job.assert_succeeded()
    assert job.last_line.endswith(f"open {folder.as_uri()}/report.html")
    assert (folder / "report.html").stat().st_size > 0
    ours, theirs = (TrajectoryDataset(f / "dataset.npz") for f in (folder, here))
    for name in ("states", "actions", "rewards", "terminated", "truncated", "final_states"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    ours, theirs = (json.loads((f / "results.json").read_text()) for f in (folder, here))
    assert ours["versions"]["flowshield"] == "0+submitted"
    assert len(ours["cells"]) == 2
    for part in ("cells", "shields", "followed", "dataset"):
        assert ours[part] == theirs[part], part
    for name in ("agent", "quantile"):
        assert ours["models"][name]["validation_loss"] == theirs["models"][name]["validation_loss"]


def test_collect_leaves_the_same_episodes(head, trained, tmp_path):
    job = head.submit("collect", f"run_dir={tmp_path}", *ON_RAY)
    job.assert_succeeded()
    assert f"wrote {tmp_path / 'dataset.npz'}: " in job.last_line
    theirs = trained[0] / "dataset.npz"
    assert (tmp_path / "dataset.npz").read_bytes() == theirs.read_bytes()


def test_tune_leaves_its_sweep_at_an_address_too(head, tmp_path):
    address = (tmp_path / "run").as_uri()
    space = "tune.space.shield.learning_rate={grid:[1e-3,2e-3]}"
    job = head.submit("tune", f"run_dir={address}", *ON_RAY, space)
    job.assert_succeeded()
    assert f"wrote {address}/sweep: best_shield.pt" in job.last_line
    sweep = tmp_path / "run" / "sweep"
    results = json.loads((sweep / "results.json").read_text())
    assert [trial["status"] for trial in results["trials"]] == ["finished"] * 2
    assert (sweep / results["trials"][0]["shield_file"]).exists()
    assert (sweep / "best_shield.pt").stat().st_size > 0


def test_a_mistake_about_a_plugin_fails_the_job_with_a_line_that_names_it(head, tmp_path):
    shutil.copy(ROOT / "examples" / "own_shield.py", head.tree)  # found where the job works
    wrong = [f"run_dir={tmp_path / 'x'}", "shield=gaussian", "shield.gaussian.hidden_dim=wide"]
    job = head.submit("train", *wrong, FLOWSHIELD_PLUGINS="own_shield")
    assert (job.status, job.driver_code) == ("FAILED", 1)
    assert job.code != 0
    assert job.last_line.startswith("flowshield: config key 'shield.gaussian.hidden_dim'"), job.log
    assert not (tmp_path / "x").exists()
