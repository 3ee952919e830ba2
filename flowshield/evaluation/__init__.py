"""What agents and shields are worth: rollouts, detection, calibration, statistics, report."""

from flowshield.evaluation.agent import Cell, EvaluatedEpisode, evaluate_agent, run_episode
from flowshield.evaluation.agent_behaviour import AgentBehaviour
from flowshield.evaluation.answer import Answer, ask_shield
from flowshield.evaluation.answer_wording import answer_lines
from flowshield.evaluation.cell_grid import UNSHIELDED
from flowshield.evaluation.certificate import (
    Certificate,
    Outcomes,
    PairedLosses,
    RuleTest,
    certificate_text,
    certify,
    check_episodes,
    least_episodes,
)
from flowshield.evaluation.command_plane import CommandPlane, plot_projection
from flowshield.evaluation.dataset_card import dataset_record
from flowshield.evaluation.evaluator import Evaluator, Measurement, Subjects
from flowshield.evaluation.figures import (
    plot_calibration,
    plot_ood_detection,
    plot_returns,
    plot_training_curves,
)
from flowshield.evaluation.follow import Followed, evaluate_followed
from flowshield.evaluation.follow_figure import plot_followed
from flowshield.evaluation.follow_record import followed_record
from flowshield.evaluation.follow_wording import followed_lines, followed_markdown_table
from flowshield.evaluation.known_answer import contrast_commands, evaluate_known_answer
from flowshield.evaluation.lent_bound import lend_return_bound
from flowshield.evaluation.metrics import MetricsTracker, auc_roc, f1_score
from flowshield.evaluation.moments_figure import plot_moments
from flowshield.evaluation.plane import moment_planes, plane_at, typical_episode
from flowshield.evaluation.projection import evaluate_projection
from flowshield.evaluation.promise import FalseAlarms, false_alarms
from flowshield.evaluation.records import cell_record, shield_record
from flowshield.evaluation.report import write_report
from flowshield.evaluation.shield import evaluate_shield
from flowshield.evaluation.statistics import (
    ConfidenceInterval,
    clopper_pearson,
    mcnemar_test,
    paired_difference,
    paired_t_test,
    sign_flip_test,
    wilcoxon_test,
)
from flowshield.evaluation.summary import verdict_lines
from flowshield.evaluation.supported import supported_commands
from flowshield.evaluation.sweep_figure import plot_sweep
from flowshield.evaluation.sweep_score import ShieldJudge, sweep_score
from flowshield.evaluation.sweep_table import ranked, sweep_markdown_table, sweep_table
from flowshield.evaluation.tables import detection_table, markdown_table, results_table
from flowshield.evaluation.yardstick import Yardstick

__all__ = [
    "AgentBehaviour",
    "Answer",
    "Cell",
    "Certificate",
    "CommandPlane",
    "ConfidenceInterval",
    "EvaluatedEpisode",
    "Evaluator",
    "FalseAlarms",
    "Followed",
    "Measurement",
    "MetricsTracker",
    "Outcomes",
    "PairedLosses",
    "RuleTest",
    "ShieldJudge",
    "Subjects",
    "Yardstick",
    "UNSHIELDED",
    "answer_lines",
    "ask_shield",
    "auc_roc",
    "cell_record",
    "certificate_text",
    "certify",
    "check_episodes",
    "clopper_pearson",
    "contrast_commands",
    "dataset_record",
    "detection_table",
    "evaluate_agent",
    "evaluate_followed",
    "evaluate_known_answer",
    "evaluate_projection",
    "evaluate_shield",
    "f1_score",
    "false_alarms",
    "followed_lines",
    "followed_markdown_table",
    "followed_record",
    "least_episodes",
    "lend_return_bound",
    "markdown_table",
    "mcnemar_test",
    "moment_planes",
    "paired_difference",
    "paired_t_test",
    "plane_at",
    "plot_calibration",
    "plot_followed",
    "plot_moments",
    "plot_ood_detection",
    "plot_projection",
    "plot_returns",
    "plot_sweep",
    "plot_training_curves",
    "ranked",
    "results_table",
    "run_episode",
    "shield_record",
    "sign_flip_test",
    "supported_commands",
    "sweep_markdown_table",
    "sweep_score",
    "sweep_table",
    "typical_episode",
    "verdict_lines",
    "wilcoxon_test",
    "write_report",
]
