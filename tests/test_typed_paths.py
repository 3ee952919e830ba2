"""Paths as people type them, and command lines as the program prints them to be typed."""

import io
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from flowshield.atomic import atomic_folder, atomic_write
from flowshield.cli import main
from flowshield.config import compose, resolve
from flowshield.data import TrajectoryDataset
from flowshield.data.conversion import convert
from flowshield.errors import ConfigError
from flowshield.filesystem import absolute, local_path, open_place
from flowshield.models import BaseShield, QuantileShield, UDRLAgent
from flowshield.overrides import path_given, run_command
from flowshield.paths import expanded, typed_path
from flowshield.progress import Reporter
from flowshield.run_config import load_config
from flowshield.run_folder import RunFolder
from flowshield.schema import PATH_KEYS
from flowshield.shell import command_line
from flowshield.training import Logger, Trainer

ODD = [
    "lr=0.1", "a b", " a ", "it's", '"a"', "'a'", "$HOME", "a$", "`x`", "[a]", "{a: 1}", "{a,b}",
    "a,b", "*", "a?", "-x", "~", "~x", "./~x", "=ls", "#a", "a;b", "a&b", "a|b", "a\\", "a\\'b",
    "\\'", "a\\,b", "a!b", "läufe/ä", "日本", "null", "true", "2024", "1e3", "0.10", "a:b", ":x:",
    "a\nb", "a\tb", "\a", "a\r", "\x85", "glob(*)", "range(1,3)", "choice(a,b)", "(a)", "%1", "^a",
    "s3://bucket/lr=0.1 ä", "[bold]a[/bold]", "<a>", "a@b", "+a", "!!", "€",
]  # fmt: skip
UTF_8 = {**os.environ, "LC_ALL": "C.UTF-8"}  # in which people have names that are not ASCII
# what no file name holds, what no process is given as an argument, and OmegaConf's own ${...}, ???
NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20
).filter(lambda name: name.strip() and "${" not in name and name != "???")


def of_odd_names(test):
    for name in ODD:
        test = example(name)(test)
    return settings(max_examples=200, deadline=None)(given(NAMES)(test))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, and a working directory that is to stay empty."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "home"
    assert os.listdir() == []


def dataset(n_episodes=2):
    states = np.random.default_rng(0).normal(size=(2 * n_episodes, 2))
    ends = np.arange(len(states)) % 2 == 1
    return TrajectoryDataset.from_arrays(states, states[:, :1], states[:, 0], ends)


# Quoting


def as_a_shell_takes_it(line):
    """The words of a line: of bash, and where it is installed of zsh too."""
    words = []
    for shell in filter(shutil.which, ("bash", "zsh")):
        printing = [shell, "-c", f'printf "%s\\0" {line}']
        done = subprocess.run(printing, capture_output=True, check=True, env=UTF_8)
        words.append(done.stdout.decode().split("\0")[:-1])
    assert words[0] == words[-1]
    return words[0]


@of_odd_names
def test_a_command_that_is_printed_can_be_typed_back(name):
    line = run_command("train", name, "--resume")
    assert len(line.splitlines()) == 1
    words = as_a_shell_takes_it(line)
    assert words[:3] == ["flowshield", "train", "--resume"]
    parsed = OverridesParser.create().parse_override(words[3])  # Hydra's own, which knows less
    assert (parsed.key_or_group, parsed.value()) == ("run_dir", name)
    assert path_given(words[3:], "run_dir") == name


@of_odd_names
def test_what_is_typed_for_a_path_is_the_path(name):
    """With quotes of the shell's alone, unless Hydra's grammar reads something of its own in it."""
    own = name != name.strip() or name[0] in "'\"" or "\\" in name or name.lower() == "null"
    if not own:
        assert path_given([f"run_dir={name}"], "run_dir") == name


