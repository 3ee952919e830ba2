"""Certifies that a guard does no harm: Learn then Test on paired rollouts.

A guard has a family of rules, ordered from the most cautious to the boldest; before all of them
comes "never replace a command", which harms nobody and needs no test. For each rule the null
hypothesis "its mean harm is above epsilon" is tested on episodes that trained and selected nothing,
in that order, until one is not rejected. The last rejected one is chosen. With probability
1 - delta over these episodes its mean harm is at most epsilon (Angelopoulos, Bates, Candès, Jordan
& Lei 2021, "Learn then Test", arXiv 2110.01052, fixed-sequence testing).

Two nulls belong to a rule, of utility and of failure, and it is certified only if both are
rejected at delta: of utility by a betting bound, of failure by an exact test, which for rates is
far more powerful. That needs no correction: where the rule does harm, one of the two is true, and
it alone is rejected wrongly with probability delta at most (an intersection-union test).
"""

__all__ = [
    "ASSUMPTIONS",
    "Bound",
    "Certificate",
    "Outcomes",
    "PairedLosses",
    "RuleTest",
    "betting_p_value",
    "certificate_text",
    "certify",
    "check_episodes",
    "hoeffding_bentkus_p_value",
    "least_episodes",
]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, NamedTuple, get_args, get_type_hints

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom, norm  # type: ignore[attr-defined]  # its __all__ is computed

from flowshield.errors import ConfigError, DataError, FileFormatError, ShapeError, unknown_name
from flowshield.evaluation.statistics import non_inferiority_test, non_inferiority_z
from flowshield.evaluation.wording import percent, short_number
from flowshield.models.intent import Intent

Bound = Literal["betting", "hoeffding_bentkus"]

ASSUMPTIONS: Final = (
    "The starts of deployment are exchangeable with those of the certificate's episodes.",
    "Requests are drawn in deployment as they were for the certificate.",
    "The policy, the shield and the outcome model stay what they were for the certificate.",
    "Every episode was run with the guard and without it from the same start, and trained and "
    "selected nothing.",
    "The episodes are independent of each other and are tested in the order of their numbers.",
    "Their number was fixed beforehand. Whoever tests again with more, because this test failed, "
    "must halve delta.",
    "Where harm is more than the whole range of returns, it counts as the whole range.",
)

_FORMAT_VERSION: Final = 1
_BOLDEST: Final = 0.95  # of the bet that a loss of 1 ruins: one leaves a twentieth of the capital
_PLANNED: Final = 2.0  # bets suit so many times log(1/delta) / epsilon episodes, or more
_RESAMPLES, _SUCCESS, _STEP, _MOST = 100, 0.8, 1.1, 100  # in the search for enough episodes
_SEED: Final = 0


class Outcomes(NamedTuple):
    """What n episodes got.

    Attributes:
        returns: Raw reward [n].
        steps: [n].
        failed: [n] bool, None where the environment knows no failure.
    """

    returns: ArrayLike
    steps: ArrayLike
    failed: ArrayLike | None


