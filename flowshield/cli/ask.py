"""Asks a trained run's shield about one command at one state."""

__all__ = ["ASK"]

import argparse
import re
from typing import TYPE_CHECKING, Any

from flowshield.cli.command import Command
from flowshield.progress import Reporter

if TYPE_CHECKING:
    from flowshield.evaluation.guarded_answer import GuardedAnswer

_DESCRIPTION = """\
Says whether a command (H, R), "get return R in H steps", is supported by the data at a state; its
score against the threshold; the false-alarm rate; the nearest supported command; and which returns
are supported at that horizon. Of a run that was probed and certified also: what its policy is
predicted to get under the command, and what its guard does about it.

The state is given by its numbers, in the environment's units, or taken from an episode: the run's
agent (not the behaviour that its data come from) starts from the reset with --seed and follows the
first command of the run's grid, or --follow, without a shield, and acts as in the run's evaluation
(env.deterministic: by default with its mean action). --step 0 is the start."""

_WIDTH = 14
# -1e-3 and -inf are numbers too, which argparse knows from Python 3.14 on; -inf is refused later
_NEGATIVE = re.compile(r"^-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|^-(inf|nan)", re.IGNORECASE)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = _DESCRIPTION
    parser._negative_number_matcher = _NEGATIVE
    parser.add_argument("run_dir", metavar="RUN", help="folder of a trained run")
    parser.add_argument(
        "--command", dest="asked", nargs=2, type=float, required=True, metavar=("H", "R"),
        help="horizon in steps and return in raw reward",
    )  # fmt: skip
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--state", nargs="+", type=float, metavar="X", help="the state's numbers")
    where.add_argument("--seed", type=int, metavar="N", help="seed of the episode's reset")
    parser.add_argument(
        "--step", type=int, metavar="N", help="with --seed: steps that lie behind (default 0)"
    )
    parser.add_argument(
        "--follow", nargs=2, type=float, metavar=("H", "R"),
        help="with --seed: what the agent follows (default: the first of the run's env.commands)",
    )  # fmt: skip
    parser.add_argument(
        "--shield", metavar="NAME",
        help="default: the best by the run's verdict, or its only one",
    )  # fmt: skip
    parser.add_argument(
        "--alpha", type=float, help="another false-alarm rate, if the calibration has scores enough"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _ask(parsed: argparse.Namespace, reporter: Reporter, typed: str) -> None:
    import torch

    from flowshield.errors import UsageError
    from flowshield.evaluation import answer_lines
    from flowshield.json_files import json_text
    from flowshield.pipeline import Question, TrainedRun, ask
    from flowshield.pipeline.asking import ask_guard_of

    if parsed.state is not None and (parsed.step is not None or parsed.follow is not None):
        raise UsageError("--step and --follow go with --seed, not with --state")
    question = Question(
        command=parsed.asked,
        state=parsed.state,
        seed=parsed.seed or 0,
        step=parsed.step or 0,
        follow=parsed.follow,
        shield=parsed.shield,
        alpha=parsed.alpha,
    )
    run = TrainedRun(parsed.run_dir)
    torch.set_num_threads(run.config.n_threads)
    source, answer = ask(run, question)
    made = ask_guard_of(run, source["shield"], source["state"], answer.command)
    if parsed.json:
        guard = {"reason": made} if isinstance(made, str) else made.record()
        reporter.line(json_text({**source, **answer.record(), "guard": guard}))
        return
    guarded = _guard_lines(made, answer.return_decimals)
    command, verdict, *rest = answer_lines(answer)
    bound = _bound_lines(source["bound"], answer.command[1], answer.return_decimals)
    sure = [("caution", source["first_look"])] if source["first_look"] else []
    for name, text in [*_source_lines(source), command, verdict, *bound, *rest, *guarded, *sure]:
        far = source["outside"] and name in ("nearest", "returns")
        reporter.line(f"{name:<{_WIDTH}}{text}{' (extrapolated)' if far else ''}")


def _guard_lines(made: "GuardedAnswer | str", decimals: int | None) -> list[tuple[str, str]]:
    from flowshield.evaluation.guarded_answer import guarded_lines

    return [("guard", made)] if isinstance(made, str) else guarded_lines(made, decimals)


def _source_lines(source: dict[str, Any]) -> list[tuple[str, str]]:
    import numpy as np

    from flowshield.evaluation.wording import command_label, decimals_for, number, shield_label

    numbers = " ".join(map(str, np.asarray(source["state"], np.float32)))
    name = shield_label(source["shield"])
    lines = [("shield", f"{name} of {source['run']} ({source['chosen']})"), ("state", numbers)]
    if "seed" in source:
        follows = command_label(source["follows"])
        where = f"seed {source['seed']}, step {source['step']}, the agent follows {follows}"
        lines.append(("", f"({where} without a shield)"))
    if source["outside"] is None:
        unknown = "not known: the run's dataset is not on this disk, or cannot be read"
        lines.append(("outside", unknown))
    for far in source["outside"] or ():
        decimals = max(2, decimals_for([far["low"], far["high"]]))
        value, low, high = (number(far[key], decimals) for key in ("value", "low", "high"))
        lines.append(
            (
                "outside",
                f"number {far['component'] + 1}, {value}: no state of the data is beyond {low} "
                f"to {high}, so that nothing is promised here",
            )
        )
    return lines


def _bound_lines(bound: float | None, target: float, decimals: int | None) -> list[tuple[str, str]]:
    from flowshield.evaluation.wording import number

    if bound is None:
        return []
    told = number(bound, 1 if decimals is None else decimals)
    text = f"no policy gets a return above {told} from here"
    if target > bound:
        text += ": IMPOSSIBLE, whatever the verdict (calibration.use_return_bound=true flags it)"
    return [("bound", text)]


ASK = Command(
    "ask",
    "ask a run's shield whether a command is supported at a state, and what is",
    """\
  flowshield ask runs/mine --seed 3 --step 40 --command 1000 280
  flowshield ask runs/mine --state 0 1.4 0.2 -0.3 0 -1e-3 0 0 --command 200 280 --json
  flowshield ask runs/mine --seed 3 --command 200 280 --shield quantile --alpha 0.1""",
    _ask,
    _add_arguments,
)
