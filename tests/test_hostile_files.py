"""Files that were made to harm: nothing is run, no memory is filled, the error names the file."""

import io
import json
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf

from flowshield.config import compose
from flowshield.data import TrajectoryDataset
from flowshield.errors import ConfigError, DataError, FileFormatError
from flowshield.json_files import read_json
from flowshield.limits import check_unfolded
from flowshield.models import BaseShield, QuantileShield, UDRLAgent
from flowshield.models.serialization import load_payload, save_payload
from flowshield.models.shields import ExchangeablePairs
from flowshield.run_config import read_config
from flowshield.run_folder import RunFolder

MARK = b"flowshield_was_here"
GIB = 1 << 30


@pytest.fixture
def small_memory():
    """Room for 3 GiB more than there is in use: what a small file asks beyond that fails."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 3 * GIB, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


class Call:
    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


def malicious():
    command = f"touch {MARK.decode()}"
    table = {"states": Call(os.system, command)}
    yield "reduce", pickle.dumps(Call(os.system, command))
    yield "nested", pickle.dumps({"states": [np.zeros(3), {"a": (Call(os.system, command),)}]})
    yield "eval", pickle.dumps(Call(eval, f"open({MARK.decode()!r}, 'w')"))
    yield "subprocess", pickle.dumps(Call(subprocess.call, ["touch", MARK.decode()]))
    yield "torch reducer", pickle.dumps(Call(torch.load, MARK.decode()))
    yield "getattr", b"\x80\x02c__builtin__\ngetattr\ncos\nos\nX\x06\x00\x00\x00system\x86R."
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield f"protocol {protocol}", pickle.dumps(table, protocol=protocol)
    text = command.encode()
    yield "GLOBAL", b"cposix\nsystem\n(S'" + text + b"'\ntR."
    yield "INST", b"(S'" + text + b"'\niposix\nsystem\n."
    yield "OBJ", b"(cposix\nsystem\nS'" + text + b"'\no."
    yield (
        "STACK_GLOBAL",
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c" + bytes([len(text)]) + text + b"\x85R."),
    )
    yield (
        "NEWOBJ",
        b"\x80\x02csubprocess\nPopen\nX" + len(text).to_bytes(4, "little") + text + (b"\x85\x81."),
    )
    yield "dotted name", b"\x80\x04\x8c\x05numpy\x8c\x0bos.system.x\x93."
    yield "persistent id", b"P" + text + b"\n."
    yield "extension", b"\x80\x02\x82\x01."


MALICIOUS = dict(malicious())


@pytest.mark.parametrize("content", MALICIOUS.values(), ids=MALICIOUS)
def test_a_malicious_pickle_executes_nothing(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data.pkl"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="data.pkl"):
        TrajectoryDataset(path)
    model = tmp_path / "model.pt"
    with zipfile.ZipFile(model, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
    for load in (BaseShield.load, UDRLAgent.load):
        with pytest.raises(FileFormatError, match=r"model\.pt"):
            load(model)
    assert not (tmp_path / MARK.decode()).exists()


def test_the_traps_do_work_on_who_trusts_them(tmp_path):
    for name in ("reduce", "GLOBAL"):
        (tmp_path / "trap").write_bytes(MALICIOUS[name])
        code = "import pickle; pickle.load(open('trap', 'rb'))"
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
        (tmp_path / MARK.decode()).unlink()


def bombs():
    yield "memo index", b"\x80\x02Nr\xff\xff\xff\x7f."
    yield "bytes", b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"ab."
    yield "bytearray", b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"ab."
    yield "frame", b"\x80\x04\x95" + (1 << 40).to_bytes(8, "little") + b"N."
    yield "number", b"I" + b"9" * 100_000 + b"\n."
    yield "depth", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    pairs = b"".join(b"q%ch%ch%c\x86" % (i, i, i) for i in range(60))
    yield "key that takes years to hash", b"\x80\x02}K\x01" + pairs + b"K\x01s."
    lists = b"".join(b"q%c0](h%ch%ce" % (i, i, i) for i in range(60))
    yield "list of lists", b"\x80\x02}X\x06\x00\x00\x00states](K\x01K\x01e" + lists + b"s."
    yield "shape", pickle.dumps({"states": Call(np.ndarray, (1 << 33,), "f8")})
    yield (
        "repeated text",
        (
            b"\x80\x02X\x10'\x00\x00"
            + b"a" * 10_000
            + b"q\x000]("
            + b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R" * 100
            + b"e."
        ),
    )


BOMBS = dict(bombs())


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_a_small_pickle_takes_no_large_memory(content, tmp_path, small_memory):
    path = tmp_path / "bomb.pkl"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"bomb\.pkl"):
        TrajectoryDataset(path)


def npy(header, content=b"", zipped=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipped) as archive, archive.open("a.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, header)
        member.write(content)
    return file.getvalue()


def header(shape, descr="<f8"):
    return {"descr": descr, "fortran_order": False, "shape": shape}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(header((1 << 40, 3))), "claims .* bytes and has 0"),
        (npy(header((1,), f"<U{1 << 28}")), "claims"),
        (npy(header((3,), "|O"), b"0" * 24), "objects"),
        (npy(header((-3, -8)), b"0" * 192), "claims|negative"),
        (npy(header((1 << 24,)), bytes(1 << 27), zipfile.ZIP_DEFLATED), "FLOWSHIELD_UNFOLD_MIB"),
    ],
    ids=["shape", "letters", "objects", "negative", "zip bomb"],
)
def test_a_small_npz_takes_no_large_memory(content, message, tmp_path, small_memory, monkeypatch):
    monkeypatch.setenv("FLOWSHIELD_UNFOLD_MIB", "100")
    path = tmp_path / "bomb.npz"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=rf"bomb\.npz.*({message})"):
        TrajectoryDataset(path)


def test_how_far_a_file_may_unfold_can_be_set(monkeypatch):
    check_unfolded(1 << 30, 10, "a")
    check_unfolded(20 << 30, 1 << 30, "a")
    with pytest.raises(FileFormatError, match="a: claims"):
        check_unfolded((1 << 30) + 1, 10, "a")
    monkeypatch.setenv("FLOWSHIELD_UNFOLD_MIB", "2048")
    check_unfolded(2 << 30, 10, "a")
    monkeypatch.setenv("FLOWSHIELD_UNFOLD_MIB", "much")
    with pytest.raises(ConfigError, match="'much'"):
        check_unfolded(1, 1, "a")


def folder_of(tmp_path, **columns):
    path = tmp_path / "bomb.parquet"
    path.mkdir()
    pq.write_table(pa.table(columns), path / "part-00000.parquet")
    facts = {"format_version": 1, "n_parts": 1, "n_episodes": 1, "n_truncated": 0}
    (path / "flowshield.json").write_text(json.dumps(facts))
    return path


def test_a_small_parquet_folder_takes_no_large_memory(tmp_path, small_memory, monkeypatch):
    monkeypatch.setenv("FLOWSHIELD_UNFOLD_MIB", "100")
    rows = pa.DictionaryArray.from_arrays(np.zeros(15_000_000, np.int8), np.zeros(1))
    path = folder_of(tmp_path, rewards=rows, behaviours=pa.nulls(len(rows), pa.string()))
    assert sum(file.stat().st_size for file in path.iterdir()) < 1_000_000
    with pytest.raises(FileFormatError, match=r"bomb\.parquet.*FLOWSHIELD_UNFOLD_MIB"):
        TrajectoryDataset(path)


def test_a_long_name_in_every_row_takes_no_large_memory(tmp_path, small_memory):
    rows = pa.DictionaryArray.from_arrays(np.zeros(1_000_000, np.int8), ["a" * 100_000])
    with pytest.raises(FileFormatError, match=r"bomb\.parquet.*100000 letters"):
        TrajectoryDataset(folder_of(tmp_path, behaviours=rows))


def test_a_footer_on_which_pyarrow_ends_the_process_is_refused(tmp_path):
    """Found by tests/fuzz/run.py: asked for a column's statistics, pyarrow calls terminate()."""
    TrajectoryDataset.from_arrays(np.zeros((1, 1)), np.zeros((1, 1)), [0.0], [True]).save(
        tmp_path / "data.parquet"
    )
    part = tmp_path / "data.parquet" / "part-00000.parquet"
    content = part.read_bytes()
    histogram = b"\x29\x06\x19\x26"  # SizeStatistics: a list of no numbers, and one of two
    assert histogram in content
    part.write_bytes(content.replace(histogram, b"\x29\x46\x19\x26", 1))
    with pytest.raises(FileFormatError, match=r"data\.parquet.*damaged"):
        TrajectoryDataset(tmp_path / "data.parquet")


