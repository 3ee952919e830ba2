"""Search spaces: what may be searched, and the config that a draw makes."""

from fnmatch import fnmatchcase

import pytest
from omegaconf import OmegaConf

from flowshield import search_space
from flowshield.config import compose, list_shields, resolve, shield_settings
from flowshield.errors import ConfigError
from flowshield.schema import flatten
from flowshield.search_space import Domain, as_overrides, n_trials, read_space, trial_config


def space_of(*overrides):
    return read_space(compose("tune", overrides))


def refused(*overrides):
    with pytest.raises(ConfigError) as caught:
        space_of(*overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_the_packaged_space_is_shield_types_times_learning_rates():
    types, rates = space_of()
    assert types == Domain("shield", "grid", tuple(compose("tune").shield))
    assert sorted(types.values) == list_shields()
    assert (rates.key, rates.kind) == ("shield.learning_rate", "grid")
    assert n_trials([types, rates], 1, "random") == 4 * len(rates.values)


def test_the_configs_shields_are_the_types_unless_the_space_says_otherwise():
    assert space_of("shield=[quantile,mixture]")[0].values == ("quantile", "mixture")
    assert space_of("shield=quantile")[0].values == ("quantile",)
    types, rates = space_of("shield=quantile", "tune.space.shield={choice:[mixture,diffusion]}")
    assert types == Domain("shield", "choice", ("mixture", "diffusion"))
    assert rates.key == "shield.learning_rate"  # still searched


def test_the_packaged_rates_are_taken_away_as_the_options_say():
    (types,) = space_of("~tune.space.shield.learning_rate")
    assert types == Domain("shield", "grid", tuple(compose("tune").shield))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("batch_size={choice:[512,1024]}", Domain("batch_size", "choice", (512, 1024))),
        ("shield.dropout={uniform:[0,0.2]}", Domain("shield.dropout", "uniform", (0.0, 0.2))),
        (
            "shield.learning_rate={loguniform:[1e-4,1e-2]}",
            Domain("shield.learning_rate", "loguniform", (1e-4, 1e-2)),
        ),
        ("shield_epochs={randint:[3,9]}", Domain("shield_epochs", "randint", (3, 9))),
        (
            "optimizer.ema_decay={grid:[null,0.9]}",
            Domain("optimizer.ema_decay", "grid", (None, 0.9)),
        ),
        ("shield.quantile.tau={grid:[0.5]}", Domain("shield.quantile.tau", "grid", (0.5,))),
        ("scheduler.type={grid:[cosine]}", Domain("scheduler.type", "grid", ("cosine",))),
        ("data.commands={grid:[future]}", Domain("data.commands", "grid", ("future",))),
    ],
)
def test_any_key_that_trains_a_shield_may_be_searched(override, expected):
    found = {domain.key: domain for domain in space_of(f"tune.space.{override}")}
    assert found[expected.key] == expected
    assert [type(value) for value in found[expected.key].values] == [
        type(value) for value in expected.values
    ]


def test_of_two_domains_of_a_key_the_later_counts():
    (_, rates) = space_of("tune.space.shield.learning_rate={loguniform:[1e-4,1e-2]}")
    assert rates.kind == "loguniform"


def test_a_domain_can_be_taken_away():
    (types,) = space_of("~tune.space.shield")
    assert types.key == "shield"


