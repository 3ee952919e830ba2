"""Training throughput: the fit loop beside loops that a user would write, and beside its floor.

Run it from the repository's root, with the package installed::

    python benchmarks/training.py
    python benchmarks/training.py --batch-sizes 1024 --seconds 60 --json training.json

Every contender trains the 4 x 256 SiLU policy on the same synthetic transitions of LunarLander's
sizes (8 state numbers, 2 action numbers), on one CPU thread. They take turns, one epoch each, in
several rounds, so that whatever else the machine does falls on all of them alike.

Contenders:

* ``fit loop``: `flowshield.training.fit` itself with the settings of configs/train.yaml: gathers
  from tensors on the device, schedule, clipping, fused AdamW and moving average of the weights.
  Like the other loops it does not validate (it must, but on one episode).
* ``DataLoader``: the textbook loop over ``DataLoader(TensorDataset(...), batch_size,
  shuffle=True)`` with the same model, loss, clipping and default AdamW; no schedule and no moving
  average. On a CUDA device with pinned memory and copies that do not block.
* ``index sampling``: the same loop over slices of a random permutation of tensors on the device.
* ``matrix products``: only the products of the linear layers, forward and the two backward, into
  memory that is already there: what no loop around them can undercut.
* ``fit loop, cuda_graph=true``: on a CUDA device, the fit loop with its step captured.

Columns: ``samples/s``, the median over the rounds, and ``range``, the slowest and the fastest
round; ``x DataLoader`` and ``x products``, the median over the rounds of this contender's speed as
a multiple of the DataLoader's and of the matrix products' in the same round.
"""

__all__ = ["Measurement", "main", "measure"]

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rounds import median_and_range, ratio
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from flowshield.config import compose
from flowshield.data import TrajectoryDataset, TransitionTensors
from flowshield.models import UDRLAgent
from flowshield.paths import typed_path
from flowshield.training import FitSettings, fit, resolve_device

STATE_DIM, ACTION_DIM, EPISODE_STEPS = 8, 2, 250  # LunarLander-v3's, an episode as it lands
LAYERS = [STATE_DIM + 2, 256, 256, 256, 256, 2 * ACTION_DIM]  # of the policy below
PRODUCTS, LOADER = "matrix products", "DataLoader"
Epoch = Callable[[], None]


@dataclass(frozen=True)
class Measurement:
    """One contender at one batch size.

    Attributes:
        contender: Its name.
        batch_size: Rows a step.
        samples_per_second: One number a round, of all the epoch's steps.
    """

    contender: str
    batch_size: int
    samples_per_second: list[float]

    def times(self, other: "Measurement") -> float:
        """Median over the rounds of this speed as a multiple of the other's."""
        return ratio(self.samples_per_second, other.samples_per_second)


def measure(
    n_transitions: int, batch_size: int, seconds: float, device: torch.device
) -> list[Measurement]:
    """Lets the contenders take turns for about `seconds` each, in three rounds or more.

    Args:
        n_transitions: Training rows.
        batch_size: Rows a step.
        seconds: Time for each contender, after one epoch each of warm-up.
        device: Where they train.
    """
    data = synthetic_dataset(n_transitions)
    contenders = _contenders(data, batch_size, device)
    n_samples = n_transitions // batch_size * batch_size
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for epoch in contenders.values():
        _timed(epoch, device)
    start = time.perf_counter()
    enough = seconds * len(contenders)
    while len(speeds[LOADER]) < 3 or time.perf_counter() - start < enough:
        for name, epoch in contenders.items():
            speeds[name].append(n_samples / _timed(epoch, device))
    return [Measurement(name, batch_size, values) for name, values in speeds.items()]


def synthetic_dataset(n_transitions: int, seed: int = 0) -> TrajectoryDataset:
    """Noise in the shape of LunarLander's transitions: timing does not depend on the values."""
    random = np.random.default_rng(seed)
    ends = np.arange(1, n_transitions + 1) % EPISODE_STEPS == 0
    ends[-1] = True
    return TrajectoryDataset.from_arrays(
        random.normal(size=(n_transitions, STATE_DIM)),
        random.uniform(-1, 1, size=(n_transitions, ACTION_DIM)),
        random.normal(size=n_transitions),
        ends,
    )


# ---------------------------------------------------------------- contenders: one call, one epoch


def _contenders(data: TrajectoryDataset, batch_size: int, device: torch.device) -> dict[str, Epoch]:
    contenders = {
        "fit loop": _fit_loop(data, batch_size, device),
        LOADER: _dataloader_loop(data, batch_size, device),
        "index sampling": _index_loop(data, batch_size, device),
        PRODUCTS: _matrix_products(len(data), batch_size, device),
    }
    if device.type == "cuda":
        contenders["fit loop, cuda_graph=true"] = _fit_loop(data, batch_size, device, graph=True)
    return contenders


def _fit_loop(
    data: TrajectoryDataset, batch_size: int, device: torch.device, graph: bool = False
) -> Epoch:
    rows, agent = TransitionTensors(data, device), _policy(data, device)
    one_episode = TransitionTensors(data.subset([0]), device)
    settings = _settings(batch_size, graph)

    def epoch() -> None:
        fit(agent, rows, one_episode, settings)

    return epoch


