"""Whether a dataset is of the run's environment, before anything is trained on it."""

__all__ = ["check_dataset"]

from omegaconf import DictConfig

from flowshield.data import TrajectoryDataset
from flowshield.envs import get_env_info
from flowshield.errors import ConfigError
from flowshield.progress import Reporter


def check_dataset(dataset: TrajectoryDataset, config: DictConfig, reporter: Reporter) -> None:
    """Refuses data of another environment, on which an agent could be trained but not act.

    Where the environment cannot be made, which training does not need, it says so and goes on.

    Args:
        dataset: The run's.
        config: The run's.
        reporter: Where that goes.

    Raises:
        ConfigError: States are of another length, or actions of another kind or number.
    """
    env = config.env
    try:
        info = get_env_info(env.name, **env.kwargs)
    except ConfigError as error:
        reporter.stage("train", f"cannot check that the data fit {env.name}: {error}")
        return
    needed = _words(info["state_dim"], info["action_dim"], info.get("n_actions"))
    found = _words(dataset.state_dim, dataset.action_dim, dataset.n_actions)
    if found != needed:
        source = dataset.metadata.get("env")
        raise ConfigError(
            f"the dataset{f' of {source}' if source else ''} has {found}, environment {env.name} "
            f"has {needed}: choose the data's environment with env=, or other data with data.path="
        )


def _words(state_dim: int | None, action_dim: int | None, n_actions: int | None) -> str:
    actions = f"{n_actions} discrete actions" if n_actions else f"actions of length {action_dim}"
    return f"states of length {state_dim} and {actions}"
