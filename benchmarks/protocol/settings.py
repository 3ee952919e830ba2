"""What the protocol is run with: sizes, seeds, models, training overrides."""

__all__ = ["KNOWN", "PARTS", "SPLIT", "Settings", "full", "quick"]

import dataclasses
from dataclasses import dataclass
from typing import Any

from controls import CONTROLS
from peers import peers_here

from flowshield.config import compose, list_shields

PARTS = (
    "train",
    "detection",
    "calibration",
    "projection",
    "latency",
    "known",
    "behaviour",
)
"""Names for `--parts`; data are collected whenever a part needs them."""

KNOWN = ("geometric_chain", "gridworld")
"""Environments that know p(H, R | s) of the uniformly random behaviour."""

# The noise on returns under which the published figures of known answers were measured: it is part
# of the density that they are about. From the data the chain's would be 0.01.
_KNOWN_NOISE = tuple(
    f"shield.{name}.return_noise=1.0"
    for name in ("quantile", "mixture", "diffusion", "flow_matching")
)

SPLIT = {"train": 0.62, "validation": 0.08, "calibration": 0.15, "test": 0.15}
"""Shares of episodes: 70/15/15, where 8 of the 70 choose the best epoch and stop early."""

GUARDING = ("clip", "state_box")
"""Controls that guard the agent too; the others are for detection."""

_PLACE = ("datasets", "known", "seeds", "shields", "controls", "peers")


@dataclass(frozen=True)
class Settings:
    """Everything a single result depends on, beside its own key.

    Attributes:
        datasets: Behaviours to collect and to judge on.
        known: Environments with a known answer.
        seeds: Training seeds; each also draws its own split of the episodes.
        shields: Shield types of the package.
        controls: What fits in ten lines, see `benchmarks/controls.py`.
        peers: Densities from outside the package, see `benchmarks/peers.py`.
        commands: The grid, (horizon, return).
        alphas: Nominal false-alarm rates.
        n_episodes: Episodes collected per dataset.
        n_fresh: Further episodes per dataset that train, select and calibrate nothing.
        n_whole: Fresh episodes of which every step is scored, for the rate per episode.
        n_more: Still further ones that join the calibration, to show what remains of its luck.
        n_states: Random test states of the detection rungs.
        n_projected: Test states whose impossible request is projected; the grid's requests are
            asked at a sixth of as many each.
        n_searched: Requests whose projection is compared with a brute-force search.
        n_queries: Timed queries of each kind at batch size 1.
        compiled: Whether the compiled path is timed too; compiling takes a minute a shield.
        n_cell: Episodes of a cell of the behaviour grid.
        n_chain: Episodes collected in the geometric chain.
        n_gridworld: Episodes collected in the gridworld.
        peer_seconds: Training budget of each peer.
        overrides: Hydra overrides of the package's run config. Half as many epochs again as its
            default, which was chosen for `flowshield run` to end within ten minutes.
        known_overrides: Further ones for the environments with a known answer: their episodes are
            short, so that an epoch has fewer steps.
    """

    datasets: tuple[str, ...] = ("mixed", "expert")
    known: tuple[str, ...] = KNOWN
    seeds: tuple[int, ...] = (42, 43, 44)
    shields: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    commands: tuple[tuple[float, float], ...] = ()
    alphas: tuple[float, ...] = (0.01, 0.05, 0.1)
    n_episodes: int = 3000
    n_fresh: int = 2000
    n_whole: int = 600
    n_more: int = 8000
    n_states: int = 3000
    n_projected: int = 600
    n_searched: int = 100
    n_queries: int = 300
    compiled: bool = True
    n_cell: int = 200
    n_chain: int = 20000
    n_gridworld: int = 40000
    peer_seconds: float = 120.0
    overrides: tuple[str, ...] = ("shield_epochs=12",)
    known_overrides: tuple[str, ...] = ("shield_epochs=15", *_KNOWN_NOISE)

    def n_collected(self, dataset: str) -> int:
        """Episodes of a dataset that is split."""
        known = {"geometric_chain": self.n_chain, "gridworld": self.n_gridworld}
        return known.get(dataset, self.n_episodes)

    @property
    def guards(self) -> tuple[str, ...]:
        """Who guards the agent in the behaviour grid: nobody, controls that project, shields."""
        return ("none", *(name for name in GUARDING if name in self.controls), *self.shields)

    def identity(self) -> dict[str, Any]:
        """What results in one folder must agree on; which of them are asked for may change."""
        everything = dataclasses.asdict(self)
        return {key: value for key, value in everything.items() if key not in _PLACE}


def full() -> Settings:
    """All parts that `benchmarks/achievability.py` describes, twelve epochs a shield."""
    return _completed(Settings())


def quick() -> Settings:
    """Seconds instead of an hour: shows that every part runs; its figures are not for judging."""
    return _completed(
        Settings(
            datasets=("expert",),
            seeds=(42,),
            known=KNOWN[:1],
            n_episodes=135,
            n_fresh=24,
            n_whole=6,
            n_more=20,
            n_states=100,
            n_projected=12,
            n_searched=2,
            n_queries=3,
            compiled=False,
            n_cell=2,
            n_chain=60,
            n_gridworld=60,
            peer_seconds=0.5,
            overrides=("n_epochs=1", "shield_epochs=1", "calibration.alpha=0.1"),
            known_overrides=(),
        ),
        n_commands=2,
    )


def _completed(settings: Settings, n_commands: int | None = None) -> Settings:
    """Fills in what the package and the machine offer."""
    commands = [(float(h), float(r)) for h, r in compose("run").env.commands][:n_commands]
    return dataclasses.replace(
        settings,
        shields=tuple(name for name in list_shields() if name != "all"),
        controls=tuple(CONTROLS),
        peers=peers_here(),
        commands=tuple(commands),
    )
