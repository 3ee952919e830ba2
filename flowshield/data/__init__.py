"""Episodes, the datasets they make, and the behaviour that they come from."""

from flowshield.data.batches import CommandPairs, CommandsMode, TransitionTensors
from flowshield.data.behaviour import (
    Behaviour,
    CallableBehaviour,
    EpisodeBehaviour,
    EpisodePolicy,
    GroupBehaviour,
    GroupPolicy,
    MixtureBehaviour,
    as_behaviour,
)
from flowshield.data.collector import DataCollector, collect_episodes, describe_collection
from flowshield.data.command_dataset import CommandDataset
from flowshield.data.dataset import TrajectoryDataset
from flowshield.data.episode import Episode
from flowshield.data.hindsight import compute_hindsight_commands, sample_future_commands
from flowshield.data.rollout import BatchPolicy, rollout

__all__ = [
    "BatchPolicy",
    "Behaviour",
    "CallableBehaviour",
    "CommandDataset",
    "CommandPairs",
    "CommandsMode",
    "DataCollector",
    "Episode",
    "EpisodeBehaviour",
    "EpisodePolicy",
    "GroupBehaviour",
    "GroupPolicy",
    "MixtureBehaviour",
    "TrajectoryDataset",
    "TransitionTensors",
    "as_behaviour",
    "collect_episodes",
    "compute_hindsight_commands",
    "describe_collection",
    "rollout",
    "sample_future_commands",
]
