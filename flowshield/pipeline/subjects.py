"""What probing, certifying and evaluating have in common: the subjects, and who measures them."""

__all__ = ["evaluator_of", "existing_dataset", "run_subjects"]

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from flowshield.data import TrajectoryDataset
from flowshield.data.storage import dataset_exists
from flowshield.envs import env_maker
from flowshield.errors import DataError
from flowshield.evaluation import Evaluator, Subjects
from flowshield.evaluation.probing import ProbePlan
from flowshield.evaluation.yardstick import Yardstick
from flowshield.models import BaseShield, UDRLAgent
from flowshield.pipeline.collecting import dataset_path
from flowshield.pipeline.dataset_check import check_dataset
from flowshield.pipeline.place import on_ray
from flowshield.run_folder import RunFolder
from flowshield.training import Trainer, resolve_device

if TYPE_CHECKING:
    from flowshield.distributed.evaluate import EvaluatorPool


def run_subjects(config: DictConfig, folder: RunFolder, dataset: TrajectoryDataset) -> Subjects:
    """The trained models of a run, without guards of their own, and what they are measured on.

    Args:
        config: From `load_config`.
        folder: Likewise; it holds the trained models.
        dataset: The run's.
    """
    # what is sent to other processes must be on the CPU
    device = resolve_device("cpu" if on_ray(config) else config.device)
    followed, yardstick = config.evaluation.followed, Yardstick.of(dataset, config.evaluation)
    return Subjects(
        agent=UDRLAgent.load(folder.model("agent"), device),
        shields={name: BaseShield.load(folder.model(name), device) for name in config.shield},
        make_env=env_maker(config.env.name, dict(config.env.kwargs)),
        test=Trainer(config).split(dataset)["test"],
        commands=[(float(h), float(r)) for h, r in config.env.commands],
        seed=config.seed,
        n_episodes=config.evaluation.n_episodes,
        n_states=config.evaluation.n_states,
        bound_margin=yardstick.bound_margin,
        n_starts=followed.n_starts,
        n_commands=followed.n_commands,
        return_tolerance=yardstick.return_tolerance,
        deterministic=config.evaluation.deterministic,
        use_return_bound=config.calibration.use_return_bound,
        return_grid=yardstick.return_grid,
        plan=ProbePlan.of_data(config.seed, dataset.commands, config.env.commands),
    )


def evaluator_of(subjects: Subjects, num_workers: int) -> "Evaluator | EvaluatorPool":
    """Measures in this process, or in so many actors."""
    if num_workers == 0:
        return Evaluator(subjects)
    from flowshield.distributed.evaluate import EvaluatorPool

    return EvaluatorPool(subjects, num_workers)


def existing_dataset(config: DictConfig, folder: RunFolder) -> TrajectoryDataset:
    """The run's dataset.

    Raises:
        ConfigError: The config's environment cannot be made.
        DataError: There is none, or it is not of the config's environment.
    """
    path = dataset_path(config, folder)
    if not dataset_exists(path):
        raise DataError(f"no dataset at {path}: collect and train first, or check data.path")
    dataset = TrajectoryDataset(path)
    check_dataset(dataset, config)
    return dataset
