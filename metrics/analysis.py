"""What a study says and what it does not: means with intervals, paired tests, rankings, a floor, and all of it in sentences.

Everything compares methods on the same images. An image that is undefined for one method is dropped for all and counted;
a method that is undefined on every image is left out and named. An infinite score is an undefined one.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, get_args

import numpy as np
import pandas as pd
from attriscope.attribution import attributor as methods

from . import statistics
from .metric import REGISTRY
from .statistics import Floats

Test: TypeAlias = Literal["wilcoxon", "nemenyi"]
LEVEL = 0.95
COSTS = ["forwards", "backwards", "seconds"]
NAMED = 3  # methods that a sentence names before it counts the others
HUGE = 1e90  # from here on a score is infinite: the cubes that a bootstrap takes would be
BINARY = ("pointing_game",)  # metrics that give hits and misses even if all are hits; a tie may still be a share

__all__ = [
    "Floor",
    "Ranking",
    "Reliability",
    "Studied",
    "about",
    "controls",
    "floor",
    "leaderboard",
    "pairs",
    "ranking",
    "reliability",
    "sentences",
    "summary",
]


class Studied(Protocol):
    """What is asked of a study."""

    @property
    def scores(self) -> pd.DataFrame:
        """`image`, `method`, `metric`, `score`."""

    @property
    def costs(self) -> pd.DataFrame:
        """`image`, `method`, `forwards`, `backwards`, `seconds`."""

    @property
    def methods(self) -> Mapping[str, Any]:
        """Configurations by label."""

    @property
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """Protocols by label."""


@dataclass(frozen=True)
class Ranking:
    """Methods by their mean rank within images.

    Attributes:
        metric: Under which metric.
        methods: The best first; equals by their labels.
        mean_ranks: Of each, 1 the best that can be.
        friedman_p: Of Iman and Davenport's test that no method differs; NaN for one method or image.
        cliques: Groups of neighbours of which no two are told apart, as large as can be.
        outside: Pairs that are not told apart either, though somebody between them is.
        critical_difference: Nemenyi's; `None` with Wilcoxon's test.
        images: That are defined for all.
        dropped: Images that are not.
        undefined: Methods that no image is defined for: they have no rank.
        test: Which.
        level: 1 - level is the chance that any two methods are told apart wrongly.
    """

    metric: str
    methods: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    friedman_p: float
    cliques: tuple[tuple[str, ...], ...]
    outside: tuple[tuple[str, str], ...]
    critical_difference: float | None
    images: int
    dropped: int
    undefined: tuple[str, ...]
    test: Test
    level: float


@dataclass(frozen=True)
class Floor:
    """What methods that know nothing of the network reach.

    Attributes:
        control: The best control.
        mean: Its mean score.
        above: Methods that are better.
        unclear: Methods that are not told apart from it.
        below: Methods that are worse.
    """

    control: str
    mean: float
    above: tuple[str, ...]
    unclear: tuple[str, ...]
    below: tuple[str, ...]


class Reliability(NamedTuple):
    """Whether a metric orders the methods alike on all images.

    Attributes:
        agreement: The mean Spearman correlation of the methods' order on one image with that on another.
        split_half: The mean Spearman correlation of the order of the means on one half of the images with the other's.
        images: That are defined for all methods.
        dropped: Images that are not.
    """

    agreement: float
    split_half: float
    images: int
    dropped: int


# -- tables ------------------------------------------------------------------------------------------------------------


def summary(
    study: Studied,
    *,
    level: float = LEVEL,
    seed: int = 0,
    metrics: Sequence[str] | None = None,
    clusters: Sequence[Any] | None = None,
) -> pd.DataFrame:
    """One row per metric and method, the best first; each over all images that it is defined for.

    Args:
        study: What `metrics.compare` returned.
        level: Of the interval over images.
        seed: Of the bootstrap.
        metrics: Which; `None`: all.
        clusters: An id for each image of the study, where images depend on each other.

    Returns:
        Indexed by `metric` and `method`: `mean`, `low` and `high` (the interval), `rank` of the mean (1 is best; ties share
        the better one), `images` that the metric is defined for, `undefined` images (an infinite score is counted here),
        `interval` (how it was made: "bca", "wilson" for hits and misses, or "none"), `forwards`, `backwards` and `seconds`
        per image of the method. Scores are hits and misses if the metric goes from 0 to 1 and nothing lies between in the
        whole table: a method that never hits has Wilson's interval where others hit.

    Raises:
        ValueError: There is no such metric.
    """
    costs = study.costs.groupby("method")[COSTS].mean().reindex(list(study.methods))
    parts = []
    for name in study.metrics if metrics is None else metrics:
        table = _table(study, name)
        hits = _hits(study.metrics[name], table)
        ids = _clusters(clusters, table)
        low, high = statistics.interval(table.to_numpy(), level=level, hits=hits, seed=seed, clusters=ids)
        made = "wilson" if hits and clusters is None else "bca"
        mean, higher = _means(table), study.metrics[name]["higher_is_better"]
        part = pd.DataFrame(
            {
                "mean": mean,
                "low": low,
                "high": high,
                "rank": mean.rank(method="min", ascending=not higher) if higher is not None else math.nan,
                "images": table.notna().sum(),
                "undefined": table.isna().sum(),
                "interval": np.where(np.isnan(low), "none", made),
            }
        )
        part = part.join(costs).sort_values("rank", kind="stable")
        part.index = pd.MultiIndex.from_product([[name], part.index], names=["metric", "method"])
        parts.append(part)
    if not parts:
        columns = ["mean", "low", "high", "rank", "images", "undefined", "interval", *COSTS]
        return pd.DataFrame(columns=columns, index=pd.MultiIndex.from_arrays([[], []], names=["metric", "method"]))
    return pd.concat(parts)


def pairs(
    study: Studied, metric: str, *, level: float = LEVEL, seed: int = 0, clusters: Sequence[Any] | None = None
) -> pd.DataFrame:
    """One row for every two methods, compared on the images that are defined for all.

    Args:
        study: What `metrics.compare` returned.
        metric: Which.
        level: Of the intervals; 1 - level is the chance that the corrected tests tell any two apart wrongly.
        seed: Of the bootstrap and of the sign flips.
        clusters: An id for each image of the study, where images depend on each other.

    Returns:
        `a` and `b` (`a` has the better mean; of equals it is the first by its label), `images`, `dropped`, `difference` (by
        how much `a` is better, in the metric's units, never negative), `low` and `high` (its interval), `p` (of a sign-flip
        test), `p_holm` (corrected for all pairs of this metric), `better` (how likely `a` is better on an image, equal
        counting half) and `needed`: about how many more images would tell them apart, 4 times in 5, if the difference is
        what it seems. 0 where they are told apart, infinite where there is no difference.

    Raises:
        ValueError: There is no such metric, or neither higher nor lower is better.
    """
    return _pairs(_Support.of(study, metric), level, seed, clusters)


def ranking(
    study: Studied,
    metric: str,
    *,
    test: Test = "wilcoxon",
    level: float = LEVEL,
    clusters: Sequence[Any] | None = None,
) -> Ranking:
    """Methods by their mean rank within images, and which of them are not told apart.

    Args:
        study: What `metrics.compare` returned.
        metric: Which.
        test: "wilcoxon" (signed ranks of every two methods, Holm's correction) or "nemenyi" (one critical difference of mean
            ranks, which depends on who else is compared).
        level: 1 - level is the chance that any two methods are told apart wrongly.
        clusters: An id for each image of the study, where images depend on each other: ranks are of the clusters' means.

    Raises:
        ValueError: There is no such metric or test.
    """
    if test not in get_args(Test):
        raise ValueError(f"test={test!r}: choose one of {', '.join(get_args(Test))}")
    support = _Support.of(study, metric)
    scores = support.oriented().sort_index(axis=1)  # so that equals do not depend on the order of methods
    if clusters is not None:
        scores = scores.groupby(_clusters(clusters, scores)).mean()
    found = scores.to_numpy()
    ranks = statistics.ranks(found)
    n, k = ranks.shape
    means = ranks.mean(0) if n else np.full(k, math.nan)
    critical = None
    if test == "nemenyi" and k > 1 and n:
        critical = statistics.nemenyi(k, n, level)
        apart = np.abs(means[:, None] - means) >= critical
    else:
        apart = statistics.wilcoxon_holm(found) < _alpha(level)
    order = np.argsort(means, kind="stable")
    groups = statistics.cliques(means, apart)
    together = {pair for group in groups for pair in itertools.combinations(group, 2)}
    labels = [str(m) for m in scores.columns]
    return Ranking(
        metric=metric,
        methods=tuple(labels[i] for i in order),
        mean_ranks=tuple(float(means[i]) for i in order),
        friedman_p=statistics.friedman(ranks).p,
        cliques=tuple(tuple(labels[i] for i in group) for group in groups),
        outside=tuple(
            (labels[i], labels[j])
            for i, j in itertools.combinations(order, 2)
            if not apart[i, j] and (i, j) not in together
        ),
        critical_difference=critical,
        images=len(support.table),
        dropped=support.dropped,
        undefined=support.undefined,
        test=test,
        level=level,
    )


def reliability(study: Studied, metric: str, *, seed: int = 0) -> Reliability:
    """Whether a metric orders the methods alike on all images.

    Low agreement is not a fault by itself, since methods may suit different images; it says how little one image tells.

    Args:
        study: What `metrics.compare` returned.
        metric: Which.
        seed: Of the split into halves.

    Raises:
        ValueError: There is no such metric, or neither higher nor lower is better.
    """
    support = _Support.of(study, metric)
    scores = support.oriented().to_numpy()
    return Reliability(
        statistics.agreement(statistics.ranks(scores)),
        statistics.split_half(scores, seed=seed),
        len(scores),
        support.dropped,
    )


def leaderboard(study: Studied) -> pd.DataFrame:
    """One row per method over all metrics for which a better map must score better, the best first.

    Methods are ranked by their means under each metric, on the images that are defined for all, equals sharing the mean rank.
    A metric that is there several times, with several baselines, counts once: with its mean rank. Who wins depends on the
    baseline, so look at the spread; and a method that searched with a metric's own baseline looks better there than it is.

    A method must not gain by scores that it lacks: where it has none at all and others have, its rank is the worst that can
    be, the number of methods. Mind such a rank: it says that there is no score, and not that the map is worse.

    Returns:
        Indexed by `method`: `rank` (the mean over metrics), `best` and `worst` (the spread over everything measured),
        `metrics` (under how many it is defined), `undefined` (under how many it is not though others are), `control`
        (whether it knows nothing of the network), `own_baseline` (the labels of metrics whose baseline is the method's own),
        `rank/LABEL` for everything measured, and `mean/NAME` for every metric, over its baselines.
    """
    labels = [label for label, facts in study.metrics.items() if _counts(facts)]
    ranks = pd.DataFrame(index=pd.Index(list(study.methods), name="method"), columns=labels, dtype=np.float64)
    for label in labels:
        ranks[label] = _means(_Support.of(study, label).oriented()).rank(ascending=False)
    lacking = ranks.isna() & ranks.notna().any()
    defined = ranks.notna().sum(axis=1)
    ranks = ranks.mask(lacking, float(len(ranks)))
    names = pd.Series([str(study.metrics[label].get("name", label)) for label in labels], index=labels, dtype=object)
    means = pd.DataFrame({name: ranks[own.index].mean(axis=1) for name, own in names.groupby(names, sort=False)})
    means = means.reindex(ranks.index)
    known = controls(study)
    table = pd.DataFrame(
        {
            "rank": means.mean(axis=1),
            "best": ranks.min(axis=1),
            "worst": ranks.max(axis=1),
            "metrics": defined,
            "undefined": lacking.sum(axis=1),
            "control": [m in known for m in ranks.index],
            "own_baseline": [
                tuple(k for k in labels if _own_baseline(study.methods[m], study.metrics[k])) for m in ranks.index
            ],
        },
        index=ranks.index,
    )
    table = table.join(ranks.add_prefix("rank/")).join(means.add_prefix("mean/"))
    return table.sort_values("rank", kind="stable")


def controls(study: Studied) -> tuple[str, ...]:
    """Labels of the methods that know nothing of the network: those of the family "control"."""
    return tuple(label for label, facts in study.methods.items() if _family(_name(label, facts)) == "control")


def floor(study: Studied, metric: str, *, level: float = LEVEL, seed: int = 0) -> Floor | None:
    """The best control, and which methods are not told apart from it; `None` where the study has no control.

    Args:
        study: What `metrics.compare` returned.
        metric: Which.
        level: 1 - level is the chance that any two methods are told apart wrongly.
        seed: Of the sign flips.

    Raises:
        ValueError: There is no such metric, or neither higher nor lower is better.
    """
    support = _Support.of(study, metric)
    return _floor(study, support, _pairs(support, level, seed, None), level)


# -- in words ----------------------------------------------------------------------------------------------------------


def sentences(
    study: Studied, metric: str, *, level: float = LEVEL, seed: int = 0, compared: pd.DataFrame | None = None
) -> list[str]:
    """What is known under a metric and what is not, in one to four sentences.

    Args:
        study: What `metrics.compare` returned.
        metric: Which.
        level: Of the interval and of the tests, which are corrected for all pairs.
        seed: Of the bootstrap and of the sign flips.
        compared: What `pairs` gives for these arguments, where that is at hand.

    Raises:
        ValueError: There is no such metric, or neither higher nor lower is better.
    """
    support = _Support.of(study, metric)
    if support.table.empty:
        reason = "no image is defined for all methods" if support.table.columns.size else "no method has a score"
        return [f"Nothing can be said of {metric}: {reason}."]
    table = _pairs(support, level, seed, None) if compared is None else compared
    means = _means(support.oriented())
    best = [str(m) for m in means.index[means == means.max()]]
    said = [_first(study, support, best, level, seed)]
    if len(support.table) == 1:
        return [*said, "One image is not enough to tell methods apart."]
    if len(table):
        said += _against(table, best, level, len(support.table))
    found = _floor(study, support, table, level)
    if found is not None and (found.above or found.unclear or found.below):
        said.append(_above(found))
    return said


def _first(study: Studied, support: "_Support", best: Sequence[str], level: float, seed: int) -> str:
    """Who is best, with its mean and the images that it stands on; or who share the best mean."""
    scores = support.table[list(best)]
    ends = np.transpose(statistics.interval(scores.to_numpy(), level=level, hits=support.hits, seed=seed))
    between = {"" if np.isnan(low) else f" [{low:.3g}, {high:.3g}]" for low, high in ends}
    has = "has the best" if len(best) == 1 else "have the same best"
    direction = "higher" if support.higher else "lower"
    text = f"{_listed(best)} {has} mean {support.metric} ({direction} is better), {_means(scores).iloc[0]:.3g}"
    text += (between.pop() if len(between) == 1 else "") + f" on {_images(len(scores))}"
    blind = [m for m in best if m in controls(study)]
    if len(best) == 1 and blind:
        text += ", and it is a control, which knows nothing of the network"
    elif len(blind) == 1:
        text += f", and {blind[0]} is a control, which knows nothing of the network"
    elif blind:
        who = "all" if len(blind) == len(best) else _listed(blind)
        text += f", and {who} are controls, which know nothing of the network"
    if support.dropped:
        text += f"; {_images(support.dropped)} on which a method is undefined {_are(support.dropped)} left out for all"
    if support.undefined:
        text += f"; {_listed(support.undefined)} {_are(len(support.undefined))} undefined on every image"
    return text + "."


def _against(table: pd.DataFrame, best: Sequence[str], level: float, images: int) -> list[str]:
    """Whom the best are better than, each of them, and whom they cannot be told apart from."""
    own = table[table["a"].isin(best) & ~table["b"].isin(best)]
    own = (
        own.groupby("b", sort=False)[["p_holm", "needed"]].max().reset_index()
    )  # the hardest of those that share the mean
    sure = own["p_holm"] < _alpha(level)
    it, them = ("It is", "it") if len(best) == 1 else ("Each is", "all of them")
    said = []
    if sure.any():
        said.append(f"{it} better than {_listed(own.loc[sure, 'b'])} ({_p(own.loc[sure, 'p_holm'].max())}).")
    unsure = own[~sure]
    if len(unsure):
        closest = unsure.sort_values("needed", kind="stable").iloc[0]
        if len(best) == 1:
            text = f"{best[0]} and {_listed(unsure['b'], 'or')} cannot be told apart on {_images(images)}"
        else:
            text = f"{_listed(unsure['b'])} cannot be told apart from all of them on {_images(images)}"
        who = f" separate {them} from {closest['b']}" if len(unsure) > 1 else ""
        if closest["needed"] > 1e5:
            text += "; more than 100,000 more would have to"
            text += who or " be seen"
        else:
            text += f"; about {about(closest['needed'])} more would{who}"
        said.append(text + ".")
    return said


def _above(found: Floor) -> str:
    """Who is above the floor."""
    text = f"The floor is {found.control}, a control with a mean of {found.mean:.3g}: "
    if not found.unclear and not found.below:
        return text + "every method is better."
    parts = []
    if found.unclear:
        parts.append(f"{_listed(found.unclear)} cannot be told apart from it")
    if found.below:
        parts.append(f"{_listed(found.below)} {_are(len(found.below))} worse than it")
    return text + ", and ".join(parts) + "."


def _listed(names: Any, last: str = "and") -> str:
    """Names in a row; from many the first few and a count.

    Example:
        >>> _listed(["a", "b", "c"]), _listed("abcdef")
        ('a, b and c', 'a, b, c and 3 others')
    """
    names = [str(n) for n in names]
    if len(names) > NAMED + 1:
        names = [*names[:NAMED], f"{len(names) - NAMED} others"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def about(number: float) -> str:
    """A count to two digits, rounded up.

    Example:
        >>> about(7), about(123), about(1201)
        ('7', '130', '1,300')
    """
    unit = 10 ** max(0, len(str(int(number))) - 2)
    return f"{math.ceil(number / unit) * unit:,}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p \N{LESS-THAN OR EQUAL TO} {value:.2g}"


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


# -- what they share ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Support:
    """The scores of a metric on the images that are defined for all methods.

    Attributes:
        metric: Which.
        higher: Whether higher is better.
        table: Images down, methods across.
        dropped: Images that are not defined for all.
        undefined: Methods without any score, which are left out.
        hits: Whether scores are hits and misses, by all there are.
    """

    metric: str
    higher: bool
    table: pd.DataFrame
    dropped: int
    undefined: tuple[str, ...]
    hits: bool

    @classmethod
    def of(cls, study: Studied, metric: str) -> "_Support":
        """The support of a metric in a study."""
        table = _table(study, metric)
        higher = study.metrics[metric]["higher_is_better"]
        if higher is None:
            raise ValueError(f"{metric} has no better direction: methods are not ranked by it")
        there = table.notna().any()
        defined = table.loc[:, there].dropna() if there.any() else table.loc[[], there]
        undefined = tuple(str(m) for m in table.columns[~there])
        dropped = len(table) - len(defined)
        return cls(metric, bool(higher), defined, dropped, undefined, _hits(study.metrics[metric], table))

    def oriented(self) -> pd.DataFrame:
        """The scores, turned so that higher is better."""
        return self.table if self.higher else -self.table


def _table(study: Studied, metric: str) -> pd.DataFrame:
    """Scores of a metric: images down, methods across, in the study's order; NaN where one is infinite.

    Raises:
        ValueError: There is no such metric.
    """
    if metric not in study.metrics:
        raise ValueError(f"there is no metric {metric!r} in the study; there are: {', '.join(study.metrics) or 'none'}")
    own = (
        study.scores[study.scores["metric"] == metric]
        if len(study.scores)
        else pd.DataFrame(columns=["image", "method", "score"])
    )
    table = own.pivot(index="image", columns="method", values="score")  # noqa: PD010  a score stands there once
    table = table.reindex(columns=pd.Index(list(study.methods), name="method")).astype(np.float64)
    return table.where(table.abs() < HUGE)


def _means(table: pd.DataFrame) -> "pd.Series[float]":
    """Each method's mean, which the same scores in another order share to the last bit."""
    return pd.DataFrame(np.sort(table.to_numpy(), axis=0), columns=table.columns).mean()


def _hits(facts: Mapping[str, Any], table: pd.DataFrame) -> bool:
    """Whether a metric's scores are hits and misses: by the metric and all its scores, not by one method's."""
    name, ends = str(facts.get("name")), facts.get("range")
    try:
        registered = REGISTRY.find(name)
        name = registered.facts.name
        ends = registered.range if ends is None else ends
    except ValueError:  # somebody else's
        pass
    if ends is None or list(ends) != [0, 1]:
        return False
    return statistics.is_hits(table.to_numpy(), both=name not in BINARY)


def _pairs(support: _Support, level: float, seed: int, clusters: Sequence[Any] | None) -> pd.DataFrame:
    scores = support.oriented()
    means = _means(scores)
    # equals by their labels, so that nothing depends on the order of methods
    labels = sorted(map(str, scores.columns), key=lambda m: (-means[m] if len(scores) else 0.0, m))
    names = list(itertools.combinations(labels, 2))
    differences: Floats = np.zeros((len(scores), len(names)))
    for k, (a, b) in enumerate(names):
        differences[:, k] = scores[a] - scores[b]
    ids = _clusters(clusters, scores)
    low, high = statistics.interval(differences, level=level, clusters=ids, seed=seed)
    enough = max(statistics.PERMUTATIONS, math.ceil(4 * len(names) / _alpha(level)))  # p can be small after correction
    p = statistics.sign_flip(differences, permutations=enough, clusters=ids, seed=seed)
    corrected = statistics.holm(p)
    # rounding must not make a difference of equals
    equal = np.array([bool(means[a] == means[b]) for a, b in names], dtype=bool)
    size = np.where(equal, 0.0, np.maximum(differences.mean(0), 0.0)) if len(scores) else np.full(len(names), math.nan)
    return pd.DataFrame(
        {
            "a": [a for a, _ in names],
            "b": [b for _, b in names],
            "images": len(scores),
            "dropped": support.dropped,
            "difference": size,
            "low": low,
            "high": high,
            "p": p,
            "p_holm": corrected,
            "better": [statistics.better_share(scores[a], scores[b]) for a, b in names],
            "needed": list(_more(differences, size, p, corrected, _alpha(level))),
        }
    )


def _more(differences: Floats, size: Floats, p: Floats, corrected: Floats, alpha: float) -> Iterator[float]:
    """How many more images each pair would need, at the level that Holm's correction left for it; equal p, equal levels."""
    steps = [int((p >= own).sum()) for own in p]
    for k, step in enumerate(steps):
        if corrected[k] < alpha:
            yield 0.0
        elif size[k] == 0 and len(differences) > 1:
            yield math.inf
        else:
            yield max(statistics.needed(differences[:, k], level=alpha / max(step, 1)) - len(differences), 1.0)


def _floor(study: Studied, support: _Support, table: pd.DataFrame, level: float) -> Floor | None:
    known = [c for c in controls(study) if c in support.table.columns]
    if not known or support.table.empty:
        return None
    control = str(_means(support.oriented()[sorted(known)]).idxmax())  # of equals, the first by its label
    told = table["p_holm"] < _alpha(level)
    others = [str(m) for m in support.table.columns if m not in known]
    above = set(table.loc[told & (table["b"] == control), "a"])
    below = set(table.loc[told & (table["a"] == control), "b"])
    return Floor(
        control,
        float(support.table[control].mean()),
        tuple(m for m in others if m in above),
        tuple(m for m in others if m not in above | below),
        tuple(m for m in others if m in below),
    )


def _alpha(level: float) -> float:
    """1 - level without what floats add to it."""
    return round(1 - level, 12)


def _clusters(clusters: Sequence[Any] | None, table: pd.DataFrame) -> Any:
    """The ids of a table's images."""
    if clusters is None:
        return None
    ids = np.asarray(clusters)
    if ids.ndim != 1 or (len(table) and len(ids) <= table.index.max()):
        raise ValueError(f"clusters of shape {ids.shape}: pass one id for each image of the study")
    return ids[table.index.to_numpy(dtype=np.int64)]


def _counts(facts: Mapping[str, Any]) -> bool:
    """Whether a metric has a say in the leaderboard: it has a better direction, and a map of what decided must win it."""
    if facts.get("higher_is_better") is None:
        return False
    if facts.get("faithful") is not None:
        return bool(facts["faithful"])
    try:
        return REGISTRY.find(str(facts.get("name"))).faithful
    except ValueError:  # somebody else's, of which that is not known
        return True


def _name(label: str, facts: Any) -> str:
    return str(facts.get("name", label)) if isinstance(facts, Mapping) else label


def _family(name: str) -> str:
    try:
        return methods.REGISTRY.facts(name).family
    except ValueError:
        return ""


def _own_baseline(method: Any, metric: Mapping[str, Any]) -> bool:
    """Whether a method, or one inside it, searched with the baseline that a metric judges with."""
    judged = set(_baselines(metric.get("protocol", {})))
    return bool(judged & set(_baselines(method)))


def _baselines(config: Any) -> Iterator[str]:
    """All baselines in a configuration, each as JSON."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key == "baseline" and value is not None:
                for one in value if isinstance(value, list | tuple) else [value]:
                    yield json.dumps(one, sort_keys=True, default=str)
            else:
                yield from _baselines(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _baselines(value)