def test_a_heap_that_hdf5_never_leaves_is_refused(tmp_path, monkeypatch):
    """Found by tests/fuzz/run.py: an object of size 0 in a global heap is a loop without end."""
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    dataset = TrajectoryDataset.from_arrays(np.zeros((1, 1)), np.zeros((1, 1)), [0.0], [True])
    dataset.save("minari:heap-v0")
    TrajectoryDataset("minari:heap-v0")
    file = tmp_path / "heap-v0" / "data" / "main_data.hdf5"
    content = bytearray(file.read_bytes())
    first = content.index(b"GCOL") + 16
    content[first : first + 16] = bytes(16)
    file.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"main_data\.hdf5.*heap"):
        TrajectoryDataset("minari:heap-v0")


def made_shield():
    shield = QuantileShield(3, hidden_dim=8)
    states, commands = torch.randn(60, 3), torch.randn(60, 2) + 50
    shield.fit_standardizers(states, commands)
    shield.calibrate(ExchangeablePairs(states.numpy(), commands.numpy()), 0.1)
    return shield


@pytest.mark.parametrize(
    "settings",
    [{"hidden_dim": 10**7}, {"n_layers": 10**9}, {"n_layers": -1}, {"state_dim": "3"}],
    ids=str,
)
def test_settings_of_a_larger_model_than_the_weights_are_refused(settings, tmp_path, small_memory):
    path = tmp_path / "model.pt"
    for model, kind, load in (
        (made_shield(), "shield", BaseShield.load),
        (UDRLAgent(3, 1, hidden_dim=8), "agent", UDRLAgent.load),
    ):
        model.save(path)
        content = dict(load_payload(path, kind))
        content["hyperparameters"] |= settings
        save_payload(path, kind, content)
        with pytest.raises(FileFormatError, match=r"model\.pt holds a"):
            load(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(1 << 40),
        torch.zeros(3).to_sparse(),
        torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
        torch.empty(1 << 40, device="meta"),
        torch.nn.Parameter(torch.zeros(1).expand(1 << 40)),
    ],
    ids=["expanded", "sparse", "quantized", "meta", "parameter"],
)
def test_a_tensor_larger_than_its_bytes_is_refused(tensor, tmp_path, small_memory):
    save_payload(tmp_path / "model.pt", "agent", {"state_dict": {"weight": tensor}})
    with pytest.raises(FileFormatError, match=r"model\.pt is not a readable"):
        UDRLAgent.load(tmp_path / "model.pt")


