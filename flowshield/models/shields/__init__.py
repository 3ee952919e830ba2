"""Shields: models of p(g | s) that say which commands the data support."""

from flowshield.models.shields.base import BaseShield
from flowshield.models.shields.calibration import conformal_threshold, episodes_needed
from flowshield.models.shields.diffusion import DiffusionShield
from flowshield.models.shields.flow_matching import FlowMatchingShield
from flowshield.models.shields.mixture import MixtureShield
from flowshield.models.shields.normal_mixture import NormalMixture
from flowshield.models.shields.projection import Projection, ProjectionSettings, scaled_distance
from flowshield.models.shields.quantile import QuantileShield

__all__ = [
    "BaseShield",
    "DiffusionShield",
    "FlowMatchingShield",
    "MixtureShield",
    "NormalMixture",
    "Projection",
    "ProjectionSettings",
    "QuantileShield",
    "conformal_threshold",
    "episodes_needed",
    "scaled_distance",
]
