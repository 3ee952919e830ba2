"""What is left of memory and disk, in a container or not."""

import shutil

import psutil
import pytest

from flowshield.room import free_disk, free_memory, in_words


@pytest.fixture
def cgroup(tmp_path):
    """Writes a container's limit as Linux does, of either version."""

    def write(version, limit, used, given_back):
        folder, names, key = {
            1: (
                "memory",
                ("memory.limit_in_bytes", "memory.usage_in_bytes"),
                "total_inactive_file",
            ),
            2: ("", ("memory.max", "memory.current"), "inactive_file"),
        }[version]
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        for name, value in zip(names, (limit, used), strict=True):
            (place / name).write_text(f"{value}\n")
        (place / "memory.stat").write_text(f"anon 5\n{key} {given_back}\nslab 9\n")
        return tmp_path

    return write


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_goes_before_the_machines(cgroup, version):
    assert free_memory(cgroup(version, 3_000_000, 1_000_000, 200_000)) == 2_200_000
    assert free_memory(cgroup(version, 3_000_000, 4_000_000, 0)) == 0


@pytest.mark.parametrize("limit", ["max", 2**63 - 4096])
def test_without_a_limit_the_machine_counts(cgroup, limit, tmp_path):
    least = psutil.virtual_memory().total
    for place in (cgroup(2, limit, 0, 0), tmp_path / "not there"):
        assert 0 < free_memory(place) <= least


def test_the_disk_of_a_path_that_is_still_to_be_made(tmp_path):
    total = shutil.disk_usage(tmp_path).total
    assert 0 < free_disk(tmp_path / "a" / "b.npz") <= total


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (110_610, "111 kB"), (2.2e11, "220 GB"),
     (1.5e9, "1.5 GB"), (7e12, "7.0 TB"), (5e15, "5,000.0 TB")],
)  # fmt: skip
def test_sizes_in_words(size, words):
    assert in_words(size) == words