def test_a_compressed_or_repeated_model_file_is_refused(tmp_path):
    UDRLAgent(3, 1, hidden_dim=8).save(tmp_path / "agent.pt")
    with zipfile.ZipFile(tmp_path / "agent.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "zip.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(FileFormatError, match=r"zip\.pt .*compressed"):
        UDRLAgent.load(tmp_path / "zip.pt")


@pytest.mark.parametrize("threshold", [float("nan"), float("-inf")])
def test_a_threshold_that_passes_everything_is_refused(threshold, tmp_path):
    content = made_shield().payload()
    content["calibration"]["thresholds"] = [threshold]
    save_payload(tmp_path / "open.pt", "shield", content)
    with pytest.raises(FileFormatError, match=r"open\.pt"):
        BaseShield.load(tmp_path / "open.pt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "alias"),
        ("a: " + "[" * 5000 + "]" * 5000, "levels"),
        ("seed: ${oc.env:HOME}\n", "interpolation"),
        ("seed: !!python/object/apply:os.system ['touch here']\n", "tag|construct"),
        ("#" * (2 << 20), "at most"),
        ("seed: [1\n", "expected"),
        ("seed: \x00\n", "character"),
        ("- 1\n", "mapping"),
        ("sead: 1\n", "did you mean"),
    ],
    ids=["aliases", "depth", "variable", "object", "size", "syntax", "bytes", "list", "key"],
)
def test_a_hostile_config_is_refused_by_name(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"(?s)config\\.yaml.*({message})"):
        read_config(RunFolder(tmp_path))
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "9" * 10_000, '{"a": \x00}', "\ud800"])
def test_a_hostile_record_is_refused_by_name(text, tmp_path):
    path = tmp_path / "record.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(FileFormatError, match=r"record\.json"):
        read_json(path)


def test_no_secret_goes_into_a_config(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "s3cret")
    (tmp_path / "config.yaml").write_text("env: {name: '${oc.env:WANDB_API_KEY}'}\n")
    with pytest.raises(ConfigError) as caught:
        read_config(RunFolder(tmp_path))
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in OmegaConf.to_yaml(compose("run"))


def test_nan_in_metadata_counts_is_no_number(tmp_path):
    dataset = TrajectoryDataset.from_arrays(np.zeros((1, 1)), np.zeros((1, 1)), [0.0], [True])
    dataset.save(tmp_path / "data.npz")
    with np.load(tmp_path / "data.npz") as archive:
        arrays = dict(archive)
    facts = json.loads(str(arrays["metadata"])) | {"n_episodes": float("nan")}
    np.savez(tmp_path / "data.npz", **arrays | {"metadata": np.array(json.dumps(facts))})
    with pytest.raises(DataError, match=r"data\.npz"):
        TrajectoryDataset(tmp_path / "data.npz")


def test_some_hundred_mutated_files_of_every_format_are_refused_or_read(tmp_path):
    pytest.importorskip("minari")
    script = Path(__file__).parent / "fuzz" / "run.py"
    found = subprocess.run(
        [sys.executable, script, "--files", "100", "--out", tmp_path / "table.md"],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert "None." in (tmp_path / "table.md").read_text()
