import ast
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobRuntime
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError

import flowshield
from flowshield import groups
from flowshield.config import compose, config_dir, list_shields, resolve, shield_settings
from flowshield.errors import ConfigError
from flowshield.run_config import _stated, load_config
from flowshield.schema import flatten

SHIELDS = ["diffusion", "flow_matching", "mixture", "quantile"]


def message(call, *args):
    with pytest.raises(ConfigError) as caught:
        call(*args)
    text = str(caught.value)
    assert "\n" not in text
    return text


def options(group):
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


# ------------------------------------------------------------------ what is packaged


def test_train_yaml_holds_the_values_of_the_specification():
    config = compose("train")
    assert (config.seed, config.n_epochs, config.batch_size) == (42, 200, 256)
    assert (config.learning_rate, config.log_dir, config.checkpoint_every) == (1e-4, "logs/", 10)
    assert list(config.shield) == ["flow_matching"]
    assert config.device == "auto" and config.num_workers == 0


def test_every_option_of_every_group_composes_and_validates():
    for group in ("env", "model", "behaviour", "profile", "shield"):
        for option in options(group):
            compose("run", [f"{group}={option}"])


@pytest.mark.parametrize("group", ["env", "model", "behaviour", "profile"])
def test_the_options_of_a_group_hold_the_same_keys(group):
    # the schema is taken from the default option, so that no option may bring a key of its own
    # (a profile may leave a training key at train.yaml's value)
    known = flatten(OmegaConf.to_container(compose("run")))
    for option in options(group):
        tree = flatten(OmegaConf.to_container(compose("run", [f"{group}={option}"])))
        assert tree.keys() == known.keys(), option


def test_a_shield_choice_composes_exactly_the_shields_named():
    assert sorted(compose("run").shield) == SHIELDS
    assert list(compose("run", ["shield=quantile"]).shield) == ["quantile"]
    two = compose("run", ["shield=[quantile,diffusion]"]).shield
    assert sorted(two) == ["diffusion", "quantile"]
    assert list(compose("run", ["shield=[]"]).shield) == []


def test_every_leaf_of_the_config_is_read_by_code():
    names = _names_in_sources(Path(flowshield.__file__).parent)
    leaves = flatten(
        OmegaConf.to_container(groups.compose_files("tune", ["profile=default", "shield=all"]))
    )
    referred = {value[2:-1] for value in leaves.values() if str(value).startswith("${")}
    unread = sorted(key for key in leaves if key.rpartition(".")[2] not in names)
    unread = [key for key in unread if key not in referred]
    assert not unread, f"config keys that no code reads: {unread}"


def _names_in_sources(package):
    """Attributes, keyword arguments, parameters, fields and subscripts named in the sources.

    Not the schema: its tables name every key and read none.
    """
    names = set()
    for path in package.rglob("*.py"):
        if path.name == "schema.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.keyword | ast.arg):
                names.add(node.arg)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                names.add(node.slice.value)
    return names


# ------------------------------------------------------------------ what follows the environment


def test_every_environment_brings_its_behaviour_and_another_may_be_asked_for():
    assert set(options("env")) <= set(options("behaviour"))
    own = compose("run", ["env=cartpole"]).behaviour
    assert own == OmegaConf.load(config_dir() / "behaviour" / "cartpole.yaml")
    assert compose("run").behaviour == compose("run", ["behaviour=mixed"]).behaviour
    asked = compose("run", ["env=cartpole", "behaviour=random"]).behaviour
    assert [part.kind for part in asked.components] == ["random"]


def test_what_counts_as_met_and_how_the_agent_acts_follow_the_environment():
    there = compose("run", ["env=highway"])
    assert there.evaluation.bound_margin == there.evaluation.followed.return_tolerance == 2.0
    assert there.evaluation.deterministic is True
    assert compose("run", ["env=cartpole"]).evaluation.deterministic is False
    own = compose("run", ["env=highway", "evaluation.bound_margin=7", "env.return_step=3"])
    assert own.evaluation.bound_margin == 7.0
    assert own.evaluation.followed.return_tolerance == 3.0
    with pytest.raises(ConfigError, match="'evaluation.deterministic': expected true or false"):
        compose("run", ["evaluation.deterministic=often"])


MINE = ["env.name=mine", "env.commands=[[9,1]]"]


def steps(config):
    evaluation = config.evaluation
    return config.env.return_step, evaluation.bound_margin, evaluation.followed.return_tolerance


