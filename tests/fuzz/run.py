"""Reads thousands of damaged files of every format, and counts what came of each.

    python tests/fuzz/run.py --files 10000 --seed 0 --out docs/results/hostile_files.md
    python tests/fuzz/run.py --files 10000 --format npz --format pkl

Small valid files are written once and mutated: bits flipped, bytes replaced, cut, repeated, spliced
with another file's, numbers in headers set to absurd ones; of archives also the members, with sums
that are right again, of JSON and YAML the values. Each is read in a process of its own kind, with 3
GiB of address space beyond what it starts with and 20 seconds of computing a file (10 minutes of
waiting). A file is read whole, refused
by one of our errors that names it, or a *finding*: another error, an error without the file's name,
a signal, a process out of memory or time, or a file that appeared because code was run. Linux only.
"""

import argparse
import collections
import contextlib
import copy
import functools
import importlib.metadata
import io
import json
import multiprocessing
import os
import random
import resource
import shlex
import shutil
import signal
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from omegaconf import OmegaConf

from flowshield.config import compose
from flowshield.data import Episode, TrajectoryDataset
from flowshield.errors import FlowshieldError
from flowshield.json_files import read_json
from flowshield.machine import machine
from flowshield.models import BaseShield, QuantileShield, UDRLAgent
from flowshield.models.shields import ExchangeablePairs
from flowshield.paths import typed_path
from flowshield.run_config import read_config
from flowshield.run_folder import RunFolder
from flowshield.training import FitSettings, fit
from flowshield.training.checkpoints import load_checkpoint, save_checkpoint

ROOM = 3 << 30
SECONDS = 20
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
WIDE = (*NUMBERS, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
VALUES = (None, True, -1, 0, 1 << 62, 1e308, float("nan"), "", "${oc.env:HOME}", [], {}, [[[]]])
TRAP = b"cposix\nmkdir\n(S'" + b"was_here" + b"'\ntR."


class Format(NamedTuple):
    """What is written, which of its files are mutated, and how it is read."""

    make: Callable[[Path], None]
    files: tuple[str, ...]
    read: Callable[[Path], object]
    kind: str


def dataset() -> TrajectoryDataset:
    rng = np.random.default_rng(0)
    episodes = [
        Episode(
            states=rng.normal(size=(n, 3)).astype(np.float32),
            final_state=rng.normal(size=3).astype(np.float32),
            actions=rng.normal(size=(n, 2)).astype(np.float32),
            rewards=rng.normal(size=n),
            terminated=n != 4,
            truncated=n == 4,
            behaviour=["controller", "random"][n % 2],
            level=0.1 * n,
            index=i,
            request=(n, -1.5) if i else None,
        )
        for i, n in enumerate((2, 4, 5))
    ]
    return TrajectoryDataset.from_episodes(episodes, {"seed": 0})


def agent() -> UDRLAgent:
    return UDRLAgent(3, 1, hidden_dim=4, n_layers=1)


def shield() -> QuantileShield:
    made = QuantileShield(3, hidden_dim=4, n_layers=1, n_quantiles=4)
    states, commands = torch.randn(30, 3), torch.randn(30, 2) + 50
    made.fit_standardizers(states, commands)
    made.calibrate(ExchangeablePairs(states.numpy(), commands.numpy()), 0.1)
    return made


def make_checkpoint(path: Path) -> None:
    model = agent()
    optimizer = torch.optim.Adam(model.parameters())
    model.compute_loss(torch.zeros(2, 3), torch.zeros(2, 1), torch.zeros(2, 2)).backward()
    optimizer.step()
    save_checkpoint(path / "file.pt", model, shield(), optimizer, 3)


def fit_in(path: Path, **arguments: object) -> None:
    """Three epochs, of which last.pt knows two where the third was not written down."""
    model, rows = UDRLAgent(3, 2, hidden_dim=4, n_layers=1), dataset().tensors
    settings = FitSettings(3, batch_size=4, learning_rate=0.01, ema_decay=0.9, checkpoint_every=2)
    fit(model, rows, rows, settings, checkpoint_dir=path, **arguments)


def make_fit(path: Path) -> None:
    def stop(record: dict[str, float]) -> None:
        if record["epoch"] == 3:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        fit_in(path, on_epoch=stop)


def make_config(path: Path) -> None:
    (path / "config.yaml").write_text(OmegaConf.to_yaml(compose("run", ["env=gridworld"])))


def make_record(path: Path) -> None:
    record = {"command": [10, 1.5], "returns": [1.0, 2.0], "crashed": None, "shield": "quantile"}
    (path / "record.json").write_text(json.dumps({"cells": [record], "versions": {"a": "1"}}))


def make_minari(path: Path) -> None:
    os.environ["MINARI_DATASETS_PATH"] = str(path)
    dataset().save("minari:fuzz/box-v0")


def read_minari(path: Path) -> None:
    os.environ["MINARI_DATASETS_PATH"] = str(path)
    TrajectoryDataset("minari:fuzz/box-v0")


MINARI = ("fuzz/box-v0/data/main_data.hdf5", "fuzz/box-v0/data/metadata.json")
PARQUET = ("data.parquet/part-00000.parquet", "data.parquet/flowshield.json")
FORMATS = {
    "npz": Format(
        lambda p: dataset().save(p / "data.npz"),
        ("data.npz",),
        lambda p: TrajectoryDataset(p / "data.npz"),
        "zip",
    ),
    "pkl": Format(
        lambda p: dataset().save(p / "data.pkl"),
        ("data.pkl",),
        lambda p: TrajectoryDataset(p / "data.pkl"),
        "pickle",
    ),
    "parquet": Format(
        lambda p: dataset().save(p / "data.parquet"),
        PARQUET,
        lambda p: TrajectoryDataset(p / "data.parquet"),
        "bytes",
    ),
    "minari": Format(make_minari, MINARI, read_minari, "bytes"),
    "agent": Format(
        lambda p: agent().save(p / "file.pt"),
        ("file.pt",),
        lambda p: UDRLAgent.load(p / "file.pt"),
        "zip",
    ),
    "shield": Format(
        lambda p: shield().save(p / "file.pt"),
        ("file.pt",),
        lambda p: BaseShield.load(p / "file.pt"),
        "zip",
    ),
    "checkpoint": Format(
        make_checkpoint, ("file.pt",), lambda p: load_checkpoint(p / "file.pt"), "zip"
    ),
    "fit": Format(make_fit, ("last.pt",), lambda p: fit_in(p, resume=True), "zip"),
    "record": Format(make_record, ("record.json",), lambda p: read_json(p / "record.json"), "text"),
    "config": Format(make_config, ("config.yaml",), lambda p: read_config(RunFolder(p)), "text"),
}


def mutated(content: bytes, name: str, kind: str, rng: random.Random) -> bytes:
    """One damaged version of a file."""
    if name.endswith((".json", ".yaml")) and rng.random() < 0.5:
        return _other_value(content, name, rng)
    if kind == "zip" and rng.random() < 0.6:
        return _other_member(content, rng)
    if kind == "pickle" and rng.random() < 0.05:
        place = rng.randrange(len(content))
        return content[:place] + TRAP + content[place:]
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        content = rng.choice(MUTATIONS)(content, rng)
    return content


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _byte(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]


def _number(content: bytes, rng: random.Random) -> bytes:
    """A number as headers have them, little or big, in the place of what is there."""
    place, code = rng.randrange(len(content) + 1), rng.choice("HIQ")
    number = rng.choice(WIDE) & ((1 << 8 * struct.calcsize(code)) - 1)
    made = struct.pack(rng.choice("<>") + code, number)
    return content[:place] + made + content[place + len(made) :]


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _drop(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + content[place + rng.randrange(1, 64) :]


def _splice(content: bytes, rng: random.Random) -> bytes:
    """A piece of the file once more, somewhere else."""
    start, place = rng.randrange(len(content) + 1), rng.randrange(len(content) + 1)
    return content[:place] + content[start : start + rng.randrange(1, 256)] + content[place:]


MUTATIONS = (_flip, _flip, _byte, _number, _number, _cut, _drop, _splice)


def _other_member(content: bytes, rng: random.Random) -> bytes:
    """An archive, whole, of which one member is changed, or claims another length."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(members))
    if rng.random() < 0.4:  # the member that says what the others are
        name = next((n for n in members if n.endswith("data.pkl")), name)
    if rng.random() < 0.05:
        members[name] = TRAP
    for _ in range(rng.choice((1, 1, 2, 4))):
        start = members[name]
        change = rng.choice((*MUTATIONS, _digit))
        members[name] = (
            change(start[:128], rng) + start[128:] if rng.random() < 0.3 else change(start, rng)
        )
    made = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
    with zipfile.ZipFile(made, "w", how) as archive:
        for key, value in members.items():
            archive.writestr(key, value)
    return made.getvalue()


def _digit(content: bytes, rng: random.Random) -> bytes:
    """Another number where there are digits: a shape or a type in a header."""
    places = [i for i, byte in enumerate(content[:4096]) if chr(byte).isdigit()]
    if not places:
        return content
    place = rng.choice(places)
    return content[:place] + str(rng.choice((-1, *WIDE))).encode() + content[place + 1 :]


@functools.cache
def _tree(content: bytes, name: str) -> dict:
    """A document read; reading a config takes as long as refusing one."""
    if name.endswith("json"):
        return json.loads(content)
    return OmegaConf.to_container(OmegaConf.create(content.decode()))


def _other_value(content: bytes, name: str, rng: random.Random) -> bytes:
    """A document of which one value is of another kind, or nested without end."""
    tree = copy.deepcopy(_tree(content, name))
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys)
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.3:
            break
        node = node[key]
    choice = rng.randrange(len(VALUES) + 3)
    if choice < len(VALUES):
        node[key] = VALUES[choice]
    elif choice == len(VALUES) and isinstance(node, dict):
        node[f"{key}x"] = node.pop(key)
    elif choice == len(VALUES) + 1:
        del node[key]
    else:
        node[key] = "DEEP"
    text = json.dumps(tree) if name.endswith("json") else OmegaConf.to_yaml(OmegaConf.create(tree))
    depth = rng.choice((10, 3000))
    return text.replace('"DEEP"', "DEEP").replace("DEEP", "[" * depth + "]" * depth).encode()


def outcome(form: Format, folder: Path) -> str:
    """What came of reading: "whole", "refused", or "finding: ..."."""
    try:
        form.read(folder)
        verdict = "whole"
    except (FlowshieldError, FileNotFoundError) as error:
        name = Path(form.files[0]).parts[0]
        named = any(part in str(error) for part in (name, "box-v0", str(folder)))
        verdict = "refused" if named else f"finding: unnamed {type(error).__name__}: {error}"
    except BaseException as error:
        verdict = f"finding: {type(error).__name__}: {error}"
    if (folder / "was_here").exists() or Path("was_here").exists():
        verdict = "finding: code was executed"
    return " ".join(verdict.split())[:200]


def work(name: str, seeds: range, box: Path, pipe: object) -> None:
    """Reads one file a seed, and says before each which, and after each what came of it."""
    torch.set_num_threads(1)  # small networks: a second thread only waits for the first
    form = FORMATS[name]
    os.chdir(box)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    valid = {file: (box / "valid" / file).read_bytes() for file in form.files}
    for seed in seeds:
        rng = random.Random(f"{name} {seed}")
        chosen = rng.choice((form.files[0], *form.files))
        folder = box / "read"
        (folder / chosen).write_bytes(mutated(valid[chosen], chosen, form.kind, rng))
        pipe.send((seed, None))
        pipe.send((seed, outcome(form, folder)))
        (folder / chosen).write_bytes(valid[chosen])


def cpu_seconds(pid: int) -> float:
    """What a process has computed so far: on a busy machine a clock says little."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def fuzz(name: str, seeds: range, box: Path) -> Iterator[tuple[int, str]]:
    """The outcome of every seed; a worker that dies or hangs is replaced by a new one."""
    # not "fork": what torch's threads held in this process, nobody lets go of in its copy
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flowshield.pipeline"])  # imported once, not by each worker
    for folder in ("valid", "read"):
        (box / folder).mkdir(parents=True)
    torch.manual_seed(0)  # the weights
    FORMATS[name].make(box / "valid")
    shutil.copytree(box / "valid", box / "read", dirs_exist_ok=True)
    assert outcome(FORMATS[name], box / "read") == "whole", outcome(FORMATS[name], box / "read")
    position = 0
    while position < len(seeds):
        here, there = context.Pipe(duplex=False)
        worker = context.Process(target=work, args=(name, seeds[position:], box, there))
        worker.start()
        there.close()
        fault = None
        with contextlib.suppress(EOFError):
            while position < len(seeds):
                begun = time.monotonic(), cpu_seconds(worker.pid)
                while not here.poll(1) and worker.is_alive():
                    waited = time.monotonic() - begun[0], cpu_seconds(worker.pid) - begun[1]
                    if waited[0] > 30 * SECONDS or waited[1] > SECONDS:
                        fault = f"finding: no answer in {SECONDS} s"
                        break
                if fault:
                    os.kill(worker.pid, signal.SIGKILL)
                    break
                seed, verdict = here.recv()
                if verdict is not None:
                    position += 1
                    yield seed, verdict
        worker.join()
        if position < len(seeds):
            yield seeds[position], fault or f"finding: the process ended with {worker.exitcode}"
            position += 1


def table(rows: list[list[str]]) -> str:
    head = ["format", "files", "read whole", "refused by name", "findings", "seconds"]
    lines = [head, ["---"] + ["---:"] * 5, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(rows: list[list[str]], findings: collections.Counter[str]) -> str:
    names = ("flowshield", "numpy", "torch", "pyarrow", "minari", "h5py", "omegaconf")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    listed = "\n".join(f"- {count} x {text}" for text, count in findings.most_common(40)) or "None."
    return (
        "# Files that were made to harm, read\n\n"
        f"    {shlex.join(['python', *sys.argv])}\n\n"
        f"{machine()}; {versions}.\n\n{table(rows)}\n\n"
        "Read whole: the change hit what is not read, or a number of the data. A finding is another"
        " error than ours, one that does not name the file, a process that died, hung for "
        f"{SECONDS} s or took 3 GiB, or code that was run; see `tests/fuzz/run.py`.\n\n"
        f"## Findings\n\n{listed}\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000, help="of each format")
    parser.add_argument("--format", action="append", choices=FORMATS, help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=typed_path, help="the table, as Markdown")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows, findings = [], collections.Counter()
    for name in chosen.format or FORMATS:
        start, counts = time.perf_counter(), collections.Counter()
        first = chosen.seed * chosen.files
        with tempfile.TemporaryDirectory() as box:
            for seed, verdict in fuzz(name, range(first, first + chosen.files), Path(box, "box")):
                kind = verdict.partition(":")[0]
                counts[kind] += 1
                if kind == "finding":
                    findings[f"{name}: {verdict.partition(': ')[2].replace(box, '')}"] += 1
                    print(f"{name} {seed}: {verdict}", file=sys.stderr)
        seconds = f"{time.perf_counter() - start:.0f}"
        numbers = (chosen.files, counts["whole"], counts["refused"], counts["finding"])
        rows.append([name, *(f"{n:,}" for n in numbers), seconds])
        print(table(rows[-1:]).splitlines()[-1], flush=True)
        if chosen.out:
            chosen.out.write_text(report(rows, findings))
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