def test_trials_are_the_grids_product_times_the_samples():
    space = space_of(
        "shield=[quantile,mixture]",
        "tune.space.shield.learning_rate={grid:[1e-3,2e-3,4e-3]}",
        "tune.space.batch_size={choice:[512,1024]}",
    )
    assert n_trials(space, 5, "random") == 2 * 3 * 5
    assert n_trials(space, 5, "optuna") == 5


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("batch_sze={grid:[1]}", "did you mean 'batch_size'"),
        ("shield.hiden_dim={grid:[8]}", "did you mean 'shield.quantile.hidden_dim'"),
        ("shield.tau={grid:[0.5]}", "unknown config key 'shield.mixture.tau'"),  # not all have it
        ("shield={grid:[quantle]}", "did you mean 'quantile'"),
        ("shield={uniform:[0,1]}", "expected a grid or choice of shield types"),
        ("batch_size=512", "expected a domain of kind"),
        ("batch_size=[512,1024]", "expected a domain of kind"),
        ("batch_size={logunifrom:[1,2]}", "expected a domain"),
        ("batch_size={grid:[]}", "grid takes a list of values"),
        ("batch_size={grid:512}", "grid takes a list of values"),
        ("batch_size={grid:[8,8]}", "holds a value twice"),
        ("batch_size={grid:[8,a]}", "expected an integer, got 'a'"),
        ("batch_size={grid:[8,0]}", "at least 1, got 0"),
        ("batch_size={uniform:[8,16]}", "use randint or choice"),
        ("shield.learning_rate={randint:[1,2]}", "use uniform or loguniform"),
        ("shield.learning_rate={uniform:[2e-3,1e-3]}", "its two ends [a, b] with a < b"),
        ("shield.learning_rate={uniform:[1e-3]}", "its two ends [a, b] with a < b"),
        ("shield.learning_rate={loguniform:[0,1]}", "ends above 0"),
        ("shield.dropout={uniform:[0,1]}", "below 1, got 1"),
        ("scheduler.type={grid:[cosin]}", "did you mean 'cosine'"),
        ("optimizer={grid:[1]}", "is a section"),
        ("learning_rate={grid:[1e-3]}", "search shield.learning_rate"),
        ("n_epochs={grid:[3]}", "search shield_epochs"),
        ("model.hidden_dim={grid:[8]}", "it is the agent's"),
        ("seed={grid:[1,2]}", "the split of the episodes, which all trials share"),
        ("data.split.train={grid:[0.5]}", "all trials share one split"),
        ("evaluation.bound_margin={grid:[1.0]}", "the yardstick"),
        ("calibration.alpha={grid:[0.1]}", "the yardstick"),
        ("tune.n_samples={grid:[1]}", "it is the sweep's own"),
        ("ray.use_gpu={grid:[true]}", "where a trial runs"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_name(override, said):
    text = refused(f"tune.space.{override}")
    assert said in text and "tune.space." in text


def test_every_reason_not_to_search_is_about_a_key_that_is_there():
    keys = flatten(OmegaConf.to_container(compose("tune")))
    for pattern in search_space._FIXED:
        assert any(fnmatchcase(key, pattern) for key in keys), pattern


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tune.n_samples=0", "at least 1"),
        ("tune.search=optun", "did you mean 'optuna'"),
        ("tune.scheduler=hyperband", "expected one of asha, none"),
        ("tune.grace_epochs=0", "at least 1"),
        ("tune.reduction_factor=1", "above 1"),
        ("tune.max_concurrent=0", "at least 1"),
        ("tune.n_sample=1", "did you mean 'tune.n_samples'"),
    ],
)
def test_the_sweeps_own_settings_are_checked(override, said):
    assert said in refused(override)


# ------------------------------------------------------------------ one trial


CONFIG = compose("tune", ["shield=[quantile,mixture]", "shield.mixture.n_components=7"])


def test_a_trials_config_holds_its_shield_alone_and_what_it_drew():
    parameters = {
        "shield": "mixture",
        "shield.learning_rate": 5e-3,
        "shield.quantile.tau": 0.5,  # another type's
        "batch_size": 64,
        "optimizer.ema_decay": None,
    }
    config = trial_config(CONFIG, parameters)
    assert list(config.shield) == ["mixture"] and "tune" not in config
    assert config.shield.mixture.learning_rate == 5e-3
    assert config.shield.mixture.n_components == 7
    assert config.batch_size == 64 and config.optimizer.ema_decay is None
    assert config.optimizer.weight_decay == CONFIG.optimizer.weight_decay
    assert CONFIG.shield.mixture.learning_rate != 5e-3  # the sweep's own stays


def test_a_type_that_the_config_does_not_hold_has_the_packaged_settings():
    config = trial_config(CONFIG, {"shield": "diffusion", "shield.n_steps": 3})
    packaged = dict(shield_settings(CONFIG, "diffusion"))
    assert dict(config.shield.diffusion) == {**packaged, "n_steps": 3}


def test_what_a_trial_drew_reads_as_overrides():
    parameters = {"shield": "mixture", "shield.learning_rate": 5e-3, "optimizer.ema_decay": None}
    overrides = as_overrides(parameters)
    assert overrides[0] == "shield=mixture"
    ours = trial_config(compose("tune"), parameters)
    theirs = compose("run", overrides)
    assert ours == theirs


def test_the_users_space_stands_alone_in_a_config_that_is_read_again():
    config = compose("tune", ["~tune.space.shield", "+tune.space.batch_size={grid:[1,2]}"])
    assert resolve(config) == config
    assert list(config.tune.space) == ["batch_size"]