@pytest.mark.parametrize("name", [n for n in ODD if n.strip() and "/" not in n and n[0] != "~"])
def test_a_runs_own_hints_lead_back_to_its_folder(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = as_a_shell_takes_it(run_command("config", name))
    config, folder = load_config(words[2:])
    assert (tmp_path / name / "config.yaml").is_file()
    assert config.run_dir == name and folder.path.samefile(tmp_path / name)
    assert main(["ask", f"./{name}", "--seed", "1", "--command", "5", "1"]) == 2
    hint = capsys.readouterr().err
    typed = hint[hint.index("flowshield train") : hint.rindex(" makes it")]
    again = path_given(as_a_shell_takes_it(typed)[2:], "run_dir")
    assert Path(again).samefile(tmp_path / name)


@of_odd_names
def test_the_screen_shows_a_command_as_it_is(name):
    screen = io.StringIO()
    reporter = Reporter()
    reporter.console.file = screen
    reporter.stage("run", command_line(name))
    assert screen.getvalue() == f"run  {command_line(name)}\n"


# Home folders


@pytest.mark.parametrize("key", PATH_KEYS)
@pytest.mark.parametrize("typed", ["{}=~/x/y", "{}='~/x/y'", "++{}=~/x/y"])
def test_overrides_know_the_home_folder(key, typed, home):
    config = compose("run", [typed.format(key)])
    assert OmegaConf.select(config, key) == f"{home}/x/y"


@pytest.mark.parametrize("key", PATH_KEYS)
def test_a_config_file_knows_the_home_folder(key, home, tmp_path):
    sections = key.split(".")
    text = "".join(f"{'  ' * i}{name}:\n" for i, name in enumerate(sections)).rstrip() + " ~/x\n"
    (tmp_path / "mine.yaml").write_text(text)
    config = resolve(OmegaConf.load(tmp_path / "mine.yaml"))
    assert OmegaConf.select(config, key) == f"{home}/x"


@pytest.mark.parametrize("place", ["s3://bucket/~/x", "gs://b/a", "minari:a/b-v0", "a/~", "a~"])
def test_what_is_no_home_folder_stays(place):
    assert expanded(place) == place


def test_a_folder_called_like_a_home_folder_is_written_with_a_dot(home):
    assert expanded("./~x") == expanded(expanded("./~x")) == str(Path.cwd() / "~x")
    assert RunFolder("./~x").config == Path.cwd() / "~x" / "config.yaml"


def test_the_home_of_another_user_and_of_nobody(home):
    import pwd

    user = pwd.getpwuid(os.getuid())
    assert expanded(f"~{user.pw_name}/x") == f"{user.pw_dir.rstrip('/')}/x"
    with pytest.raises(ConfigError, match=r"no user 'nobody-here' .* write \./~nobody-here"):
        compose("run", ["run_dir=~nobody-here/x"])


def test_every_door_of_python_knows_the_home_folder(home):
    data = dataset()
    for name in ("a.npz", "a.pkl", "a.parquet"):
        data.save(f"~/{name}")
        assert (home / name).exists()
        assert TrajectoryDataset(Path("~") / name).n_episodes == 2
    convert("~/a.npz", "~/b.npz")
    with pytest.raises(ConfigError, match="same place"):
        convert("~/a.npz", str(home / "a.npz"), force=True)
    UDRLAgent(2, 1, hidden_dim=4, n_layers=1).save("~/agent.pt")
    UDRLAgent.load("~/agent.pt")
    QuantileShield(2).save("~/shield.pt")
    BaseShield.load("~/shield.pt")
    with Logger("~/logs") as logger:
        logger.log_scalar("a", 1.0, 0)
    with atomic_write("~/made/file") as file:
        file.write(b"x")
    with atomic_folder("~/folder"):
        pass
    for found in (absolute("~/x"), open_place("~/x")[1], str(local_path("~/x"))):
        assert found == f"{home}/x"
    assert typed_path("~/x") == home / "x"
    assert RunFolder("~/x").place == f"{home}/x"
    assert load_config(["run_dir=~/run"])[1].config.is_file()
    expected = {"a.npz", "b.npz", "agent.pt", "shield.pt", "logs", "made", "folder", "run"}
    assert expected <= set(os.listdir(home))


def test_a_trainer_writes_below_the_home_folder(home):
    config = {"log_dir": "~/logs", "n_epochs": 1, "batch_size": 16, "device": "cpu"}
    for made, checkpoints in (("checkpoints", "~/checkpoints"), ("logs/checkpoints", None)):
        Trainer(config, checkpoint_dir=checkpoints).train_udrl(dataset(n_episodes=40))
        assert (home / made / "agent" / "last.pt").is_file()
    assert list(home.glob("logs/agent/events*"))
    with pytest.raises(ConfigError, match="expected a path"):
        Trainer(config, checkpoint_dir="")


def test_commands_know_the_home_folder(home, capsys):
    few = ["env=gridworld", "data.n_episodes=4", "ray.num_workers=0"]
    assert main(["collect", "run_dir=~/run", *few]) == 0
    assert (home / "run" / "dataset.npz").is_file()
    assert main(["convert", "~/run/dataset.npz", "~/mine.parquet"]) == 0
    assert (home / "mine.parquet").is_dir()
    capsys.readouterr()
    assert main(["train", "run_dir=~/other", "data.path=~/none.npz", *few]) == 1
    assert f"data.path={home}/none.npz does not exist" in capsys.readouterr().err
    for command in (["ask", "~/run", "--seed", "1"], ["film", "~/run"], ["explore", "~/run"]):
        words = {"ask": ["--command", "5", "1"], "film": ["command=[5,1]"], "explore": []}
        assert main([*command, *words[command[0]]]) == 2
        assert f"{home}/run holds no trained" in capsys.readouterr().err


def test_minaris_own_variable_knows_the_home_folder(home, monkeypatch, capsys):
    """As `%env` in a notebook sets it, where no shell puts the home folder in."""
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", "~/minari")
    few = ["env=gridworld", "data.n_episodes=4", "ray.num_workers=0"]
    assert main(["collect", "run_dir=~/run", *few]) == 0
    assert main(["export-minari", "~/run/dataset.npz", "mine-v0"]) == 0
    assert (home / "minari" / "mine-v0" / "data").is_dir()
    assert main(["import-minari", "mine-v0", "~/again.npz"]) == 0
    monkeypatch.setenv("MINARI_DATASETS_PATH", "")
    assert main(["import-minari", "mine-v0", "~/again.npz", "--force"]) == 1
    assert "MINARI_DATASETS_PATH: expected a path" in capsys.readouterr().err


# Nothing, and too much


@pytest.mark.parametrize("key", PATH_KEYS)
@pytest.mark.parametrize("value", ["", " ", "''"])
def test_a_path_that_is_empty_is_refused(key, value, home):
    """As where the shell variable is not set that was typed."""
    with pytest.raises(ConfigError, match=rf"'{key}': expected a path, got .*variable") as error:
        compose("run", [f"{key}={value}"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "run_dir="], ["collect", "run_dir="], ["train", "run_dir=", "seed=1"],
        ["evaluate", "run_dir="], ["tune", "--resume", "run_dir="], ["collect", "data.path="],
        ["ask", "", "--seed", "1", "--command", "5", "1"], ["film", "", "command=[5,1]"],
        ["film", ".", "command=[5,1]", "out="], ["explore", ""], ["convert", "", "a.npz"],
        ["convert", "a.npz", ""], ["export-minari", "", "a-v0"],
    ],
)  # fmt: skip
def test_a_command_without_its_path_writes_nothing(words, home, capsys):
    assert main(words) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected" in line and "shell variable" in line


