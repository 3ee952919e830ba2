"""Kills flowshield again and again, and holds what it ends in against an unbroken run.

    python tests/soak/kills.py --stage collect:50 train:60 probe:50 run:60 --seed 0 \\
        --out docs/results/kills.md

Each command is started in a process group of its own and killed with SIGKILL, group and all, at a
random moment or while a file is being written, then started again at once; of four starts in a row
at most three are killed, so that it comes to its end. After each kill every file in the run folder
that some command reads is read. At the end the dataset must have the bytes, and the models the
weights, of a run that nobody broke; no process may be left, and no file that an unbroken run does
not leave, in the run folder, in the folder of temporary files, or in /dev/shm.

Commands come out of a fork server, which has imported everything but Ray and computed nothing: a
kill then costs the work, not the imports. Linux only.
"""

import argparse
import atexit
import ctypes
import multiprocessing
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from run_files import comparable, content, files, is_ours, is_theirs, is_writing, same

from flowshield.cli import main as flowshield_main
from flowshield.machine import machine
from flowshield.paths import typed_path

SETTINGS = [
    "env=gridworld",
    "behaviour=random",
    "data.n_episodes=60",
    "calibration.alpha=0.2",
    "n_epochs=4",
    "shield_epochs=4",
    "checkpoint_every=1",
    "batch_size=128",
    "model.hidden_dim=16",
    "evaluation.n_episodes=3",
    "evaluation.n_states=40",
    "evaluation.followed.n_starts=2",
    "evaluation.followed.n_commands=2",
    "probe.n_episodes=76",
    "probe.n_steps=20",
    "certificate.n_episodes=60",
    "certificate.epsilon=0.5",
    "certificate.delta=0.5",
    "device=cpu",
]
HERE = "ray.num_workers=0"
SWEEP = ["tune.scheduler=none", "tune.n_samples=1", "tune.space.batch_size={grid:[64,128]}"]
COMMANDS = multiprocessing.get_context("forkserver")
COMMANDS.set_forkserver_preload(["flowshield.pipeline", "torch.utils.tensorboard"])
ORPHAN_SECONDS = 600.0  # on a busy machine
MOST_KILLS_IN_A_ROW = 3
ALL = (
    "collect:50 train:50 train_at_address:20 probe:50 certify:50 evaluate:50 run:50 "
    "collect_on_ray:8 train_on_ray:4 tune:8"
).split()


@dataclass(frozen=True)
class Stage:
    """A command under fire: what is typed, and what it begins with."""

    command: str
    overrides: tuple[str, ...] = (HERE, "shield=quantile")
    begins_trained: bool = False
    at_address: bool = False

    def arguments(self, folder: Path) -> list[str]:
        place = folder.as_uri() if self.at_address else str(folder)
        return [self.command, f"run_dir={place}", *SETTINGS, *self.overrides]


STAGES = {
    "collect": Stage("collect"),
    "train": Stage("train", (HERE, "shield=flow_matching")),
    "train_at_address": Stage("train", (HERE, "shield=quantile"), at_address=True),
    "probe": Stage("probe", begins_trained=True),
    "certify": Stage("certify", begins_trained=True),
    "evaluate": Stage("evaluate", begins_trained=True),
    "run": Stage("run"),
    "collect_on_ray": Stage("collect", ("ray.num_workers=1", "shield=quantile")),
    "train_on_ray": Stage("train", ("ray.num_workers=1", "shield=quantile")),
    "tune": Stage("tune", ("ray.num_workers=1", "shield=quantile", *SWEEP)),
}


@dataclass
class Tally:
    """What happened to a stage."""

    runs: int = 0
    kills: int = 0
    in_a_write: int = 0
    files_read: int = 0
    slowest_orphan: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Refused(Exception):
    """A command that nobody killed did not come to its end."""


class Soak:
    """Runs one stage unbroken, then under fire."""

    def __init__(self, stage: Stage, place: Path, rng: random.Random) -> None:
        self.stage, self.place, self.rng = stage, place, rng
        self.tally = Tally()
        self.temporary = place / "tmp"
        self.temporary.mkdir(parents=True)
        self.log = place / "log.txt"
        self.before = place / "before"
        first = COMMANDS.Process(target=int)
        first.start()
        first.join()  # from now on no command waits for the server's imports
        self.servers = children()  # it, and multiprocessing's own
        if stage.begins_trained:
            self._finish(Stage("train", stage.overrides).arguments(self.before))
        self.unbroken = place / "unbroken"
        self._begin(self.unbroken)
        start = time.monotonic()
        self._finish(stage.arguments(self.unbroken))
        self.seconds = time.monotonic() - start
        self.usual = self._outside()

    def until(self, kills: int) -> Tally:
        """Breaks runs until so many kills are done."""
        with suppress(Refused):
            while self.tally.kills < kills:
                folder = self.place / f"broken{self.tally.runs}"
                self._begin(folder)
                self._break(folder, kills)
                self._compare(folder)
                self.tally.runs += 1
                shutil.rmtree(folder)
        return self.tally

    def _begin(self, folder: Path) -> None:
        if self.stage.begins_trained:
            shutil.copytree(self.before, folder)

    def _break(self, folder: Path, kills: int) -> None:
        in_a_row = 0
        while True:
            process = self._start(self._again(folder))
            spare = in_a_row == MOST_KILLS_IN_A_ROW or self.tally.kills == kills
            if spare or not self._kill(process, folder):
                process.join()
                if process.exitcode == 0:
                    return
                self._wrong(f"exit code {process.exitcode}: {self.log.read_text()[-500:]}")
                raise Refused
            self.tally.kills += 1
            in_a_row = 0 if spare else in_a_row + 1
            self.tally.files_read += self._read_all(folder)

    def _again(self, folder: Path) -> list[str]:
        arguments = self.stage.arguments(folder)
        begun = (folder / "sweep" / "trials" / "tuner.pkl").exists()
        return [*arguments, "--resume"] if begun else arguments

    def _kill(self, process: BaseProcess, folder: Path) -> bool:
        """Whether it was killed before it had ended."""
        moment = time.monotonic() + self.rng.uniform(0.0, self.seconds)
        on_write = self.rng.random() < 0.4
        while time.monotonic() < moment or on_write:
            if not process.is_alive():
                return False
            late = time.monotonic() > moment
            if on_write and late and is_writing(folder):
                self.tally.in_a_write += 1
                break
            time.sleep(0.0002 if on_write and late else 0.002)
        with suppress(ProcessLookupError):  # it has no group of its own yet, or has just ended
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        return True

    def _start(self, arguments: list[str]) -> BaseProcess:
        process = COMMANDS.Process(target=command, args=(arguments, self.temporary, self.log))
        process.start()
        return process

    def _finish(self, arguments: list[str]) -> None:
        process = self._start(arguments)
        process.join()
        if process.exitcode != 0:
            told = f"{shlex.join(arguments)} ended with {process.exitcode}"
            raise SystemExit(f"{told}: {self.log.read_text()}")

    # ------------------------------------------------------------------ what must hold

    def _read_all(self, folder: Path) -> int:
        """Reads every file that some command would read, and says how many there were."""
        found = [path for path in files(folder) if is_ours(path, folder)]
        for path in found:
            try:
                content(path)
            except FileNotFoundError:
                pass  # a temporary file of a process that is just dying
            except Exception as error:
                self._wrong(f"{path} is half written: {error}")
        return len(found)

    def _compare(self, folder: Path) -> None:
        ours, theirs = (self._names(place) for place in (folder, self.unbroken))
        if ours != theirs:
            self._wrong(f"files that differ: {sorted(ours ^ theirs)}")
        for name in sorted(ours & theirs):
            if not same(*(comparable(place / name) for place in (folder, self.unbroken))):
                self._wrong(f"{name} differs from the unbroken run's")
        self._await_orphans()
        for path in self._outside() - self.usual:
            self._wrong(f"left behind: {path}")
            self.usual.add(path)

    def _outside(self) -> set[Path]:
        """What lies in the folders for temporary files and shared memory.

        Left out is what Ray keeps there of every run, its logs and locks, and what W&B, where it is
        installed, makes at its import.
        """
        temporary = {path for path in self.temporary.iterdir() if not is_theirs(path.name)}
        return {*temporary, *Path("/dev/shm").iterdir()}

    def _names(self, folder: Path) -> set[str]:
        found = files(folder)
        return {path.relative_to(folder).as_posix() for path in found if is_ours(path, folder)}

    def _await_orphans(self) -> None:
        """Every process that a killed one started is by now a child of this one."""
        start = time.monotonic()
        while time.monotonic() < start + ORPHAN_SECONDS:
            left = children() - self.servers
            for pid in left:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            if not left:
                waited = time.monotonic() - start
                self.tally.slowest_orphan = max(self.tally.slowest_orphan, waited)
                return
            time.sleep(0.01)
        self._wrong(f"processes are left: {[spoken(pid) for pid in children() - self.servers]}")

    def _wrong(self, what: str) -> None:
        print(f"  WRONG: {what}", flush=True)
        self.tally.wrong.append(what)