def test_the_return_steps_of_the_packaged_environments():
    found = {name: compose("run", [f"env={name}"]).env.return_step for name in options("env")}
    published = dict.fromkeys(("acrobot", "cartpole", "hopper", "lunarlander", "pendulum"), 20.0)
    published |= {"lunarlander_discrete": 20.0, "highway": 2.0}
    derived = ("geometric_chain", "gridworld", "mountain_car")
    assert found == published | dict.fromkeys(derived)


@pytest.mark.parametrize("others", [[], ["env=highway"], ["profile=quick"], ["profile=full"]])
def test_an_environment_of_ones_own_has_no_return_step_of_anothers(others):
    assert steps(compose("run", [*others, *MINE])) == (None, None, None)
    assert steps(compose("run", [*others, *MINE, "env.return_step=3"])) == (3.0, 3.0, 3.0)
    own = compose("run", [*others, *MINE, "evaluation.bound_margin=7"])
    assert steps(own) == (None, 7.0, None)


def test_an_environment_that_is_known_by_its_name_has_its_own_return_step():
    assert steps(compose("run", ["env.name=highway", MINE[1]])) == (2.0, 2.0, 2.0)
    assert steps(compose("run", ["env.name=lunarlander"])) == (20.0, 20.0, 20.0)


def test_the_return_step_of_a_config_in_python_follows_its_environment():
    env = {"name": "mine", "commands": [[9, 1]]}
    given = {"env": env, "evaluation": {"n_states": 9}}
    assert steps(resolve(given)) == (None, None, None)
    assert resolve({"env": env}).env.return_step is None
    assert resolve({"env": {**env, "return_step": 4}}).env.return_step == 4.0
    with_defaults = {"defaults": [{"env": "highway"}, "_self_"], "env": env}
    assert resolve(with_defaults).env.return_step is None
    assert resolve({"defaults": [{"env": "highway"}, "_self_"]}).env.return_step == 2.0
    assert resolve({}).env.return_step == 20.0
    there = compose("run", MINE)
    assert resolve(there) == there


def test_null_leaves_a_step_to_the_data_and_nothing_else_may_be_null():
    null = ["env.return_step=null", "evaluation.bound_margin=null"]
    assert steps(compose("run", null)) == (None, None, None)
    one = compose("run", ["evaluation.followed.return_tolerance=null"])
    assert steps(one) == (20.0, 20.0, None)
    for value in ("0", "-1", "often"):
        with pytest.raises(ConfigError, match="'env.return_step'"):
            compose("run", [f"env.return_step={value}"])


# ------------------------------------------------------------------ compose


def test_overrides_reach_their_keys():
    config = compose("run", ["seed=7", "data.split.train=0.5", "data.split.test=0.25"])
    assert config.seed == 7
    assert config.data.split == {"train": 0.5, "validation": 0.1, "calibration": 0.15, "test": 0.25}


def test_an_integer_given_for_a_number_becomes_a_float():
    rate = compose("run", ["learning_rate=1"]).learning_rate
    assert rate == 1.0 and isinstance(rate, float)


def test_interpolations_are_resolved_in_the_result():
    config = compose("run", ["log_dir=curves/${seed}"])
    assert OmegaConf.to_container(config, resolve=False)["log_dir"] == "curves/42"


def test_reading_or_setting_a_misspelt_key_raises():
    config = compose("train")
    with pytest.raises(ConfigAttributeError):
        _ = config.batch_sze
    with pytest.raises(ConfigAttributeError):
        config.batch_sze = 3


def test_environment_arguments_are_free():
    assert compose("run", ["env.kwargs.gravity=-3"]).env.kwargs == {"gravity": -3}
    assert resolve({"env": {"kwargs": {"deep": {"er": [1]}}}}).env.kwargs.deep == {"er": [1]}


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("batch_sze=3", "did you mean 'batch_size'"),
        ("+batch_sze=3", "did you mean 'batch_size'"),
        ("gradient_clip=3", "did you mean 'optimizer.gradient_clip'"),
        ("shield.quantile.hiden_dim=3", "did you mean 'shield.quantile.hidden_dim'"),
        ("profil=quick", "did you mean 'profile'"),
        ("zzz=1", "the config holds batch_size, behaviour"),
        ("data.zzz=1", "'data' holds commands, n_episodes, path, split"),
        ("shield=quantle", "unknown shield 'quantle': did you mean 'quantile'"),
        ("behaviour=expret", "unknown behaviour 'expret': did you mean 'expert'"),
        ("scheduler.type=cosin", "did you mean 'cosine'"),
        ("calibration.unit=steps", "did you mean 'step'"),
        ("calibration.score=densty", "did you mean 'density'"),
        ("+shield.quantil.tau=0.5", "unknown shield 'quantil': did you mean 'quantile'"),
    ],
)
def test_an_unknown_name_lists_the_near_ones(override, near):
    assert near in message(compose, "run", [override])


