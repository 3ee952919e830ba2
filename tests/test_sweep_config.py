"""The config of a sweep in a run folder that other commands use too."""

import pytest

from flowshield.errors import ConfigError
from flowshield.run_config import load_config


def config_of(folder, *overrides, name="tune"):
    return load_config([f"run_dir={folder}", *overrides], name)[0]


def test_a_sweep_joins_a_folder_that_holds_a_run_of_the_same_settings(tmp_path):
    config_of(tmp_path, "seed=3", name="run")
    (tmp_path / "dataset.npz").touch()
    config = config_of(tmp_path, "tune.n_samples=5")
    assert (config.seed, config.tune.n_samples) == (3, 5)
    assert config_of(tmp_path, name="run").seed == 3  # and the run goes on beside it
    assert config_of(tmp_path, "seed=3", name="run").seed == 3
    assert config_of(tmp_path).tune.n_samples == 5


def test_what_is_searched_may_change_until_the_sweep_has_begun(tmp_path):
    config_of(tmp_path, "tune.n_samples=5")
    (tmp_path / "dataset.npz").touch()
    config = config_of(tmp_path, "tune.n_samples=6", "tune.space.batch_size={choice:[8,16]}")
    assert config.tune.n_samples == 6
    (tmp_path / "sweep").mkdir()
    assert config_of(tmp_path).tune == config.tune
    assert config_of(tmp_path, "device=cpu").tune == config.tune  # it may go on elsewhere
    with pytest.raises(ConfigError, match="tune.n_samples is 6 there, 7 asked for"):
        config_of(tmp_path, "tune.n_samples=7", "tune.space.batch_size={choice:[8,16]}")


def test_a_sweep_does_not_go_on_with_other_settings_of_the_run(tmp_path):
    config_of(tmp_path, "shield_epochs=3")
    (tmp_path / "sweep").mkdir()
    with pytest.raises(ConfigError, match="shield_epochs is 3 there, 4 asked for"):
        config_of(tmp_path, "shield_epochs=4")
