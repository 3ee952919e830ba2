import os
import re
import shlex
import subprocess
import sys
import warnings

import pytest

from flowshield import __version__
from flowshield.cli import main, make_parser
from flowshield.cli.program import _warnings_as_lines
from flowshield.config import config_dir
from flowshield.errors import DataWarning


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == f"flowshield {__version__}"


def _help(capsys, *command):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def _commands(capsys):
    offered = _help(capsys).partition("COMMAND\n")[2].partition("\noptions:")[0]
    return [line.split()[0] for line in offered.splitlines() if line[4:5].strip()]


def test_every_help_has_examples_that_parse_and_the_exit_codes(capsys):
    names = _commands(capsys)
    assert {"run", "collect", "train", "tune", "evaluate", "config"} <= set(names)
    for name in names:
        told = _help(capsys, name)
        assert "\n  130 " in told
        examples = [line.strip() for line in told.splitlines() if line.startswith("  flowshield ")]
        assert examples
        for example in examples:
            words = shlex.split(re.split(r"\s{3,}", example)[0])
            assert make_parser().parse_args(words[1:]).command == name


def test_nothing_heavy_is_imported_to_answer_help():
    script = (
        "import sys; from flowshield.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: print({'torch', 'ray', 'matplotlib'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_help_lists_every_group_and_what_it_offers(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    told = [line.strip() for line in capsys.readouterr().out.splitlines()]
    files = list(config_dir().glob("*/*.yaml"))
    assert len(files) > 10
    for file in files:
        (line,) = (line for line in told if line.startswith(f"{file.parent.name}="))
        assert file.stem in line.partition("=")[2].split("|")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sead=1", "seed"),
        ("shield=flow_matchin", "flow_matching"),
        ("behaviour=experts", "expert"),
        ("env.name=lunarlandr", "lunarlander"),
        ("batch_size=abc", "batch_size"),
        ("data.n_episodes=0", "data.n_episodes"),
        ("scheduler.type=cosin", "cosine"),
        ("model.activation=sillu", "silu"),
        ("device=cuda:99", "device"),
        ("projection.lr=2", "projection.lr"),
        ("shield.flow_matching.dropout=2", "dropout"),
        ("shield.flow_matching.n_components=0", "n_components"),
        ("shield.flow_matching.time_embed_dim=3", "even"),
        ("shield.diffusion.ddim_steps=0", "ddim_steps"),
        ("seed=99999999999999999999", "seed"),
        ("env.commands=[[200]]", "[200]"),
        ("env.commands=[[200,a]]", "env.commands"),
        ("env.commands=[]", "at least one command"),
        ("env.commands=[[0.5,280]]", "at least 1 step"),
        ("env.commands=[[200,280],[200,280]]", "twice"),
    ],
)
def test_a_mistyped_override_is_one_line_that_names_what_was_meant(
    override, said, capsys, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_TMPDIR", "/dev/null")  # where no Ray can start: nobody waits for one
    small = ["data.n_episodes=20", "n_epochs=1"]
    code = main(["run", f"run_dir={tmp_path / 'x'}", *small, override])
    error = capsys.readouterr().err
    assert code == 1
    assert said in error and error.startswith("flowshield: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["flowshield", "conv"], {"convert"}),
        (["flowshield", "tune", "--res"], {"--resume"}),
        (["flowshield", "ask", "runs/mine", "--st"], {"--state", "--step"}),
        (["flowshield", "run", "seed"], set()),
    ],
)
def test_bash_completes_commands_and_their_options(capsys, words, offered):
    assert main(["completion", "bash"]) == 0
    ask = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _flowshield"
    script = f"{capsys.readouterr().out}\n{ask}; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (set(done.stdout.split()), done.stderr) == (offered, "")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_hear_of_every_command(capsys, shell):
    names = _commands(capsys)
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(re.search(rf"\b{name}\b", script) for name in names)


@pytest.mark.parametrize("arguments", [["run", "--help"], ["config"]])
def test_a_reader_that_goes_away_is_no_error(arguments):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "flowshield", *arguments]
    # buffered, as it is for users: then what fails is the last flush
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=env)
    os.close(write)
    assert done.stderr == ""


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="seed"):
        main(["run", "--debug", "sead=1"])


def test_config_prints_every_key(capsys):
    assert main(["config", "profile=quick", "shield=quantile"]) == 0
    out = capsys.readouterr().out
    assert "horizon_weight" in out and "quantile" in out and "beta_schedule" not in out
    assert "grace_epochs" in out


def test_an_argument_that_is_no_text_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["collect", "run_dir='r\udcff'", "env=gridworld"]) == 2
    assert "run_dir='r\\udcff'\" is not UTF-8" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_several_models_warn_of_is_told_once_in_one_line(capsys):
    with _warnings_as_lines():
        for stacklevel in (1, 2):  # two places in the code
            warnings.warn("return: 2% are far", DataWarning, stacklevel=stacklevel)
        warnings.warn("states[:, 1]: 3% are far", DataWarning, stacklevel=1)
    assert capsys.readouterr().err.splitlines() == [
        "flowshield: note: return: 2% are far",
        "flowshield: note: states[:, 1]: 3% are far",
    ]