def test_an_unknown_config_is_refused_by_name():
    assert "did you mean 'run'" in message(compose, "runn")


@pytest.mark.parametrize("override", ["shield=[quantile", "seed=a=b"])
def test_bad_grammar_names_the_override(override):
    text = message(compose, "run", [override])
    assert repr(override) in text and "expected key=value" in text


@pytest.mark.parametrize(
    ("override", "expected", "got"),
    [
        ("batch_size=abc", "an integer", "'abc' (str)"),
        ("seed=1.5", "an integer", "1.5 (float)"),
        ("seed=true", "an integer", "True (bool)"),
        ("seed=null", "an integer", "null"),
        ("cuda_graph=1", "true or false", "1 (int)"),
        ("learning_rate=fast", "a number", "'fast' (str)"),
        ("learning_rate=null", "a number", "null"),
        ("optimizer.gradient_clip=x", "a number or null", "'x' (str)"),
        ("env.name=3", "text", "3 (int)"),
        ("env.commands=3", "a list", "3 (int)"),
        ("data=3", "a section (a mapping)", "3"),
        ("shield.quantile=3", "a section (a mapping)", "3"),
        ("batch_size=0", "at least 1", "0"),
        ("n_epochs=-1", "at least 1", "-1"),
        ("num_workers=-1", "at least 0", "-1"),
        ("seed=-1", "at least 0", "-1"),
        ("learning_rate=0", "above 0", "0.0"),
        ("learning_rate=nan", "a finite number", "nan"),
        ("learning_rate=inf", "a finite number", "inf"),
        ("calibration.alpha=0", "above 0 and below 1", "0.0"),
        ("calibration.alpha=1", "above 0 and below 1", "1.0"),
        ("calibration.groups=0", "at least 1", "0"),
        ("projection.typicality=1", "at least 0 and below 1", "1.0"),
        ("optimizer.gradient_clip=0", "above 0", "0.0"),
        ("optimizer.ema_decay=1", "above 0 and below 1", "1.0"),
        ("data.split.train=0.5", "sum to 1", "0.85"),
        ("data.split.test=0", "above 0 and below 1", "0.0"),
        ("shield.flow_matching.n_steps=0", "at least 1", "0"),
    ],
)
def test_a_wrong_value_names_key_expected_and_got(override, expected, got):
    text = message(compose, "run", [override])
    key = "data.split" if expected == "sum to 1" else override.partition("=")[0]
    assert repr(key) in text
    assert expected in text and got in text.partition("got ")[2]


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.gradient_clip=null",
        "optimizer.gradient_clip=2",
        "optimizer.ema_decay=0.999",
        "data.path=episodes.npz",
        "run_dir=runs/a",
        "scheduler.warmup_epochs=0.5",
        "calibration.alpha=0.999",
    ],
)
def test_a_right_value_passes(override):
    compose("run", [override])


def test_shares_may_miss_1_by_rounding_only():
    thirds = [f"data.split.{name}=0.3333333" for name in ("train", "validation", "calibration")]
    compose("run", [*thirds, "data.split.test=0.0000005"])
    assert "sum to 1" in message(compose, "run", [*thirds, "data.split.test=0.00001"])


def test_a_deleted_key_is_missed():
    assert "'seed' is missing" in message(compose, "run", ["~seed"])


@pytest.mark.parametrize("override", ["seed=${nowhere}", "seed=???"])
def test_a_value_that_leads_nowhere_is_refused(override):
    assert "cannot resolve the config" in message(compose, "run", [override])


def test_hydras_own_settings_are_refused_for_they_would_do_nothing():
    assert "run_dir=PATH" in message(compose, "run", ["hydra.run.dir=x"])


# ------------------------------------------------------------------ Hydra's global state


