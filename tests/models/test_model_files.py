import functools
import io
import itertools
import os
import pickle
import resource
import zipfile

import numpy as np
import pytest
import torch

from flowshield.errors import DataWarning, FileFormatError, NotCalibratedError
from flowshield.models import (
    BaseShield,
    DiffusionShield,
    FlowMatchingShield,
    MixtureShield,
    QuantileShield,
    UDRLAgent,
)
from flowshield.models.serialization import load_payload, save_payload
from flowshield.models.shields import ExchangeablePairs

SHIELDS = {
    "flow_matching": functools.partial(
        FlowMatchingShield, field_dim=8, n_layers=1, n_components=3, solver="midpoint"
    ),
    "diffusion": functools.partial(
        DiffusionShield, field_dim=8, n_layers=1, n_timesteps=200, beta_schedule="cosine", n_steps=5
    ),
    "quantile": functools.partial(QuantileShield, tau=0.7, n_quantiles=12, return_noise=2.5),
    "mixture": functools.partial(MixtureShield, n_layers=2, n_components=5, horizon_noise=0.5),
}


class Malice:
    """Makes a folder when it is unpickled by something that trusts it."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"mkdir {self.path}",)


def shield(name="quantile", calibrate=True):
    torch.manual_seed(0)
    made = SHIELDS[name](3, hidden_dim=8)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    states, commands = torch.randn(60, 3) * 4, torch.randn(60, 2) * 50 + 100
    made.fit_standardizers(states, commands)
    made.projection = made.projection._replace(n_candidates=17, n_steps=2, horizon_weight=0.3)
    if calibrate:
        made.calibrate(ExchangeablePairs(states.numpy(), commands.numpy()), 0.1)
    return made.eval()


def queries():
    torch.manual_seed(1)
    return torch.randn(20, 3) * 4, torch.randn(20, 2) * 100 + 100


def written(path, content):
    path.write_bytes(content)
    return path


def saved(path, name="quantile"):
    shield(name).save(path)
    return path


@pytest.mark.parametrize("name", SHIELDS)
def test_a_loaded_shield_is_the_same_to_the_last_bit(name, tmp_path):
    made, (states, commands) = shield(name), queries()
    made.save(tmp_path / "new" / "shield.pt")
    for cls in (BaseShield, type(made)):
        loaded = cls.load(tmp_path / "new" / "shield.pt")
        assert type(loaded) is type(made) and not loaded.training
        assert loaded.hyperparameters == made.hyperparameters
        assert loaded.projection == made.projection
        assert loaded.state_dict().keys() == made.state_dict().keys()
        for key, value in made.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), key
        assert loaded.threshold_in_force() == made.threshold_in_force()
        assert loaded.threshold_at(0.3) == made.threshold_at(0.3)
        assert torch.equal(loaded.log_prob(states, commands), made.log_prob(states, commands))
        assert torch.equal(loaded.is_ood(states, commands), made.is_ood(states, commands))
        assert torch.equal(loaded.project(states, commands), made.project(states, commands))


def as_older(payload, version):
    """The content of a file from before columns could be bent and actions had a unit."""
    since = ("knots", "heights", "reward_per_step", "action_center", "action_scale")
    weights = {
        key: value
        for key, value in payload["state_dict"].items()
        if key.rpartition(".")[2] not in since
    }
    return {**payload, "format_version": version, "state_dict": weights}


@pytest.mark.parametrize("name", SHIELDS)
def test_a_shield_of_the_version_before_answers_as_it_did(name, tmp_path):
    made, (states, commands) = shield(name), queries()
    torch.save({"kind": "shield", **as_older(made.payload(), 2)}, tmp_path / "shield.pt")
    loaded = BaseShield.load(tmp_path / "shield.pt")
    assert torch.equal(loaded.score(states, commands), made.score(states, commands))


def test_an_agent_of_the_version_before_acts_in_raw_units(tmp_path):
    torch.manual_seed(0)
    made = UDRLAgent(3, 1, hidden_dim=8, action_low=-4.0, action_high=4.0)
    payload = {"hyperparameters": made.hyperparameters, "state_dict": made.state_dict()}
    torch.save({"kind": "agent", **as_older(payload, 1)}, tmp_path / "agent.pt")
    loaded = UDRLAgent.load(tmp_path / "agent.pt")
    assert loaded.action_scale.tolist() == [1.0] and made.action_scale.tolist() == [4.0]
    states, commands = queries()
    expected, _ = made(states, commands)
    torch.testing.assert_close(loaded(states, commands)[0], expected / 4.0)


def test_bent_columns_and_derived_noise_travel(tmp_path):
    made, (states, commands) = shield("mixture", calibrate=False), queries()
    rows = commands.repeat(50, 1)
    rows[::100, 1] = 1e7
    made.hyperparameters["return_noise"] = None
    with pytest.warns(DataWarning):
        made.fit_standardizers(states.repeat(50, 1), rows)
    made.save(tmp_path / "shield.pt")
    loaded = BaseShield.load(tmp_path / "shield.pt")
    assert loaded.return_noise == made.return_noise == made.hyperparameters["return_noise"] == 1.0
    assert torch.equal(loaded.least_scale, made.least_scale)
    assert torch.equal(loaded.log_prob(states, commands), made.log_prob(states, commands))


@pytest.mark.parametrize("name", SHIELDS)
def test_every_argument_of_the_constructor_travels(name, tmp_path):
    made = shield(name)
    arguments = {**SHIELDS[name].keywords, "state_dim": 3, "hidden_dim": 8}
    for key, value in arguments.items():
        assert made.hyperparameters[key] == value
    made.save(tmp_path / "shield.pt")
    loaded = BaseShield.load(tmp_path / "shield.pt")
    for key in {*arguments} & {*vars(made)}:
        assert getattr(loaded, key) == getattr(made, key)
    assert (loaded.horizon_noise, loaded.return_noise) == (made.horizon_noise, made.return_noise)


def test_score_groups_and_interval_travel(tmp_path):
    made, (states, commands) = shield(), queries()
    made.score_type = "achievability"
    data = ExchangeablePairs(torch.randn(200, 3).numpy() * 4, torch.randn(200, 2).numpy() * 50)
    made.calibrate(data, 0.2, unit="episode", groups=2)
    made.save(tmp_path / "shield.pt")
    loaded = BaseShield.load(tmp_path / "shield.pt")
    assert loaded.score_type == "achievability"
    assert loaded.calibration.intervals == made.calibration.intervals
    assert str(loaded.calibration) == str(made.calibration)
    assert torch.equal(loaded.limits(states), made.limits(states))
    assert torch.equal(loaded.is_ood(states, commands), made.is_ood(states, commands))


@pytest.mark.parametrize("name", SHIELDS)
def test_an_uncalibrated_shield_loads_uncalibrated(name, tmp_path):
    shield(name, calibrate=False).save(tmp_path / "shield.pt")
    with pytest.raises(NotCalibratedError):
        BaseShield.load(tmp_path / "shield.pt").is_ood(*queries())


def test_a_missing_file_says_so(tmp_path):
    for load, kind in ((BaseShield.load, "shield"), (UDRLAgent.load, "agent")):
        with pytest.raises(FileNotFoundError, match=f"no {kind} file at .*nothing.pt.*train first"):
            load(tmp_path / "nothing.pt")
        with pytest.raises(FileNotFoundError):
            load(tmp_path)


def test_another_kind_of_file_is_refused(tmp_path):
    saved(tmp_path / "shield.pt")
    UDRLAgent(3, 1, hidden_dim=8).save(tmp_path / "agent.pt")
    with pytest.raises(FileFormatError, match="holds a 'shield', expected a 'agent'"):
        UDRLAgent.load(tmp_path / "shield.pt")
    with pytest.raises(FileFormatError, match="holds a 'agent', expected a 'shield'"):
        BaseShield.load(tmp_path / "agent.pt")
    with pytest.raises(FileFormatError, match="'quantile' shield, expected 'flow_matching'"):
        FlowMatchingShield.load(tmp_path / "shield.pt")


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    content = saved(tmp_path / "shield.pt").read_bytes()
    for length in [*range(0, len(content), 997), *range(len(content) - 40, len(content))]:
        path = written(tmp_path / "cut.pt", content[:length])
        with pytest.raises(FileFormatError, match=r"cut.pt is not a readable.*\(truncated or fore"):
            BaseShield.load(path)


def random_bytes(seed):
    return np.random.default_rng(seed).bytes(seed)


def archive(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("notes.txt", content)
    return file.getvalue()


def arrays():
    file = io.BytesIO()
    np.savez(file, states=np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"state,action\n1,2\n",
        pickle.dumps({"format_version": 1, "kind": "shield"}, protocol=2),
        archive("nothing of ours"),
        arrays(),
        *(random_bytes(seed) for seed in range(1, 40)),
        *(b"\x80\x02" + random_bytes(seed) for seed in range(1, 40)),
    ],
    ids=map(str, itertools.count()),
)
def test_a_foreign_file_is_refused(content, tmp_path):
    with pytest.raises(FileFormatError, match="not a readable flowshield shield file"):
        BaseShield.load(written(tmp_path / "foreign.pt", content))


@pytest.mark.parametrize("payload", [torch.zeros(3), [1, 2], {"weights": torch.zeros(3)}])
def test_a_torch_file_of_another_program_is_refused(payload, tmp_path):
    torch.save(payload, tmp_path / "other.pt")
    with pytest.raises(FileFormatError, match="not written by flowshield: no format version"):
        UDRLAgent.load(tmp_path / "other.pt")


@pytest.mark.parametrize("version", [0, 1, 99, "3.0", None])
def test_an_unknown_version_is_refused(version, tmp_path):
    payload = {"format_version": version, "kind": "shield", **shield().payload()}
    torch.save(payload, tmp_path / "shield.pt")
    with pytest.raises(FileFormatError, match=r"format version .*; this release reads version 3"):
        BaseShield.load(tmp_path / "shield.pt")


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    payload = shield().payload()
    payload["state_dict"] = dict(payload["state_dict"])
    del payload["state_dict"]["horizon_network.9.bias"]
    save_payload(tmp_path / "shield.pt", "shield", payload)
    with pytest.raises(FileFormatError, match="horizon_network.9.bias.*train again"):
        BaseShield.load(tmp_path / "shield.pt")


@pytest.mark.parametrize("part", ["projection", "hyperparameters"])
def test_a_setting_of_another_release_is_refused_by_file_and_name(part, tmp_path):
    payload = shield().payload()
    payload[part] = {**payload[part], "n_restarts": 4}
    save_payload(tmp_path / "old.pt", "shield", payload)
    with pytest.raises(FileFormatError, match=r"old.pt .*'n_restarts'.*train again"):
        BaseShield.load(tmp_path / "old.pt")


def test_an_agent_of_another_release_is_refused_by_file_and_name(tmp_path):
    UDRLAgent(3, 1, hidden_dim=8).save(tmp_path / "agent.pt")
    payload = load_payload(tmp_path / "agent.pt", "agent")
    payload["hyperparameters"]["depth"] = 3
    content = {key: payload[key] for key in ("hyperparameters", "state_dict")}
    save_payload(tmp_path / "old.pt", "agent", content)
    with pytest.raises(FileFormatError, match=r"old.pt .*'depth'.*train again"):
        UDRLAgent.load(tmp_path / "old.pt")


@pytest.mark.parametrize("load", [BaseShield.load, UDRLAgent.load])
def test_nothing_in_a_file_is_executed(load, tmp_path):
    proof = tmp_path / "was_here"
    payload = {"format_version": 1, "kind": "shield", "state_dict": Malice(proof)}
    raw = written(tmp_path / "raw.pt", pickle.dumps(payload, protocol=2))
    wrapped = tmp_path / "wrapped.pt"
    torch.save(payload, wrapped)
    legacy = tmp_path / "legacy.pt"
    torch.save(payload, legacy, _use_new_zipfile_serialization=False)
    for path in (raw, wrapped, legacy):
        with pytest.raises(FileFormatError, match="not a readable flowshield"):
            load(path)
        assert not proof.exists()
    torch.load(wrapped, weights_only=False)  # the trap does work on who trusts it
    assert proof.exists()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_the_old_file(call, tmp_path, monkeypatch):
    path = saved(tmp_path / "shield.pt")
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        for model in (shield("flow_matching"), UDRLAgent(3, 1, hidden_dim=8)):
            with pytest.raises(OSError, match="no space left"):
                model.save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["shield.pt"]
    assert isinstance(BaseShield.load(path), QuantileShield)


def test_a_disk_that_fills_up_while_writing_leaves_the_old_file(tmp_path):
    path = saved(tmp_path / "shield.pt")
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))  # no file may grow beyond
    try:
        with pytest.raises(OSError, match="File too large"):
            shield("flow_matching").save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["shield.pt"]
    assert isinstance(BaseShield.load(path), QuantileShield)


def test_payloads_of_plain_containers_travel(tmp_path):
    payload = {"numbers": [1, 2.5, None, True], "nested": {"text": "a", "tensor": torch.arange(3)}}
    save_payload(tmp_path / "any.pt", "fit", payload)
    loaded = load_payload(tmp_path / "any.pt", "fit")
    assert loaded["numbers"] == payload["numbers"]
    assert torch.equal(loaded["nested"]["tensor"], torch.arange(3))


def test_a_file_that_may_not_be_read_is_not_called_foreign(tmp_path, monkeypatch):
    path = saved(tmp_path / "shield.pt")

    def refuse(self):
        raise PermissionError("permission denied")

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    with pytest.raises(PermissionError):
        BaseShield.load(path)
