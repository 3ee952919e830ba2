"""Overrides that make a run of the LunarLander small enough for a test."""

TINY = [
    "data.n_episodes=80",
    "n_epochs=1",
    "shield_epochs=1",
    "calibration.alpha=0.1",
    "model.hidden_dim=32",
    "evaluation.n_episodes=3",
    "evaluation.n_states=60",
    "evaluation.explorer.n_episodes=0",
    "probe.n_episodes=76",
    "probe.n_steps=20",
    "certificate.n_episodes=5",
    "certificate.epsilon=0.5",
    "certificate.delta=0.5",
    "evaluation.followed.n_starts=3",
    "evaluation.followed.n_commands=2",
    "env.commands=[[200,280],[1000,280]]",
    "device=cpu",
]