def test_a_hydra_application_of_the_users_own_stays_as_it_was(tmp_path):
    (tmp_path / "theirs.yaml").write_text("answer: 42\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.2", job_name="theirs"):
        before = GlobalHydra.instance()
        assert compose("train").seed == 42
        message(compose, "train", ["sed=1"])
        assert GlobalHydra.instance() is before
        assert str(hydra.version.getbase()) == "1.2"
        assert JobRuntime.instance().get("name") == "theirs"
        assert hydra.compose("theirs").answer == 42
    assert not GlobalHydra.instance().is_initialized()


def test_nothing_of_hydra_is_left_behind():
    GlobalHydra.instance().clear()
    compose("run")
    assert not GlobalHydra.instance().is_initialized()
    assert not HydraConfig.initialized()


# ------------------------------------------------------------------ resolve


@pytest.mark.parametrize("name", ["train", "run", "tune"])
def test_a_file_with_its_defaults_list_is_composed(name):
    assert resolve(OmegaConf.load(config_dir() / f"{name}.yaml")) == compose(name)


@pytest.mark.parametrize("overrides", [[], ["shield=quantile", "profile=quick"], ["shield=[]"]])
def test_a_composed_config_passes_through(overrides):
    config = compose("run", overrides)
    assert resolve(config) == config
    assert resolve(OmegaConf.create(OmegaConf.to_yaml(config))) == config


def test_nothing_given_means_train_yaml():
    assert resolve(None) == resolve({}) == compose("train")


def test_a_partial_config_is_filled_from_train_yaml():
    config = resolve({"batch_size": 8, "optimizer": {"gradient_clip": None}})
    assert config.batch_size == 8 and config.optimizer.gradient_clip is None
    expected = compose("train", ["batch_size=8", "optimizer.gradient_clip=null"])
    assert config == expected


def test_a_key_of_run_yaml_brings_its_neighbours_but_not_the_profiles_budget():
    config = resolve({"evaluation": {"n_episodes": 3}})
    assert config.evaluation.n_episodes == 3 and config.evaluation.n_states > 0
    assert config.n_epochs == compose("train").n_epochs
    assert list(config.shield) == ["flow_matching"]


def test_a_chosen_shield_takes_the_place_of_the_default_one_and_is_filled():
    config = resolve({"shield": {"quantile": {"hidden_dim": 7}}})
    assert list(config.shield) == ["quantile"]
    packaged = compose("run", ["shield=quantile", "shield.quantile.hidden_dim=7"])
    assert config.shield == packaged.shield


@pytest.mark.filterwarnings("error")
def test_the_users_own_keys_lie_on_top_of_the_groups_of_their_defaults_list():
    own = {
        "defaults": [{"env": "lunarlander"}, {"model": "udrl"}, {"shield": ["quantile"]}],
        "seed": 1,
        "model": {"hidden_dim": 32},
        "shield": {"quantile": {"tau": 0.5}},
    }
    config = resolve(OmegaConf.create(own))
    assert (config.seed, config.model.hidden_dim, config.model.n_layers) == (1, 32, 4)
    assert list(config.shield) == ["quantile"] and config.shield.quantile.tau == 0.5
    assert config.batch_size == 256
    assert "defaults" not in config


def test_interpolations_reach_the_keys_that_were_filled_in():
    assert resolve({"log_dir": "curves/${seed}"}).log_dir == "curves/42"


def test_what_was_handed_over_stays_as_it_was():
    given = OmegaConf.create({"defaults": [{"shield": "quantile"}], "seed": 1})
    before = OmegaConf.to_yaml(given)
    resolve(given)
    assert OmegaConf.to_yaml(given) == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch_sze": 3}, "did you mean 'batch_size'"),
        ({"optimizer": {"gradient_clp": 3}}, "did you mean 'optimizer.gradient_clip'"),
        ({"shield": {"quantle": {}}}, "did you mean 'quantile'"),
        ({"shield": {"quantile": {"hiden_dim": 3}}}, "'shield.quantile.hidden_dim'"),
        ({"shield": "quantile"}, "expected a mapping of shield type to its settings"),
        ({"shield": None}, "expected a mapping of shield type to its settings"),
        ({"defaults": [{"shield": "quantle"}]}, "did you mean 'quantile'"),
        ({"defaults": [{"shild": "quantile"}]}, "did you mean 'shield'"),
        ({"data": None}, "expected a section"),
        ({"batch_size": {"a": 1}}, "'batch_size' is a value"),
        ({"seed": object()}, "cannot read the config"),
        ("configs/train.yaml", "OmegaConf.load"),
        (OmegaConf.create([1]), "expected a config"),
    ],
)
def test_bad_input_is_refused(given, said):
    assert said in message(resolve, given)


