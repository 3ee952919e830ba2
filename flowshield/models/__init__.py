"""The command-conditioned policy, the shields, and the policy under a shield."""

from flowshield.models.agent import UDRLAgent
from flowshield.models.commanded_policy import CommandedPolicy
from flowshield.models.intent import Intent, regret, return_range
from flowshield.models.shields import (
    BaseShield,
    DiffusionShield,
    FlowMatchingShield,
    MixtureShield,
    Projection,
    ProjectionSettings,
    QuantileShield,
)

__all__ = [
    "BaseShield",
    "CommandedPolicy",
    "DiffusionShield",
    "FlowMatchingShield",
    "Intent",
    "MixtureShield",
    "Projection",
    "ProjectionSettings",
    "QuantileShield",
    "UDRLAgent",
    "regret",
    "return_range",
]