@pytest.mark.parametrize("path", ["", " "])
def test_python_refuses_a_path_that_is_empty(path, home):
    for use in (TrajectoryDataset, dataset().save, Logger, RunFolder, UDRLAgent.load):
        with pytest.raises(ConfigError, match="expected a path"):
            use(path)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=1,2,3", "for value in 1 2 3; do flowshield run seed=$value; done"),
        ("seed=[1,2,3]", "for value in 1 2 3; do flowshield run seed=$value; done"),
        ("profile=quick,full", "for value in quick full; do"),
        ("learning_rate=1e-3,1e-2", "for value in 0.001 0.01; do"),
        ("seed=range(1,4)", "expected one value, got several, range(1,4)"),
        ("env=glob(*)", "expected one value, got several, glob(*)"),
        ("shield=quantile,mixture", "'shield=[quantile,mixture]'"),
        ("ray.num_workers=1,4", "'ray.num_workers=[1,4]'"),
        ("env.commands=[1,2],[3,4]", "'env.commands=[[1,2],[3,4]]'"),
    ],
)
def test_several_values_of_one_key(override, said, capsys):
    assert main(["config", override]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert repr(override.partition("=")[0]) in line and "expected one value" in line
    assert said in line


def test_the_loop_over_seeds_runs_as_printed(capsys):
    main(["config", "seed=1,2,3"])
    line = capsys.readouterr().err
    loop = line[line.index("for value") :].replace("do flowshield", "do echo")
    done = subprocess.run(["bash", "-c", loop], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"run seed={seed}" for seed in (1, 2, 3)]


def test_other_text_needs_no_inner_quotes_for_its_letters():
    assert compose("run", ["env.kwargs.name=größe 1"]).env.kwargs.name == "größe 1"
    assert compose("run", ["env.kwargs.map=~/m.npz"]).env.kwargs.map == str(Path.home() / "m.npz")
    with pytest.raises(ConfigError, match="cannot read the override"):
        compose("run", ["env.kwargs.name=[ä"])
