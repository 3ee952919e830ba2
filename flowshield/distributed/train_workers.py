"""What a training asks of the cluster."""

__all__ = ["TrainWorkers"]

import os
from dataclasses import dataclass

import ray
from omegaconf import DictConfig
from ray.train import FailureConfig, ScalingConfig

from flowshield.errors import ConfigError
from flowshield.training.fitter import asked_workers


@dataclass(frozen=True)
class TrainWorkers:
    """The workers of one training.

    Attributes:
        number: How many at once; (least, most) = as many of them as the cluster has just now.
        use_gpu: Whether each gets a GPU; None = where Ray has one.
        cpus_per_worker: CPUs of each, and threads of torch.
        gpus_per_worker: Share of a GPU of each that gets one: with 1/n, n trainings of one worker
            side by side on each GPU.
        max_failures: Times that the training starts again from its last checkpoint; -1 = for ever.
        resident_bytes: A worker's rows up to this size lie on its device; more are streamed.
    """

    number: int | tuple[int, int]
    use_gpu: bool | None = False
    cpus_per_worker: float = 1
    gpus_per_worker: float = 1
    max_failures: int = 3
    resident_bytes: int = 2_000_000_000

    def __post_init__(self) -> None:
        """Refuses what NCCL cannot do.

        Raises:
            ConfigError: More than one worker of a training on parts of GPUs.
        """
        most = self.number if isinstance(self.number, int) else self.number[1]
        if most > 1 and self.gpus_per_worker < 1:
            raise ConfigError(
                "ray.gpus_per_worker: expected 1 where a model has more than one worker, got "
                f"{self.gpus_per_worker:g}: NCCL joins no two workers on one GPU; set it to 1, or "
                "num_workers to 1"
            )

    @classmethod
    def from_config(cls, config: DictConfig) -> "TrainWorkers":
        """What a config asks for each of its models; `config.ray.num_workers=0` asks for none."""
        ray = config.ray
        return cls(
            asked_workers(config),
            # null leaves it to `device`, which a machine without a GPU may not have
            use_gpu=False if ray.use_gpu is None and config.device == "cpu" else ray.use_gpu,
            cpus_per_worker=ray.cpus_per_worker,
            gpus_per_worker=ray.gpus_per_worker,
            max_failures=ray.max_failures,
            resident_bytes=ray.resident_bytes,
        )

    @property
    def least(self) -> int:
        """How many the training cannot start without."""
        return self.number if isinstance(self.number, int) else self.number[0]

    def scaling(self) -> ScalingConfig:
        """The same in Ray's words."""
        return ScalingConfig(
            num_workers=self.number,  # type: ignore[arg-type]  # Ray's types are those of V1
            use_gpu="GPU" in self.resources(),
            resources_per_worker=self.resources(),
        )

    def failures(self) -> FailureConfig:
        """The same in Ray's words."""
        return FailureConfig(max_failures=self.max_failures)

    def check_room(self) -> None:
        """Refuses what a Ray of this machine alone would wait for until the end of time.

        A cluster that this process is a job of may grow: there, waiting is right.

        Raises:
            ConfigError: The least number of workers needs more CPUs or GPUs than there are.
        """
        if _may_grow():
            return
        there = _resources_there()
        for kind, each in self.resources().items():
            if self.least * each > there.get(kind, 0):
                raise ConfigError(
                    f"{self.least} training workers with {each:g} {kind} each need "
                    f"{self.least * each:g} {kind}, this Ray has {there.get(kind, 0):g}: ask for "
                    "fewer with num_workers, ray.cpus_per_worker or ray.use_gpu=false"
                )

    def at_once(self, n_trainings: int) -> int:
        """How many of so many trainings like this one to begin side by side.

        One more than there is room for: what watches over it starts while another one trains. All
        of them on a cluster that may grow: what waits is what it grows by.
        """
        if _may_grow():
            return n_trainings
        there = _resources_there()
        each = self.resources()
        room = [there.get(kind, 0) // (self.least * needed) for kind, needed in each.items()]
        return min(n_trainings, 1 + int(min(room)))

    def resources(self) -> dict[str, float]:
        """What each gets of the cluster: "CPU", and "GPU" where it gets one."""
        use_gpu = _resources_there().get("GPU", 0) > 0 if self.use_gpu is None else self.use_gpu
        gpus = {"GPU": float(self.gpus_per_worker)} if use_gpu else {}
        return {"CPU": float(self.cpus_per_worker), **gpus}


def _may_grow() -> bool:
    """Whether this process is a job of a cluster, and not the user of its own machine."""
    return "RAY_ADDRESS" in os.environ


def _resources_there() -> dict[str, float]:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources
