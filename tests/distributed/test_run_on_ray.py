"""Evaluation on Ray against the same in this process."""

import os
import shutil
import signal
from dataclasses import replace

import pytest
from actors import alive_pids
from tiny import TINY

from flowshield.cli import main
from flowshield.data import TrajectoryDataset
from flowshield.distributed.evaluate import EvaluatorPool
from flowshield.envs import env_maker
from flowshield.errors import ConfigError
from flowshield.evaluation import UNSHIELDED, Evaluator, Subjects
from flowshield.models import BaseShield, UDRLAgent

pytestmark = pytest.mark.ray

RUN = [*TINY, "shield=quantile", "probe.n_episodes=140"]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "here"
    assert main(["train", f"run_dir={folder}", "ray.num_workers=0", *RUN]) == 0
    return folder


def subjects(folder):
    return Subjects(
        agent=UDRLAgent.load(folder / "models" / "agent.pt"),
        shields={"quantile": BaseShield.load(folder / "models" / "quantile.pt")},
        make_env=env_maker("lunarlander", {}),
        test=TrajectoryDataset(folder / "dataset.npz"),
        commands=[(200.0, 280.0), (1000.0, 280.0)],
        seed=7,
        n_episodes=2,
        n_states=40,
        bound_margin=20.0,
        n_starts=2,
        n_commands=2,
        return_tolerance=20.0,
        use_return_bound=True,
    )


def test_an_evaluator_that_is_killed_measures_again(cluster, here):
    what = subjects(here)
    asked = [("cell", (UNSHIELDED, command, None)) for command in what.commands]
    asked += [("shield", ("quantile",)), ("followed", ("quantile",))]
    expected = dict(Evaluator(subjects(here)).measure_all(asked))
    pool, found, killed = EvaluatorPool(what, 2), {}, []
    try:
        for measurement, record in pool.measure_all(asked):
            found[measurement] = record
            if not killed:
                killed = alive_pids("EvaluationWorker")
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)
    finally:
        pool.close()
    assert killed
    assert found == expected


def test_probes_and_certificates_are_the_same_with_and_without_ray(cluster, here, tmp_path):
    made = []
    for workers in (0, 2):
        folder = shutil.copytree(here, tmp_path / str(workers))
        assert main(["certify", f"run_dir={folder}", f"ray.num_workers={workers}"]) == 0
        parts = [
            path
            for part in ("probe", "certificates", "models")
            for path in folder.glob(f"{part}/*")
        ]
        made.append({path.relative_to(folder).as_posix(): path.read_bytes() for path in parts})
    assert {"probe/fit_00000.npz", "probe/fit_00100.npz", "models/outcome.pt"} <= made[0].keys()
    assert "certificates/quantile.json" in made[0]
    assert made[0] == made[1]


def test_evaluators_give_ray_nothing_to_warn_of(cluster, here, capfd):
    asked = [("shield", ("quantile",))]
    pool = EvaluatorPool(subjects(here), 2)
    try:
        assert len(list(pool.measure_all(asked))) == 1
    finally:
        pool.close()
    assert capfd.readouterr().err == ""


def test_more_evaluators_than_cpus_leave_nothing_waiting(cluster, here):
    what = subjects(here)
    asked = [("cell", (UNSHIELDED, command, None)) for command in what.commands]
    pool = EvaluatorPool(what, 6)  # two of them will never be
    try:
        assert dict(pool.measure_all(asked)) == dict(Evaluator(what).measure_all(asked))
    finally:
        pool.close()


def test_what_an_evaluator_cannot_do_is_our_own_error(cluster, here):
    chain = replace(subjects(here), make_env=env_maker("geometric_chain", {}))
    pool = EvaluatorPool(chain, 1)
    try:
        with pytest.raises(ConfigError, match="knows no bound on its returns"):
            list(pool.measure_all([("followed", ("quantile",))]))
    finally:
        pool.close()


def test_what_there_is_no_room_for_is_refused_before_any_work(cluster, tmp_path, capsys):
    assert main(["run", f"run_dir={tmp_path}", "ray.cpus_per_worker=99", *RUN]) == 1
    assert "99 CPU" in capsys.readouterr().err
    assert not (tmp_path / "dataset.npz").exists()