# ------------------------------------------------------------------ shields


def test_shields_are_those_with_a_group_file_of_their_own():
    assert list_shields() == SHIELDS


def test_shield_settings_are_the_configs_own_else_the_packaged_ones():
    config = resolve({"shield": {"quantile": {"tau": 0.5}}})
    assert shield_settings(config, "quantile").tau == 0.5
    assert shield_settings(config, "diffusion") == compose("run").shield.diffusion
    assert "did you mean 'quantile'" in message(shield_settings, config, "quantle")


def test_changing_settings_does_not_change_the_packaged_ones():
    config = compose("train")
    before = shield_settings(config, "diffusion").n_steps
    shield_settings(config, "diffusion").n_steps = before + 1
    assert shield_settings(config, "diffusion").n_steps == before


# ------------------------------------------------------------------ where the files lie


def test_the_configs_inside_a_wheel_come_before_those_beside_the_package(tmp_path, monkeypatch):
    package = tmp_path / "flowshield"
    monkeypatch.setattr(groups.importlib.resources, "files", lambda name: package)
    assert "reinstall" in message(config_dir)
    for folder in (tmp_path / "configs", package / "configs"):
        folder.mkdir(parents=True)
        (folder / "train.yaml").touch()
        assert config_dir() == folder


def test_choices_agree_with_the_code_that_offers_them():
    from flowshield.models.ode import SOLVERS
    from flowshield.models.shields import SCORES, UNITS
    from flowshield.schema import CHOICES
    from flowshield.training.learning_rate import SCHEDULES

    assert CHOICES["calibration.score"] == SCORES and CHOICES["calibration.unit"] == UNITS
    assert sorted(CHOICES["scheduler.type"]) == sorted(SCHEDULES)
    assert sorted(CHOICES["shield.*.solver"]) == sorted(SOLVERS)


def test_threads_may_compose_at_the_same_time():
    seeds = range(8)
    with ThreadPoolExecutor(8) as pool:
        configs = list(pool.map(lambda seed: compose("run", [f"seed={seed}"]), seeds))
    assert [config.seed for config in configs] == list(seeds)


# ------------------------------------------------------------------ resuming an older run


def test_a_run_keeps_the_number_that_an_older_release_wrote_for_what_is_derived_now(tmp_path):
    folder = tmp_path / "run"
    noise = [f"shield.{name}.return_noise=1.0" for name in SHIELDS]
    older = compose("run", ["env=gridworld", "env.return_step=20", *noise, f"run_dir={folder}"])
    folder.mkdir()
    OmegaConf.save(older, folder / "config.yaml")
    (folder / "models").mkdir()
    (folder / "models" / "agent.pt").write_bytes(b"work")
    for said in ([], ["env=gridworld"], ["env=gridworld", "profile=default"]):
        config, _ = load_config([f"run_dir={folder}", *said])
        assert steps(config) == (20.0, 20.0, 20.0)
        assert {config.shield[name].return_noise for name in SHIELDS} == {1.0}
    with pytest.raises(ConfigError, match=r"env.return_step is 20.0 there, 5.0 asked for"):
        load_config([f"run_dir={folder}", "env.return_step=5"])
    again = load_config([f"run_dir={folder}", "evaluation.bound_margin=null"])[0]
    assert steps(again) == (20.0, None, 20.0)


def test_only_numbers_that_are_left_to_the_data_are_no_difference():
    noise, rate = "shield.mixture.return_noise", "shield.mixture.learning_rate"
    given = OmegaConf.create({"shield": {"mixture": {"return_noise": None, "learning_rate": None}}})
    texts = [f"{key} is 1.0 there, None asked for" for key in (noise, rate)]
    assert _stated(texts, given, set()) == texts[1:]
    assert _stated(texts, given, {noise}) == texts
    given.shield.mixture.return_noise = 0.1
    assert _stated(texts, given, set()) == texts


def test_a_step_that_was_typed_for_a_run_without_work_may_be_left_out_again(tmp_path):
    said = [f"run_dir={tmp_path}", "env=gridworld"]
    assert steps(load_config([*said, "env.return_step=5"])[0])[0] == 5.0
    assert steps(load_config(said)[0])[0] is None
