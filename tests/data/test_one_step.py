"""One random step of each episode."""

import numpy as np

from flowshield.data import TrajectoryDataset
from flowshield.data.one_step import one_step_per_episode


def test_each_episode_gives_one_step_and_each_step_has_its_chance():
    dones = [0, 0, 1, 1, 0, 1]
    zeros = np.zeros((6, 1))
    dataset = TrajectoryDataset.from_arrays(zeros, zeros, np.zeros(6), dones)
    draws = np.array([one_step_per_episode(dataset, seed) for seed in range(3000)])
    episode_of_step = np.array([0, 0, 0, 1, 2, 2])
    assert (episode_of_step[draws] == [0, 1, 2]).all()
    counts = np.bincount(draws.ravel(), minlength=6) / 3000
    np.testing.assert_allclose(counts, [1 / 3, 1 / 3, 1 / 3, 1, 1 / 2, 1 / 2], atol=0.04)
    np.testing.assert_array_equal(one_step_per_episode(dataset, 7), draws[7])