@dataclass(frozen=True, eq=False)
class PairedLosses:
    """What a guard cost in n episodes, each run with it and without it from the same start.

    Attributes:
        utility: Harm, utility without the guard minus utility with it, raw reward [n].
        failure: Failure harm, failed with it minus failed without it, -1, 0 or 1 [n]; None where
            the environment knows no failure.
        replaced: Whether the guard replaced a command in the episode, bool [n].

    Raises:
        DataError: A loss is NaN or infinite, or a failure harm is not -1, 0 or 1.
        ShapeError: The arrays are not [n] of one n.
    """

    utility: NDArray[np.float64]
    failure: NDArray[np.float64] | None
    replaced: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Checks all three arrays."""
        arrays = (self.utility, self.failure, self.replaced)
        shapes = [list(array.shape) for array in arrays if array is not None]
        if len(shapes[0]) != 1 or any(shape != shapes[0] for shape in shapes):
            raise ShapeError(f"expected paired losses of shape [n] with one n, got {shapes}")
        bad = int((~np.isfinite(self.utility)).sum())
        if bad:
            raise DataError(
                f"expected finite losses, got {bad} NaN or infinite of {self.utility.size}: find "
                "the episodes that made them"
            )
        if self.failure is not None and not np.isin(self.failure, (-1, 0, 1)).all():
            raise DataError("expected failure harms of -1, 0 or 1, got others: failed is a bool")

    @classmethod
    def of(
        cls,
        intent: Intent,
        commands: ArrayLike,
        unguarded: Outcomes,
        guarded: Outcomes,
        replaced: ArrayLike,
    ) -> "PairedLosses":
        """Compares the same episodes with and without the guard.

        Args:
            intent: What an outcome is worth.
            commands: (H, R) requested [n, 2].
            unguarded: What the requests got when nothing was replaced.
            guarded: What they got under the guard, from the same starts.
            replaced: Whether the guard replaced a command in the episode, bool [n].

        Raises:
            DataError: A loss is NaN or infinite, or failure is known of one side only.
            ShapeError: The arrays are not of one n.
        """
        if (unguarded.failed is None) != (guarded.failed is None):
            raise DataError("expected failures of both sides or of neither, got one side's")
        failure = None
        if unguarded.failed is not None and guarded.failed is not None:
            before, after = np.asarray(unguarded.failed), np.asarray(guarded.failed)
            failure = after.astype(np.float64) - before.astype(np.float64)
        lost = _utility(intent, unguarded, commands) - _utility(intent, guarded, commands)
        return cls(lost, failure, np.asarray(replaced, dtype=np.bool_))


@dataclass(frozen=True)
class RuleTest:
    """The test of one rule.

    Attributes:
        rule: The number that names it in the family.
        n: Paired episodes.
        mean_harm: Mean harm as a share of the return range, each within [-1, 1]; below 0 the
            guard helps.
        p_value: Of "the true mean harm is above epsilon", by the certificate's bound.
        mean_failure_harm: By how much the failure rate rises; None where failure is unknown.
        failure_p_value: Of "it rises by epsilon or more", by `non_inferiority_test`; None where
            failure is unknown.
        certified: Whether both were rejected at delta.
        share_replaced: Share of the episodes in which the guard replaced a command.
    """

    rule: float
    n: int
    mean_harm: float
    p_value: float
    mean_failure_harm: float | None
    failure_p_value: float | None
    certified: bool
    share_replaced: float


@dataclass(frozen=True)
class Certificate:
    """What a guard may do, and what is known of it.

    With probability 1 - delta over the certificate's episodes, the mean harm of the chosen rule is
    at most epsilon, and so is the rise of the failure rate where the environment knows failure.

    Attributes:
        epsilon: Mean harm that is allowed, as a share of the return range.
        delta: Probability with which the certificate may be wrong.
        n_episodes: Paired episodes of each test.
        return_range: Unit of harm, raw reward; see `flowshield.models.intent.return_range`.
        intent: What an outcome is worth.
        bound: Which p-value was used for utility, "betting" or "hoeffding_bentkus".
        tests: In the order of the family, up to the first that was not rejected.
        chosen: The boldest rule that is certified; None: never replace.
        episodes_that_would_do: Where nothing is certified, how many episodes certify the first
            rule in 4 of 5 cases if losses are like those seen; None where something is certified or
            where no number that can be run would do.
        assumptions: What it rests on, in sentences.
    """

    epsilon: float
    delta: float
    n_episodes: int
    return_range: float
    intent: Intent
    bound: str
    tests: tuple[RuleTest, ...]
    chosen: float | None
    episodes_that_would_do: int | None
    assumptions: tuple[str, ...] = ASSUMPTIONS

    def to_json(self) -> dict[str, Any]:
        """The certificate as an object that JSON can hold; `from_json` reads it back."""
        content = asdict(self)
        content["tests"] = list(content["tests"])
        content["assumptions"] = list(self.assumptions)
        return {"format_version": _FORMAT_VERSION, **content}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Certificate":
        """Reads what `to_json` gave.

        Raises:
            FileFormatError: The version is unknown, or a key is missing, unknown or of another
                type.
        """
        if not isinstance(content, Mapping) or content.get("format_version") != _FORMAT_VERSION:
            found = content.get("format_version") if isinstance(content, Mapping) else content
            raise FileFormatError(
                f"expected a certificate of format version {_FORMAT_VERSION}, got {found!r:.40}: "
                "certify again with this release"
            )
        entries = _entries(cls, {k: v for k, v in content.items() if k != "format_version"})
        try:
            entries["intent"] = Intent(**_entries(Intent, entries["intent"]))
        except ConfigError as error:
            raise FileFormatError(f"a certificate's intent: {error}") from error
        entries["tests"] = tuple(RuleTest(**_entries(RuleTest, one)) for one in entries["tests"])
        if not all(isinstance(one, str) for one in entries["assumptions"]):
            raise FileFormatError("expected assumptions in sentences, got others: certify again")
        return cls(**entries | {"assumptions": tuple(entries["assumptions"])})


def certify(
    family: Sequence[float],
    losses: Callable[[float], PairedLosses],
    *,
    return_range: float,
    intent: Intent,
    epsilon: float = 0.02,
    delta: float = 0.05,
    bound: Bound = "betting",
) -> Certificate:
    """Chooses the boldest rule that is certified to do no harm.

    Args:
        family: The rules that replace commands, from the most cautious to the boldest. "Never
            replace" comes before them and is not listed: it needs no test.
        losses: Gives the paired losses of a rule. It is called in order, only until a rule is not
            certified; the same episodes for every rule.
        return_range: Unit of harm, raw reward > 0.
        intent: What the losses were computed with; the certificate states it.
        epsilon: Mean harm that is allowed, as a share of `return_range`; rise of the failure rate
            that is allowed. In (0, 0.5].
        delta: Probability with which the certificate may be wrong, in (0, 1).
        bound: Of utility: "betting" or "hoeffding_bentkus", which counts no gain and needs more
            episodes.

    Raises:
        ConfigError: An argument is out of range, or the family is empty or names a rule twice.
        DataError: There are fewer than `least_episodes` pairs, not the same number for every rule,
            or failure is known for some rules only.
    """
    _check_arguments(family, return_range, epsilon, delta, bound)
    tests: list[RuleTest] = []
    shares: list[_Shares] = []
    for rule in family:
        found = losses(rule)
        check_episodes(found.utility.size, epsilon, delta)
        shares.append(_Shares.of(found, return_range))
        if shares[-1].kind != shares[0].kind:
            raise DataError(
                f"expected the same episodes for every rule, got {shares[0].kind} for "
                f"{family[0]:g} and {shares[-1].kind} for {rule:g}"
            )
        tests.append(_test(rule, shares[-1], float(found.replaced.mean()), epsilon, delta, bound))
        if not tests[-1].certified:
            break
    passed = [test.rule for test in tests if test.certified]
    return Certificate(
        epsilon=epsilon,
        delta=delta,
        n_episodes=tests[0].n,
        return_range=return_range,
        intent=intent,
        bound=bound,
        tests=tuple(tests),
        chosen=passed[-1] if passed else None,
        episodes_that_would_do=None if passed else _enough(shares[0], epsilon, delta, bound),
    )


def betting_p_value(losses: ArrayLike, epsilon: float, delta: float = 0.05) -> NDArray[np.float64]:
    """P-value of "the mean is above epsilon": one over the most that a gambler ever had.

    Before each loss x the gambler, who starts with 1, bets a share of the capital that x is below
    epsilon: the capital is multiplied by 1 + bet (epsilon - x). While the mean is epsilon or more
    it cannot be expected to grow, so that by Ville's inequality it ever reaches 1/p with
    probability p at most: whatever the bets, for each number of losses and for all at once. The
    bets are the predictable plug-in of Waudby-Smith & Ramdas (2020, arXiv 2010.09686),

        bet_t = sqrt(2 log(1/delta) / (v max(t, m)))  and at most  0.95 / (1 - epsilon)

    with v the variance of the losses before t and of one more, of variance epsilon (1 - epsilon)^2,
    and m = 2 log(1/delta) / epsilon, about twice `least_episodes`. So bets begin with the largest,
    stay there while losses hardly vary, as those of a guard do, and are smaller where they do.
    Theirs have t log(1 + t) in place of max(t, m) and 1/4 as the first variance, and certify less
    often. 0.99 would need 150 losses of 0 where 0.95 needs 157, but a loss of 1 would cost more.

    Args:
        losses: Within [-1, 1], independent, in an order fixed beforehand [..., n].
        epsilon: Mean of the null hypothesis, in (0, 1).
        delta: Level for which the bets are made; the p-value is valid at any level.

    Returns:
        [...], within [0, 1].
    """
    x = np.asarray(losses, dtype=np.float64)
    before = np.arange(x.shape[-1])
    mean = (np.cumsum(x, -1) - x) / (before + 1)
    square = (epsilon * (1 - epsilon) ** 2 + np.cumsum(x * x, -1) - x * x) / (before + 1)
    planned = np.maximum(before + 1, _PLANNED * math.log(1 / delta) / epsilon)
    bet = np.sqrt(2 * math.log(1 / delta) / ((square - mean**2) * planned))
    growth = np.log1p(np.minimum(bet, _BOLDEST / (1 - epsilon)) * (epsilon - x))
    most = np.cumsum(growth, -1).max(-1, initial=0.0)
    return np.asarray(np.exp(-most))


def hoeffding_bentkus_p_value(losses: ArrayLike, epsilon: float) -> NDArray[np.float64]:
    """P-value of "the mean is above epsilon" that sees only the mean loss.

    The smaller of Hoeffding's and Bentkus' bounds (Bates, Angelopoulos, Lei, Malik & Jordan 2021,
    arXiv 2101.02703). They are for [0, 1]. So a gain counts as a loss of 0: that raises the
    mean, and the p-value stays valid. (Losses moved to (x + 1) / 2 would need 15,000 episodes
    without any loss where this needs 149.)

    Args:
        losses: Within [-1, 1], independent [..., n].
        epsilon: Mean of the null hypothesis, in (0, 1).

    Returns:
        [...], within [0, 1].
    """
    total = np.maximum(np.asarray(losses, dtype=np.float64), 0.0).sum(-1)
    n = np.shape(losses)[-1]
    mean = np.minimum(total / n, epsilon)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.where(mean > 0, mean * np.log(mean / epsilon), 0.0)
        relative_entropy = below + (1 - mean) * np.log((1 - mean) / (1 - epsilon))
    # the sum's rounding must not count as one loss more
    bentkus = math.e * binom.cdf(np.ceil(np.round(total, 9)), n, epsilon)
    return np.asarray(np.minimum(np.exp(-n * relative_entropy), np.minimum(bentkus, 1.0)))


def least_episodes(epsilon: float, delta: float) -> int:
    """Paired episodes with which a rule that never changes an outcome is certified: 157 by default.

    No valid test needs fewer than 149 there: a loss of 1 that comes with probability
    epsilon stays unseen in n episodes with probability (1 - epsilon)^n, above delta up to n = 148.
    A guard that helps much could be certified with fewer; `certify` asks for as many anyway.

    Args:
        epsilon: Mean harm that is allowed, in (0, 0.5].
        delta: Probability with which the certificate may be wrong, in (0, 1).

    Raises:
        ConfigError: Either is out of range.
    """
    _check_levels(epsilon, delta)
    return math.ceil(math.log(1 / delta) / math.log1p(_BOLDEST * epsilon / (1 - epsilon)))


def check_episodes(n_episodes: int, epsilon: float, delta: float) -> None:
    """Refuses fewer episodes than can certify anything that harms nobody; free, so call it early.

    Raises:
        ConfigError: `epsilon` or `delta` is out of range.
        DataError: There are too few.
    """
    least = least_episodes(epsilon, delta)
    if n_episodes < least:
        raise DataError(
            f"expected at least {least} certificate episodes for epsilon {epsilon:g} and delta "
            f"{delta:g}, got {n_episodes}: even a rule without any harm cannot be certified with "
            "fewer. Ask for more, or allow a larger epsilon or delta"
        )


def certificate_text(certificate: Certificate) -> str:
    """The certificate in plain English: its sentence, then the assumptions, one a line."""
    certified = certificate.chosen is not None
    sentence = _certified_text(certificate) if certified else _refused_text(certificate)
    lines = [sentence, "It assumes:" if certified else "The test assumes:"]
    return "\n".join([*lines, *(f"- {assumption}" for assumption in certificate.assumptions)])


class _Shares(NamedTuple):
    """The losses that are tested, each within [-1, 1] [n]."""

    utility: NDArray[np.float64]
    failure: NDArray[np.float64] | None

    @classmethod
    def of(cls, losses: PairedLosses, return_range: float) -> "_Shares":
        return cls(np.clip(losses.utility / return_range, -1, 1), losses.failure)

    @property
    def kind(self) -> str:
        knows = "without" if self.failure is None else "with"
        return f"{self.utility.size} pairs {knows} failures"


def _utility(intent: Intent, got: Outcomes, commands: ArrayLike) -> NDArray[np.float64]:
    arrays = [np.asarray(one, dtype=np.float64) for one in (got.returns, got.steps, commands)]
    returns, steps, asked = arrays
    if returns.ndim != 1 or returns.shape != steps.shape or asked.shape != (returns.size, 2):
        shapes = [list(array.shape) for array in arrays]
        raise ShapeError(f"expected returns [n], steps [n] and commands [n, 2], got {shapes}")
    tensors = [torch.from_numpy(array) for array in arrays]
    utility: NDArray[np.float64] = intent.utility(*tensors).numpy()
    return utility


def _p_value(losses: ArrayLike, epsilon: float, delta: float, bound: Bound) -> NDArray[np.float64]:
    if bound == "betting":
        return betting_p_value(losses, epsilon, delta)
    return hoeffding_bentkus_p_value(losses, epsilon)


def _test(
    rule: float, shares: _Shares, share_replaced: float, epsilon: float, delta: float, bound: Bound
) -> RuleTest:
    failure, p_value = shares.failure, float(_p_value(shares.utility, epsilon, delta, bound))
    worse = None if failure is None else non_inferiority_test(failure > 0, failure < 0, epsilon)
    return RuleTest(
        rule=float(rule),
        n=shares.utility.size,
        mean_harm=float(shares.utility.mean()),
        p_value=p_value,
        mean_failure_harm=None if worse is None else worse.mean_difference,
        failure_p_value=None if worse is None else worse.p_value,
        certified=max(p_value, 0.0 if worse is None else worse.p_value) <= delta,
        share_replaced=share_replaced,
    )


def _enough(shares: _Shares, epsilon: float, delta: float, bound: Bound) -> int | None:
    """Episodes that would have certified the rule, by resampling those seen.

    Numbers are tried in steps of 10%, up to 100 times the least. Of failures the score of the exact
    test is taken as normal, which is as good here and much quicker.
    """
    utility, failure = shares.utility, shares.failure
    if utility.mean() >= epsilon or (failure is not None and failure.mean() >= epsilon):
        return None
    rng = np.random.default_rng(_SEED)
    enough = utility.size
    while enough <= _MOST * least_episodes(epsilon, delta):
        enough = math.ceil(_STEP * enough)
        drawn = rng.integers(utility.size, size=(_RESAMPLES, enough))
        passed = _p_value(utility[drawn], epsilon, delta, bound) <= delta
        if failure is not None:
            more, less = ((sign * failure[drawn] > 0).sum(axis=1) for sign in (1, -1))
            passed &= norm.cdf(non_inferiority_z(more, less, enough, epsilon)) <= delta
        if passed.mean() >= _SUCCESS:
            return enough
    return None


def _certified_text(certificate: Certificate) -> str:
    test = next(test for test in certificate.tests if test.rule == certificate.chosen)
    allowed = _share(certificate.epsilon)
    worth = short_number(float(f"{certificate.epsilon * certificate.return_range:.3g}"))
    failure = (
        ". The environment knows no failure, so nothing is said of failures"
        if test.mean_failure_harm is None
        else f", and raises the failure rate by at most {allowed}"
    )
    return (
        f"With {_share(1 - certificate.delta)} confidence, the guard's rule "
        f"{short_number(test.rule)} harms by at most {allowed} of the range of returns ({worth}) "
        f"on average{failure}. {_seen(certificate, test)}."
    )


def _refused_text(certificate: Certificate) -> str:
    test, enough = certificate.tests[0], certificate.episodes_that_would_do
    means = [test.mean_harm, test.mean_failure_harm or 0.0]
    if enough is not None:
        advice = f"About {enough} episodes would certify it, if their losses are like these"
    elif max(means) >= certificate.epsilon:
        advice = "That is not below what is allowed: more episodes like these do not help"
    else:
        advice = (
            "That is too close to what is allowed: more than "
            f"{_MOST * least_episodes(certificate.epsilon, certificate.delta)} episodes are needed"
        )
    return (
        "Nothing is certified, so the guard does not replace any command. Its most cautious rule, "
        f"{short_number(test.rule)}, would have to be shown to harm by at most "
        f"{_share(certificate.epsilon)} with {_share(1 - certificate.delta)} confidence. "
        f"{_seen(certificate, test)}. {advice}."
    )


def _seen(certificate: Certificate, test: RuleTest) -> str:
    harm = f"mean harm {_signed(test.mean_harm)} of the range (p = {test.p_value:.2g})"
    if test.mean_failure_harm is not None and test.failure_p_value is not None:
        rise = _signed(test.mean_failure_harm)
        harm += f", failure rate {rise} (p = {test.failure_p_value:.2g})"
    return (
        f"Seen in {certificate.n_episodes} paired episodes: {harm}, "
        f"a command replaced in {percent(test.share_replaced)}"
    )


def _share(share: float) -> str:
    return f"{short_number(float(f'{100 * share:.4g}'))}%"


def _signed(share: float) -> str:
    return f"{100 * share:+.2f}%".replace("-", "−")


def _check_levels(epsilon: float, delta: float) -> None:
    if not 0 < epsilon <= 0.5:
        raise ConfigError(f"expected epsilon in (0, 0.5], got {epsilon}: 0.02 is usual")
    if not 0 < delta < 1:
        raise ConfigError(f"expected delta in (0, 1), got {delta}: 0.05 is usual")


def _check_arguments(
    family: Sequence[float], return_range: float, epsilon: float, delta: float, bound: Bound
) -> None:
    _check_levels(epsilon, delta)
    if bound not in get_args(Bound):
        raise unknown_name("bound", bound, get_args(Bound))
    if not family or len(set(family)) < len(family) or not all(map(math.isfinite, family)):
        raise ConfigError(
            f"expected a family of different finite numbers, got {list(family)}: leave out "
            "'never replace', which needs no test"
        )
    if not 0 < return_range < math.inf:
        raise ConfigError(
            f"expected a finite return_range > 0, got {return_range}: where all returns of the "
            "data are equal, harm has no unit and nothing can be certified"
        )


def _entries(cls: type, content: Any) -> dict[str, Any]:
    """The entries of a dataclass in JSON, no key more or less, each of its type."""
    names = [field.name for field in fields(cls)]
    if not isinstance(content, Mapping) or set(content) != set(names):
        found = sorted(map(str, content)) if isinstance(content, Mapping) else content
        raise FileFormatError(
            f"expected the keys {', '.join(names)} of {cls.__name__}, got {found!r:.200}: "
            "certify again"
        )
    for name, hint in get_type_hints(cls).items():
        if not isinstance(content[name], _JSON_TYPES[hint]) or (
            hint is not bool and isinstance(content[name], bool)
        ):
            raise FileFormatError(
                f"expected {name} of {cls.__name__} as {getattr(hint, '__name__', hint)}, got "
                f"{content[name]!r:.40}: certify again"
            )
    return dict(content)


_JSON_TYPES: Final[Mapping[Any, tuple[type, ...]]] = {
    bool: (bool,),
    int: (int,),
    float: (float, int),
    str: (str,),
    float | None: (float, int, type(None)),
    int | None: (int, type(None)),
    Intent: (Mapping,),
    tuple[RuleTest, ...]: (list,),
    tuple[str, ...]: (list,),
}
