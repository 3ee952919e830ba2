"""The main job and its stages, each on the files of a run folder."""

from flowshield.pipeline.collecting import collect, dataset_path
from flowshield.pipeline.evaluating import evaluate
from flowshield.pipeline.main_job import run
from flowshield.pipeline.training import train
from flowshield.pipeline.tuning import tune

__all__ = ["collect", "dataset_path", "evaluate", "run", "train", "tune"]