def _dataloader_loop(data: TrajectoryDataset, batch_size: int, device: torch.device) -> Epoch:
    arrays = (data.states, data.actions, data.commands)
    on_gpu = device.type == "cuda"
    loader = DataLoader(
        TensorDataset(*(torch.from_numpy(array) for array in arrays)),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        pin_memory=on_gpu,
    )
    step = _plain_step(_policy(data, device))

    def epoch() -> None:
        for batch in loader:
            step(*(part.to(device, non_blocking=on_gpu) for part in batch))

    return epoch


def _index_loop(data: TrajectoryDataset, batch_size: int, device: torch.device) -> Epoch:
    arrays = (data.states, data.actions, data.commands)
    tensors = [torch.from_numpy(array).to(device) for array in arrays]
    step = _plain_step(_policy(data, device))

    def epoch() -> None:
        order = torch.randperm(len(data), device=device)
        for start in range(0, len(data) - batch_size + 1, batch_size):
            indices = order[start : start + batch_size]
            step(*(tensor[indices] for tensor in tensors))

    return epoch


def _matrix_products(n_rows: int, batch_size: int, device: torch.device) -> Epoch:
    layers = [
        _layer_products(batch_size, n_in, n_out, device, first=i == 0)
        for i, (n_in, n_out) in enumerate(zip(LAYERS, LAYERS[1:], strict=False))
    ]

    def epoch() -> None:
        for _ in range(n_rows // batch_size):
            for forward, _backward in layers:
                forward()
            for _forward, backward in reversed(layers):
                backward()

    return epoch


def _layer_products(
    batch_size: int, n_in: int, n_out: int, device: torch.device, *, first: bool
) -> tuple[Epoch, Epoch]:
    """Forward and backward products of one linear layer, each into its own memory."""
    inputs, weight = torch.randn(batch_size, n_in), torch.randn(n_out, n_in)
    outputs_gradient = torch.randn(batch_size, n_out)
    inputs, weight = inputs.to(device), weight.to(device)
    outputs_gradient = outputs_gradient.to(device)
    outputs = torch.empty_like(outputs_gradient)
    inputs_gradient, weight_gradient = torch.empty_like(inputs), torch.empty_like(weight)

    def forward() -> None:
        torch.mm(inputs, weight.t(), out=outputs)

    def backward() -> None:
        torch.mm(outputs_gradient.t(), inputs, out=weight_gradient)
        if not first:  # nobody needs the gradient of the data
            torch.mm(outputs_gradient, weight, out=inputs_gradient)

    return forward, backward


def _plain_step(agent: UDRLAgent) -> Callable[..., None]:
    """A training step as a user writes it."""
    optimizer = torch.optim.AdamW(agent.parameters(), lr=1e-4)

    def step(states: Tensor, actions: Tensor, commands: Tensor) -> None:
        optimizer.zero_grad()
        loss = agent.compute_loss(states, actions, commands)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(agent.parameters(), 1.0)
        optimizer.step()

    return step


def _policy(data: TrajectoryDataset, device: torch.device) -> UDRLAgent:
    torch.manual_seed(0)
    agent = UDRLAgent(STATE_DIM, ACTION_DIM, hidden_dim=256, n_layers=4)
    agent.fit_standardizers(torch.from_numpy(data.states), torch.from_numpy(data.commands))
    return agent.to(device)


def _settings(batch_size: int, cuda_graph: bool) -> FitSettings:
    """One epoch with what configs/train.yaml turns on."""
    config = compose("train")
    return FitSettings(
        n_epochs=1,
        batch_size=batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.optimizer.weight_decay,
        gradient_clip=config.optimizer.gradient_clip,
        ema_decay=config.optimizer.ema_decay,
        scheduler=dict(config.scheduler),
        cuda_graph=cuda_graph,
    )


def _timed(epoch: Epoch, device: torch.device) -> float:
    start = time.perf_counter()
    epoch()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


# ---------------------------------------------------------------- output


def _table(measurements: Sequence[Measurement]) -> Table:
    by_name = {measurement.contender: measurement for measurement in measurements}
    table = Table("contender", title=f"batch {measurements[0].batch_size}")
    for column in ("samples/s", "range", "x DataLoader", "x products"):
        table.add_column(column, justify="right")
    for measurement in measurements:
        table.add_row(
            measurement.contender,
            *median_and_range(measurement.samples_per_second),
            f"{measurement.times(by_name[LOADER]):.2f}",
            f"{measurement.times(by_name[PRODUCTS]):.2f}",
        )
    return table


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training throughput beside other loops.")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1024, 256])
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="time for each contender at each batch size"
    )
    parser.add_argument("--transitions", type=int, default=200_000)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", type=typed_path, help="where to write every round's speeds")
    parsed = parser.parse_args(arguments)
    if not 1 <= min(parsed.batch_sizes) <= max(parsed.batch_sizes) <= parsed.transitions:
        parser.error("--batch-sizes: expected numbers from 1 to --transitions")
    return parsed


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a table a batch size, and writes the speeds where asked to."""
    options, console = _arguments(arguments), Console()
    torch.set_num_threads(1)
    device = resolve_device(options.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread"
    console.print(f"{options.transitions:,} transitions on {where}, torch {torch.__version__}")
    if not torch.cuda.is_available():
        console.print("no CUDA device here: eager and captured steps on a GPU are not measured")
    found: list[Measurement] = []
    for batch_size in options.batch_sizes:
        measured = measure(options.transitions, batch_size, options.seconds, device)
        console.print(_table(measured))
        found += measured
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(one) for one in found], indent=2))


if __name__ == "__main__":
    main()