def command(arguments: list[str], temporary: Path, log: Path) -> None:
    """The command in a process group of its own."""
    os.setsid()
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    told = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(told, 1)
    os.dup2(told, 2)
    code = flowshield_main(arguments)
    atexit._run_exitfuncs()  # which a process out of a fork server leaves out
    sys.exit(code)


def children() -> set[int]:
    """The processes whose parent is this one."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            if int(status.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(status.parent.name))
    return found


def spoken(pid: int) -> str:
    """What was typed to start a process."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:120]
    return f"process {pid}"


def table(tallies: dict[str, Tally], seed: int, seconds: float) -> str:
    """The Markdown page."""
    rows = [
        f"| {name} | {t.kills} | {t.in_a_write} | {t.runs} | {t.files_read} | "
        f"{t.slowest_orphan:.1f} s | {len(t.wrong)} |"
        for name, t in tallies.items()
    ]
    kills = sum(t.kills for t in tallies.values())
    wrong = sum(len(t.wrong) for t in tallies.values())
    head = [
        "# Killed, and gone on with",
        "",
        f"{kills} times SIGKILL to a whole process group, {wrong} things wrong afterwards.",
        "What counts as wrong, and how it is done, stands at the head of `tests/soak/kills.py`.",
        "",
        "```bash",
        f"python tests/soak/kills.py {shlex.join(sys.argv[1:])}",
        "```",
        "",
        f"Seed {seed}; {machine()}; {seconds / 60:.0f} minutes.",
        "",
        "| command | kills | of these while a file was written | runs, each as an unbroken one "
        "| files read after kills | last process gone after | wrong |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join([*head, *rows]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stage", nargs="+", default=ALL, metavar="NAME[:KILLS]")
    parser.add_argument("--kills", type=int, default=50, help="of a stage that does not say")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=typed_path, help="Markdown file; left out: print it")
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans become ours
    start, tallies = time.monotonic(), {}
    for asked in parsed.stage:
        name, _, kills = asked.partition(":")
        # short, for Ray puts sockets there, whose paths may have 107 characters
        with tempfile.TemporaryDirectory(prefix="fs-", dir="/tmp") as place:
            soak = Soak(STAGES[name], Path(place), random.Random(f"{parsed.seed} {name}"))
            print(f"{name}: {soak.seconds:.1f} s unbroken", flush=True)
            tallies[name] = soak.until(int(kills or parsed.kills))
        print(f"  {tallies[name]}", flush=True)
        text = table(tallies, parsed.seed, time.monotonic() - start)
        if parsed.out is not None:
            parsed.out.write_text(text)
    if parsed.out is None:
        print(text)
    return int(any(tally.wrong for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
