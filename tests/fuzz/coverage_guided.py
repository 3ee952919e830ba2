"""Reads damaged files of one format, and goes on from those that reach new code of ours.

    pip install atheris
    python tests/fuzz/coverage_guided.py npz -max_total_time=300

The formats and the verdict are those of `run.py` beside it: a file is read whole, refused by one of
our errors that names it, or a finding, on which the program ends and leaves the file as crash-...;
so it does where a file takes more than 20 seconds or the process 4 GiB. Half of the files are
damaged as there, with archives that stay whole, half as libFuzzer does it, to which goes what
follows the format's name (-help=1 lists it). Only Python is watched: the inner code of numpy, torch
and pyarrow is not seen. No test: it runs as long as it is let.
"""

import multiprocessing
import random
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["flowshield", "pickletools", "zipfile", "numpy.lib"]):
    import torch  # here, for it imports zipfile
    from run import FORMATS, SECONDS, mutated, outcome

MEMORY_MIB = 4096


class Finding(Exception):
    """Neither read whole nor refused by name."""


def fuzz(form_name: str, box: Path, counts: dict[str, object], options: list[str]) -> None:
    """Does not return: libFuzzer ends the process."""
    form = FORMATS[form_name]
    folder, seeds, name = box / "read", box / "seeds", form.files[0]
    folder.mkdir()
    seeds.mkdir()
    torch.manual_seed(0)  # the weights
    form.make(folder)
    shutil.copy(folder / name, seeds)

    def read(content: bytes) -> None:
        (folder / name).write_bytes(content)
        verdict = outcome(form, folder)
        if verdict not in counts:
            raise Finding(verdict)
        counts[verdict].value += 1

    def mutate(content: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return atheris.Mutate(content, max_size)
        try:
            return mutated(content, name, form.kind, rng)[:max_size]
        except Exception:  # an archive or a document only as long as nobody has damaged it
            return atheris.Mutate(content, max_size)

    limits = [f"-timeout={SECONDS}", f"-rss_limit_mb={MEMORY_MIB}", "-max_len=65536"]
    options = [sys.argv[0], *limits, *options, str(seeds)]
    atheris.Setup(options, read, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in FORMATS:
        sys.exit(f"usage: {sys.argv[0]} {{{','.join(FORMATS)}}} [libFuzzer's options]")
    name, *options = sys.argv[1:]
    context = multiprocessing.get_context("spawn")
    counts = {verdict: context.Value("q") for verdict in ("whole", "refused")}
    with tempfile.TemporaryDirectory() as box:
        child = context.Process(target=fuzz, args=(name, Path(box), counts, options))
        child.start()
        child.join()
    told = ", ".join(f"{count.value:,} {verdict}" for verdict, count in counts.items())
    print(f"{name}: {told}; ended with {child.exitcode}")
    return abs(child.exitcode)


if __name__ == "__main__":
    sys.exit(main())
