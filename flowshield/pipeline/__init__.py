"""The main job and its stages, each on the files of a run folder."""

from flowshield.pipeline.asking import Question, ask
from flowshield.pipeline.certifying import certify_run
from flowshield.pipeline.collecting import collect, dataset_path
from flowshield.pipeline.evaluating import evaluate
from flowshield.pipeline.exploring import ExplorerSettings, explore
from flowshield.pipeline.filming import FilmSettings, film
from flowshield.pipeline.main_job import run
from flowshield.pipeline.probing import probe
from flowshield.pipeline.trained_run import TrainedRun
from flowshield.pipeline.training import train
from flowshield.pipeline.tuning import tune

__all__ = [
    "ExplorerSettings",
    "FilmSettings",
    "Question",
    "TrainedRun",
    "ask",
    "certify_run",
    "collect",
    "dataset_path",
    "evaluate",
    "explore",
    "film",
    "probe",
    "run",
    "train",
    "tune",
]
