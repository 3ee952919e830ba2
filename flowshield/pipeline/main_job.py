"""The whole way: collect, train, probe, certify, evaluate."""

__all__ = ["run"]

from typing import Any

from omegaconf import DictConfig

from flowshield.pipeline.certifying import check_guard_request
from flowshield.pipeline.collecting import check_training_request, collect
from flowshield.pipeline.dataset_check import check_dataset
from flowshield.pipeline.evaluating import evaluate
from flowshield.pipeline.place import check_room, place
from flowshield.pipeline.training import train
from flowshield.progress import Reporter
from flowshield.run_folder import RunFolder


def run(config: DictConfig, folder: RunFolder, reporter: Reporter, command: str) -> dict[str, Any]:
    """Goes through all stages; what the folder already holds is not done again.

    Args:
        config: From `load_config`.
        folder: Likewise.
        reporter: Where progress goes.
        command: What the user typed, for the report.

    Returns:
        The content of results.json.
    """
    check_training_request(config, folder)
    check_guard_request(config)
    with place(config):  # one Ray for all stages
        check_room(config)
        dataset = collect(config, folder, reporter)
        check_dataset(dataset, config)
        train(config, folder, reporter, dataset)
        return evaluate(config, folder, reporter, command, dataset)
