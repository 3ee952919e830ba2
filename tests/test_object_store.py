"""Run folders at s3:// addresses, on a server of this machine that speaks S3."""

import json
import subprocess
import sys

import pytest
from moto.server import ThreadedMotoServer
from patience import PATIENCE_S
from pyarrow import fs

from flowshield.cli import main

HERE = [
    "env=gridworld",
    "behaviour=random",
    "data.n_episodes=60",
    "calibration.alpha=0.2",
    "n_epochs=2",
    "shield_epochs=2",
    "checkpoint_every=1",
    "batch_size=128",
    "model.hidden_dim=16",
    "shield=mixture",
    "device=cpu",
    "ray.num_workers=0",
]


@pytest.fixture
def bucket(monkeypatch):
    """The address of an empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of this machine")
    endpoint = {"endpoint_override": f"{host}:{port}", "scheme": "http"}
    fs.S3FileSystem(**endpoint, allow_bucket_creation=True).create_dir("bucket")
    yield "s3://bucket"
    server.stop()


def test_a_run_at_an_s3_address_is_gone_on_with_and_ends_as_one_on_this_disk(bucket, tmp_path):
    address = f"{bucket}/runs/first"
    assert main(["train", f"run_dir={tmp_path / 'here'}", *HERE]) == 0
    assert main(["collect", f"run_dir={address}", *HERE]) == 0
    again = [sys.executable, "-m", "flowshield", "train", f"run_dir={address}"]
    # another process, nothing said
    done = subprocess.run(again, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert f"collect  found {address}/dataset.npz" in done.stdout

    there, folder = fs.FileSystem.from_uri(address)
    names = {i.path for i in there.get_file_info(fs.FileSelector(folder, recursive=True))}
    assert f"{folder}/checkpoints/agent/last.pt" in names
    assert not [name for name in names if name.endswith(".part")]
    ours = (tmp_path / "here" / "dataset.npz").read_bytes()
    assert there.open_input_file(f"{folder}/dataset.npz").read() == ours
    for name in ("agent", "mixture"):
        ours = json.loads((tmp_path / "here" / "models" / f"{name}.json").read_text())
        theirs = json.loads(there.open_input_file(f"{folder}/models/{name}.json").read())
        assert ours["validation_loss"] == theirs["validation_loss"]


def test_episodes_at_an_s3_address_are_trained_on_where_they_are(bucket, tmp_path):
    address = f"{bucket}/runs/first"
    assert main(["collect", f"run_dir={address}", *HERE]) == 0
    given = [f"data.path={address}/dataset.npz", *(o for o in HERE if not o.startswith("data."))]
    assert main(["train", f"run_dir={tmp_path / 'here'}", *given]) == 0
    assert not (tmp_path / "here" / "dataset.npz").exists()
    assert (tmp_path / "here" / "models" / "mixture.pt").exists()


def test_a_bucket_that_is_not_there_is_one_line(bucket, tmp_path, capsys):
    assert main(["collect", f"run_dir={bucket}-of-nobody/run", *HERE]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("flowshield: ") and "bucket-of-nobody" in line
