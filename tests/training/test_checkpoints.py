"""Checkpoint files: round trip, and refusal of what they are not."""

import os
import pickle
import resource

import pytest
import torch

from flowshield.errors import ConfigError, FileFormatError
from flowshield.models import BaseShield, UDRLAgent
from flowshield.models.serialization import save_payload
from flowshield.models.shields import ExchangeablePairs
from flowshield.training import load_checkpoint, save_checkpoint


def make_agent(seed=0):
    torch.manual_seed(seed)
    return UDRLAgent(
        3, 2, hidden_dim=8, n_layers=2, action_low=[-1.0, -2.0], action_high=[1.0, 2.0]
    )


def make_shield(shield_type="flow_matching"):
    torch.manual_seed(0)
    return BaseShield.of_type(shield_type)(3, hidden_dim=8, n_layers=1)


def make_optimizer(agent):
    optimizer = torch.optim.AdamW(agent.parameters(), lr=0.01)
    agent.compute_loss(*batch()).backward()
    optimizer.step()
    return optimizer


def batch():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, n, generator=generator) for n in (3, 2, 2)]


@pytest.mark.parametrize("shield_type", ["quantile", "mixture", "diffusion", "flow_matching"])
def test_round_trip(tmp_path, shield_type):
    agent, shield = make_agent(), make_shield(shield_type)
    optimizer = make_optimizer(agent)
    state, action, command = batch()
    agent.fit_standardizers(state, command)
    shield.fit_standardizers(state, command)
    pairs = ExchangeablePairs(state.repeat(8, 1).numpy(), command.repeat(8, 1).numpy())
    shield.calibrate(pairs, alpha=0.2)
    path = tmp_path / "new" / "checkpoint.pt"
    save_checkpoint(path, agent, shield, optimizer, 17)
    loaded = load_checkpoint(path)

    assert set(loaded) == {"agent", "shield", "optimizer", "epoch"}
    assert loaded["epoch"] == 17
    assert isinstance(loaded["agent"], UDRLAgent)
    assert type(loaded["shield"]) is type(shield)
    expected = agent.log_prob(state, command, action)
    assert torch.equal(loaded["agent"].log_prob(state, command, action), expected)
    assert torch.equal(loaded["agent"].action_high, agent.action_high)
    shield.eval()
    assert torch.equal(loaded["shield"].log_prob(state, command), shield.log_prob(state, command))
    assert torch.equal(loaded["shield"].is_ood(state, command), shield.is_ood(state, command))


def test_the_optimizer_goes_on_exactly(tmp_path):
    agent = make_agent()
    optimizer = make_optimizer(agent)
    save_checkpoint(tmp_path / "c.pt", agent, None, optimizer, 1)
    loaded = load_checkpoint(tmp_path / "c.pt")
    resumed = torch.optim.AdamW(loaded["agent"].parameters(), lr=0.5)
    resumed.load_state_dict(loaded["optimizer"])
    for model, its_optimizer in ((agent, optimizer), (loaded["agent"], resumed)):
        its_optimizer.zero_grad()
        model.compute_loss(*batch()).backward()
        its_optimizer.step()
    for ours, theirs in zip(loaded["agent"].parameters(), agent.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_parts_may_be_missing(tmp_path):
    save_checkpoint(tmp_path / "c.pt", None, None, None, 0)
    expected = {"agent": None, "shield": None, "optimizer": None, "epoch": 0}
    assert load_checkpoint(tmp_path / "c.pt") == expected
    save_checkpoint(tmp_path / "c.pt", None, make_shield(), None, 3)
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert loaded["agent"] is None and loaded["shield"].shield_type == "flow_matching"


# ---------------------------------------------------------------- files that are something else


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint file at .*train first"):
        load_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file(tmp_path, share):
    path = tmp_path / "c.pt"
    save_checkpoint(path, make_agent(), make_shield(), None, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(FileFormatError, match="truncated or foreign"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "content", [b"epoch,loss\n1,0.5\n", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", pickle.dumps([1, 2])]
)
def test_a_foreign_file(tmp_path, content):
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    with pytest.raises(FileFormatError):
        load_checkpoint(path)


def test_a_file_of_another_kind_or_version(tmp_path):
    path = tmp_path / "c.pt"
    make_agent().save(path)
    with pytest.raises(FileFormatError, match="holds a 'agent', expected a 'checkpoint'"):
        load_checkpoint(path)
    save_payload(path, "checkpoint", {"format_version": 999})
    with pytest.raises(FileFormatError, match="format version 999; this release reads version 3"):
        load_checkpoint(path)
    torch.save({"model": torch.zeros(3)}, path)
    with pytest.raises(FileFormatError, match="not written by flowshield"):
        load_checkpoint(path)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_nothing_in_a_file_is_executed(tmp_path):
    path, sprung = tmp_path / "c.pt", tmp_path / "sprung"
    torch.save({"format_version": 1, "kind": "checkpoint", "agent": Trap(sprung)}, path)
    with pytest.raises(FileFormatError):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(FileFormatError):
        load_checkpoint(path)
    assert not sprung.exists()


@pytest.mark.parametrize("room", [0, 1000, 5000])
def test_a_full_disk_keeps_the_old_file(tmp_path, room):
    """The limit on file sizes makes a real write fail half-way, as a full disk does."""
    path = tmp_path / "c.pt"
    save_checkpoint(path, make_agent(), None, None, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OSError):
            save_checkpoint(path, make_agent(1), make_shield(), None, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    loaded = load_checkpoint(path)
    assert loaded["epoch"] == 1
    expected = make_agent().state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in loaded["agent"].state_dict().items())
    assert os.listdir(tmp_path) == ["c.pt"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_not_the_files_fault(tmp_path):
    save_checkpoint(tmp_path / "c.pt", make_agent(), None, None, 1)
    with pytest.raises(ConfigError, match="'cuda' asked for, but this machine has 0"):
        load_checkpoint(tmp_path / "c.pt", device="cuda")
