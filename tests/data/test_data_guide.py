import re
import shlex
import warnings
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from flowshield.cli import main

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "data.md").read_text()
COLLECTED = Path(__file__).with_name("minari_pendulum.zip")
SMALL = [
    "n_epochs=1", "shield_epochs=1", "model.hidden_dim=16", "calibration.alpha=0.2", "device=cpu",
    "ray.num_workers=0", "shield=quantile",
]  # fmt: skip


@pytest.mark.slow
def test_every_block_of_the_guide_runs(tmp_path, monkeypatch):
    pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    first, *blocks = re.findall(r"```(bash|python)\n(.*?)```", GUIDE, flags=re.DOTALL)
    assert first[1].startswith("flowshield train") and len(blocks) == 10
    names = {}
    for language, text in [*blocks[:1], first, *blocks[1:]]:  # the first one shows the aim
        if language == "python":
            run_python(text, names, tmp_path / "minari")
            continue
        for line in text.splitlines():
            program, *words = shlex.split(line)
            if program == "flowshield":
                assert main([*words, *(SMALL if words[0] == "train" else [])]) == 0, line
            else:
                assert line == 'pip install "flowshield[minari]"'
    assert main(["import-minari", "pendulum/random-v0"]) == 0  # of Minari's own collector
    models = ("runs/mine/models/agent.pt", "runs/minari/models/quantile.pt")
    assert all(Path(model).exists() for model in models)


def run_python(text, names, root):
    if "minari.DataCollector" in text and not find_spec("jax"):
        with zipfile.ZipFile(COLLECTED) as archive:  # what the same lines made elsewhere
            archive.extractall(root)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari's, about facts that nobody gave
        exec(text, names)


def test_the_guide_names_every_array_of_a_file(tmp_path):
    import numpy as np

    from flowshield.data import DataCollector
    from flowshield.envs import make_env
    from flowshield.evaluation import AgentBehaviour
    from flowshield.models import UDRLAgent

    env = make_env("CartPole-v1")
    agent = UDRLAgent(4, 1, n_actions=2, hidden_dim=8, n_layers=1)
    DataCollector(env).collect(2, seed=0).save(tmp_path / "data.npz")
    asked = DataCollector(env, behaviour=AgentBehaviour(agent, [(20, 20)]))
    asked.collect(2, seed=0).save(tmp_path / "asked.npz")
    table = GUIDE.partition("What `save` writes")[2].partition("Files are read")[0]
    named = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| ([^|]*) \|", table, re.M))))
    for file, missing in (("asked.npz", set()), ("data.npz", {"requests"})):
        with np.load(tmp_path / file) as archive:
            assert set(archive.files) == named - missing
