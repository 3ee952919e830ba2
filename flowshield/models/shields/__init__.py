"""Shields: models of p(g | s) that say which commands the data support."""

from flowshield.models.shields.base import SCORES, BaseShield
from flowshield.models.shields.calibration import (
    UNITS,
    Calibration,
    ExchangeablePairs,
    conformal_threshold,
    episodes_needed,
)
from flowshield.models.shields.diffusion import DiffusionShield
from flowshield.models.shields.flow_matching import FlowMatchingShield
from flowshield.models.shields.frontier import Frontier
from flowshield.models.shields.groups import StateGroups
from flowshield.models.shields.mixture import MixtureShield
from flowshield.models.shields.normal_mixture import NormalMixture
from flowshield.models.shields.projection import Projection, ProjectionSettings, scaled_distance
from flowshield.models.shields.quantile import QuantileShield

__all__ = [
    "SCORES",
    "UNITS",
    "BaseShield",
    "Calibration",
    "DiffusionShield",
    "ExchangeablePairs",
    "FlowMatchingShield",
    "MixtureShield",
    "NormalMixture",
    "Frontier",
    "Projection",
    "ProjectionSettings",
    "QuantileShield",
    "StateGroups",
    "conformal_threshold",
    "episodes_needed",
    "scaled_distance",
]
