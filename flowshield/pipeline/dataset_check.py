"""Whether a dataset is of the run's environment."""

__all__ = ["check_dataset", "misfit"]

from omegaconf import DictConfig

from flowshield.data import TrajectoryDataset
from flowshield.envs import get_env_info
from flowshield.errors import ConfigError


def check_dataset(dataset: TrajectoryDataset, config: DictConfig) -> None:
    """Refuses data of another environment, on which an agent can be trained but not act.

    Raises:
        ConfigError: See `misfit`.
    """
    if said := misfit(dataset, config):
        raise ConfigError(said)


def misfit(dataset: TrajectoryDataset, config: DictConfig) -> str | None:
    """Says why an agent of these data could not act in the run's environment.

    Args:
        dataset: The run's.
        config: The run's.

    Returns:
        That states are of another length, or actions of another kind or number, or that the
        environment cannot be made; None where nothing speaks against it.
    """
    env = config.env
    try:
        info = get_env_info(env.name, **env.kwargs)
    except ConfigError as error:
        return f"cannot check that the data fit {env.name}: {error}"
    needed = _words(info["state_dim"], info["action_dim"], info.get("n_actions"))
    found = _words(dataset.state_dim, dataset.action_dim, dataset.n_actions)
    if found == needed:
        return None
    source = dataset.metadata.get("env")
    return (
        f"the dataset{f' of {source}' if source else ''} has {found}, environment {env.name} "
        f"has {needed}: choose the data's environment with env=, or other data with data.path="
    )


def _words(state_dim: int | None, action_dim: int | None, n_actions: int | None) -> str:
    actions = f"{n_actions} discrete actions" if n_actions else f"actions of length {action_dim}"
    return f"states of length {state_dim} and {actions}"
