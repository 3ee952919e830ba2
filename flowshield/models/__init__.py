"""The command-conditioned policy, the shields, what a policy gets, and acting under a guard."""

from flowshield.models.agent import UDRLAgent
from flowshield.models.intent import Intent, regret, return_range
from flowshield.models.outcome import Outcome, OutcomeModel
from flowshield.models.policy import (
    CommandedPolicy,
    Guard,
    OutcomeGuard,
    ShieldedPolicy,
    SupportGuard,
)
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
    "Guard",
    "Intent",
    "MixtureShield",
    "Outcome",
    "OutcomeGuard",
    "OutcomeModel",
    "Projection",
    "ProjectionSettings",
    "QuantileShield",
    "ShieldedPolicy",
    "SupportGuard",
    "UDRLAgent",
    "regret",
    "return_range",
]
