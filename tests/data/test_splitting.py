"""How many episodes it takes for a part to get so many of them."""

import pytest

from flowshield.data.splitting import episodes_for, split_positions

SHARES = {"train": 0.65, "validation": 0.1, "calibration": 0.15, "test": 0.1}


@pytest.mark.parametrize("part", SHARES)
@pytest.mark.parametrize("n_wanted", [1, 2, 9, 19, 99])
def test_from_so_many_episodes_on_a_part_gets_what_is_wanted(part, n_wanted):
    def size(n_episodes):
        return len(split_positions(n_episodes, SHARES, 0)[part])

    least = episodes_for(n_wanted, part, SHARES)
    assert all(size(n) >= n_wanted for n in range(max(least, 10), least + 60))
    assert least <= 10 or size(least - 1) < n_wanted
