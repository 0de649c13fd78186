"""What a model is: a ModelDefinition, its policies, and the protocol of a kind of model.

The life cycle is made from a :class:`ModelDefinition` and calls only the methods of ``definition.kind``. A kind
(forecasting: :class:`lakehouse_assets.ml.forecast.Forecast`) brings what differs between kinds: how a feature table
becomes a data set, the backtest, the gate's test, predictions, errors, drift and pictures. Everything here is pure:
frames in, frames out.

A training run, as the life cycle sees it::

    dataset = kind.dataset(feature_frame)
    result = kind.backtest(dataset, definition.candidates, champion=..., champion_trained_at=..., seed=...)
    challenger = result.fitted[result.best]              # fitted on everything known, picklable
    decision = kind.gate(result, result.best, definition.gate, groups=..., has_champion=...)
    forecasts = challenger.predict(feature_frame)

and a window of monitoring, a week or a month::

    row = kind.window_losses(champion, dataset, start, end)    # champion against a fresh fit of its own recipe
    verdict = kind.verdict(history_of_rows, definition.drift)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import polars as pl

from lakehouse_assets.ml.window import TrainingWindow, Window

Progress = Callable[[str], None]
"""Receives one short line about what is being done; called a few times a second at most."""

Columns = Mapping[str, tuple[pl.DataType, str]]
"""Columns of a table: name -> (type, description)."""

CHAMPION = "champion"
"""The name under which the champion takes part in a backtest."""

ALL = "all"
"""The only member of a kind whose model is one for everybody."""


class TooLittleHistory(ValueError):
    """There is not enough yet to train on: no fault, it comes with time. The message says what is missing."""


@runtime_checkable
class Candidate(Protocol):
    """An estimator with its parameters that competes in a training run; otherwise its kind's own affair."""

    def parameters(self) -> dict[str, Any]:
        """JSON-able parameters, for the record."""
        ...


@dataclass(frozen=True)
class GatePolicy:
    """When a challenger may replace the champion.

    minimum_gain: the relative gain of the primary loss that a challenger must exceed (0.005 = half a percent).
    significance: the one-sided level at which it must; a challenger that is no better passes more rarely still.
    group_tolerance: no group of series may become worse by more than this share.

    Series by series:

    false_discovery_rate: the share of the series promoted, or called harmed, that may be so by chance (Benjamini and
    Hochberg, across series).
    peak_share: the share of a series' hours, those of its highest load, that are its peak hours.
    peak_tolerance: on them the loss must be shown not to grow by this share, at the level ``significance``.
    coverage_tolerance: by how much an interval's coverage may fall further below nominal than the champion's.
    """

    minimum_gain: float = 0.005
    significance: float = 0.05
    group_tolerance: float = 0.05
    false_discovery_rate: float = 0.05
    peak_share: float = 0.1
    peak_tolerance: float = 0.05
    coverage_tolerance: float = 0.02


CHANNELS = ("challenger", "error", "input")
"""What may call a drift: a weekly fresh fit that does better; errors that are other than they should be; inputs that
have moved."""


@dataclass(frozen=True)
class DriftPolicy:
    """When a champion counts as drifted: it loses to a fresh fit of its own recipe, and will go on to.

    channels: which of ``CHANNELS`` may call a drift, the first that does is named. Without ``challenger`` no weekly
    fresh fit is made: for recipes whose fit is dear. ``input`` is for labels that come late.
    weeks: the number of latest weekly regrets that are averaged; with fewer a series is not judged.
    minimum_effect: the least regret (0.055 = the champion's loss is 5.5 % above the fresh fit's): of a series over two
    months, with the stake (see ml/regret.py); of the fleet over the latest weeks.
    false_discovery_rate: of Benjamini and Hochberg across series.
    quiet_effect: a regret that nobody would mend; evidence is evidence of more than that.
    evidence: the least e-value of a sequential test (4: a series that is quiet crosses it in four weeks at the
    earliest, on average; docs/drift.md has the measured rate of all conditions together).
    minimum_stake: the least regret that the disagreement between the champion and the fresh fit would mean if the fresh
    fit were right, over the latest four weeks.
    fleet_share: the fleet has drifted when at least this share of the tested series has (and at least one), or when
    the mean regret of all of them exceeds the minimum effect significantly.
    alarm_budget: flags of a quiet series in a week that are to be expected, as benchmarks/drift.py measures them.
    cost: what a training of a series costs, as a share of its loss; where it is expected to save less it does not pay.
    retrain_on: ``drift``: a training pays for series that have drifted; ``gain``: for all in which it is expected to
    save more than it costs, which is worth its while where trainings are cheap (see docs/drift.md).
    false_alarm_rate: the share of series-weeks without any change in which a threshold that is calibrated by resampling
    is exceeded (channels that compare with a history).
    """

    channels: tuple[str, ...] = ("challenger",)
    weeks: int = 3
    minimum_effect: float = 0.055
    false_discovery_rate: float = 0.1
    quiet_effect: float = 0.02
    evidence: float = 4.0
    minimum_stake: float = 0.03
    fleet_share: float = 0.1
    alarm_budget: float = 0.0135
    cost: float = 0.02
    retrain_on: Literal["drift", "gain"] = "drift"
    false_alarm_rate: float = 0.01

    def __post_init__(self) -> None:
        unknown = sorted(set(self.channels) - set(CHANNELS))
        if isinstance(self.channels, str) or unknown or not self.channels:
            raise ValueError(
                f"DriftPolicy.channels is {self.channels!r}: give a tuple of one or more of {', '.join(CHANNELS)}"
            )


@dataclass(frozen=True)
class RetrainPolicy:
    """When to train again: by the calendar, and on drift, but not within the cooldown after a training.

    cooldown_days: days after a training in which drift does not ask for another, nor the calendar after one of all.
    maximum_a_month: how many trainings drift asks for within any 30 days, attempts that failed among them.
    maximum_attempts: how often a training that failed is repeated for the same drift report.
    whole_fleet_share: from this share of the members on for whom a training pays, all are trained, else only these.
    window: what a training that drift asked for learns from, of members whose drift is dated: ``all`` history; what
    came ``since_break`` alone; or all, with what came before the break ``weighted`` down.
    """

    cooldown_days: int = 14
    maximum_a_month: int = 4
    maximum_attempts: int = 3
    whole_fleet_share: float = 0.3
    window: Window = "all"


@dataclass(frozen=True)
class Schedules:
    """When the stages run by the calendar: cron schedules in a time zone (IANA name)."""

    predict: str = "30 0 * * *"
    monitor: str = "0 1 * * 1"
    retrain: str = "0 2 1 * *"
    time_zone: str = "UTC"


class FittedModel(Protocol):
    """A fitted candidate: picklable, and able to say what it is."""

    @property
    def name(self) -> str:
        """The candidate's name."""
        ...

    @property
    def trained_at(self) -> datetime:
        """The cutoff: only what was known by then was used."""
        ...

    @property
    def series_ids(self) -> list[str]:
        """The members that it has a model of their own for; ``[ALL]`` where one serves everybody."""
        ...

    @property
    def feature_names(self) -> list[str]:
        """The features that it reads, in order."""
        ...

    def parameters(self) -> dict[str, Any]:
        """JSON-able parameters."""
        ...

    def predict(self, data: Any) -> pl.DataFrame:
        """Predictions for a feature frame, or for a data set of the kind: one row a key, in the kind's columns."""
        ...


COSTS: Mapping[str, type[pl.DataType]] = {
    "shard": pl.Int64,
    "candidate": pl.String,
    "stage": pl.String,
    "cpu_seconds": pl.Float64,
    "bytes": pl.Int64,
}
"""Columns of what a backtest's candidates took."""


@dataclass(frozen=True)
class BacktestResult:
    """What a training run found.

    best: the candidate with the best ``primary`` metric, and with it the challenger.
    metrics: one row for each candidate and slice: candidate, slice ("overall" or a kind's own, such as "series",
    "horizon", "fold"), key (the slice's member as text; "" for overall), and the metrics as columns, primary included.
    folds: one row a fold; a kind's own columns, ``fold`` (Int32) first.
    losses: out-of-sample rows, the same for every candidate (the evidence), sorted by member; a kind's own columns.
    Lazily: of a large fleet they are more than memory holds.
    fitted: each candidate fitted on everything known at the cutoff.
    costs: columns ``COSTS``: shard (null: the whole fleet), candidate, stage, cpu_seconds, bytes (of the rows read).
    unscored: the member, reason: members that took no part, or of which no fold scores anything.
    higher_is_better: of the primary metric; else the lowest is the best.
    curves: of each candidate that learns in epochs, the measures after each, of the fit at the cutoff.
    """

    best: str
    primary: str
    metrics: pl.DataFrame
    folds: pl.DataFrame
    losses: pl.LazyFrame
    fitted: Mapping[str, FittedModel] = field(repr=False)
    costs: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=COSTS), repr=False)
    unscored: pl.DataFrame = field(default_factory=pl.DataFrame, repr=False)
    higher_is_better: bool = False
    curves: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict, repr=False)

    def summary(self) -> dict[str, dict[str, float]]:
        """The overall metrics by candidate, the best first."""
        overall = self.metrics.filter(slice="overall").sort(
            self.primary, descending=self.higher_is_better, nulls_last=True
        )
        names = [c for c in overall.columns if c not in ("candidate", "slice", "key")]
        return {row["candidate"]: {n: row[n] for n in names} for row in overall.iter_rows(named=True)}


@dataclass(frozen=True)
class Search:
    """Candidates that are found by trial: which families of models, with which parameters.

    trials: how many are tried at most. minutes: for how long at most (a search that ends by the clock is not the same
    twice). members: on a sample of at most so many, so that a search costs the same for a large fleet. families: names
    of the kind's; none: all that it knows. keep: how many families go on to the backtest.
    """

    trials: int = 40
    minutes: float | None = None
    members: int = 50
    families: tuple[str, ...] = ()
    keep: int = 4


@dataclass(frozen=True)
class Trial:
    """What a search has tried: a candidate of a family, its loss (the mean so far) after each fold, and how it ended.

    state: ``complete``; ``pruned`` (worse on the early folds than most); or ``failed``, with the reason.
    """

    number: int
    family: str
    candidate: Candidate
    losses: tuple[float, ...]
    state: str
    reason: str
    seconds: float


@dataclass(frozen=True)
class SearchResult:
    """What a search has found: candidates that go on to the backtest, all trials, and pictures (PNG by name)."""

    candidates: Mapping[str, Candidate]
    trials: Sequence[Trial]
    pictures: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True)
class GateDecision:
    """promote or keep; the reason in one sentence; the evidence as JSON-able numbers and tables.

    series: the decision of each member, where there was a champion to compare with: series_id, promote, harmed, reason,
    and the kind's statistics. When the whole is promoted, the harmed members stay with the champion; when it is kept,
    those with ``promote`` move nevertheless.
    """

    promote: bool
    reason: str
    evidence: dict[str, Any]
    series: pl.DataFrame | None = field(default=None, repr=False)


class DriftVerdict(Protocol):
    """A kind's drift verdict: what it says of the whole, and of each member."""

    @property
    def verdict(self) -> str:
        """``ok``, ``drift`` or ``insufficient_data``."""
        ...

    @property
    def window_start(self) -> datetime | None:
        """Start of the first window that was judged."""
        ...

    @property
    def window_end(self) -> datetime | None:
        """End of the last window that was judged."""
        ...

    @property
    def series(self) -> pl.DataFrame:
        """One row a member: the member, verdict, due, since, expected_gain, and the kind's statistics."""
        ...

    @property
    def summary(self) -> dict[str, Any]:
        """JSON-able; ``series_tested`` and ``series_drifted`` among them."""
        ...

    @property
    def findings(self) -> Sequence[Mapping[str, Any]]:
        """What has drifted, members that drifted together as one; JSON-able, ``members`` and ``since`` among it."""
        ...


@runtime_checkable
class Searching(Protocol):
    """A kind that can search for candidates."""

    def search(
        self,
        dataset: Any,
        search: Search,
        *,
        cutoff: datetime | None = None,
        seed: int = 0,
        report: Callable[[Trial], None] | None = None,
    ) -> SearchResult:
        """Find candidates by trial; each trial is reported as it ends."""
        ...


@runtime_checkable
class Choosing(Protocol):
    """A kind for which not all candidates compete where only some of the members are trained anew."""

    def candidates_of_some(
        self, candidates: "Mapping[str, Candidate] | Search | Literal['auto']", champion: Any
    ) -> Mapping[str, Candidate]:
        """What competes where only some of the members are trained anew, whom the champion serves."""
        ...


class Kind(Protocol):
    """What a kind of model brings to the life cycle."""

    @property
    def name(self) -> str:
        """One word: forecast, classification, ..."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """The key columns of a prediction: when it is made, of whom, and, of a forecast, for when."""
        ...

    @property
    def member(self) -> str:
        """The column of the members: those whom a version may have a model of their own for.

        One of the keys; or, where one model serves everybody, a word of its own (``population``), which is no column of
        the features or the predictions, and whose only value is ``ALL``.
        """
        ...

    @property
    def window(self) -> Literal["week", "month"]:
        """What monitoring judges at a time: the predictions made in a week; or those of a month, which begins with a
        snapshot and has no other.
        """
        ...

    @property
    def truth_after(self) -> timedelta:
        """How long after a prediction it may take, as a rule, until it is known what came true; 0: days at most."""
        ...

    @property
    def describes(self) -> bool:
        """Whether what is predicted of the past says nothing that was not known then: at the very first prediction all
        times with features are predicted, not the latest alone.
        """
        ...

    @property
    def prediction_columns(self) -> Columns:
        """The columns of a prediction; with ``rung`` and ``reason`` among them, who predicted is watched, too."""
        ...

    @property
    def error_columns(self) -> Columns:
        """The columns of a prediction compared with what came true; none where nothing ever does."""
        ...

    @property
    def drift_columns(self) -> Columns:
        """The columns of a member's verdict about a window: the member, what ``window_losses`` and the verdict find.

        ``verdict``, ``due``, ``since`` and ``expected_gain`` are among them.
        """
        ...

    @property
    def time_column(self) -> str:
        """The column of the feature table that says as of when a row is (issued_at, as_of)."""
        ...

    @property
    def prediction_column(self) -> str:
        """The column of a prediction that holds what was predicted."""
        ...

    @property
    def error_column(self) -> str:
        """The column of an error that says by how much a prediction missed; 0 is right. Empty: there are no errors."""
        ...

    @property
    def loss_column(self) -> str:
        """What the drift verdict is about: a column of an error or of a prediction."""
        ...

    @property
    def look_back(self) -> timedelta:
        """How far back ``calibrate`` looks: what is older need not be read for it."""
        ...

    def dataset(self, rows: pl.DataFrame | pl.LazyFrame) -> Any:
        """Rows of the feature table as a data set; rows that come lazily are read when and where they are needed."""
        ...

    def backtest(
        self,
        dataset: Any,
        candidates: Mapping[str, Candidate],
        *,
        cutoff: datetime | None = None,
        champion: Any = None,
        window: TrainingWindow | None = None,
        seed: int = 0,
        workspace: Path | None = None,
        progress: Progress | None = None,
    ) -> BacktestResult:
        """Score all candidates and the champion on identical folds, and fit each on what is known at the cutoff.

        window: what of the history is learned from; None: all.
        workspace: an empty folder, which must last as long as the result, for what would not fit in memory.
        """
        ...

    def refit(self, fitted: Any, dataset: Any, cutoff: datetime, *, seed: int = 0) -> FittedModel:
        """A fresh fit of a fitted model's own recipe on what is known at the cutoff."""
        ...

    def compose(self, models: Mapping[int, Any], assignment: Mapping[str, int], champion: int) -> FittedModel:
        """Several versions as one model: each member is served by its version, one without by the champion's.

        Its predictions have a column more, ``model_version``: which version made each.
        """
        ...

    def gate(
        self,
        result: BacktestResult,
        challenger: str,
        policy: GatePolicy,
        *,
        groups: Mapping[str, str | None] | None = None,
        has_champion: bool,
    ) -> GateDecision:
        """Whether the challenger becomes champion, on the evidence of a backtest."""
        ...

    def calibrate(self, predicted: pl.DataFrame, earlier: pl.LazyFrame, features: pl.LazyFrame) -> pl.DataFrame:
        """Predictions, set right by what has come of earlier ones; a kind without a use for it returns ``predicted``.

        earlier: rows of the prediction table. features: of the feature table.
        What is known at the time of a prediction may be used, and nothing else.
        """
        ...

    def scores(self, errors: pl.DataFrame) -> dict[str, float]:
        """How good predictions were that have been compared with what came: measures by name."""
        ...

    def errors(self, predictions: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
        """Predictions joined to what came true, with their errors, for the rows whose target is known."""
        ...

    def main_inputs(self, columns: Sequence[str]) -> list[str]:
        """Of the numeric columns of the feature table, those to watch: what comes from outside."""
        ...

    def backtest_errors(self, result: BacktestResult) -> pl.LazyFrame:
        """The out-of-sample predictions of a backtest's best candidate: of whom (the second key), what was predicted,
        and the error, if there is one.
        """
        ...

    def window_losses(
        self,
        champion: Any,
        dataset: Any,
        start: datetime,
        end: datetime,
        *,
        fresh: Any = None,
        seed: int | None = None,
        shadow: bool = True,
    ) -> pl.DataFrame:
        """What can be said of the champion in a window, one row a member: its losses, and those of a fresh fit of its
        recipe; or, where the truth comes late, how far inputs and predictions are from what it was trained on.

        shadow: whether a fresh fit is made, where none is given.
        """
        ...

    def evidence(
        self, champion: Any, dataset: Any, start: datetime, policy: DriftPolicy, moved: pl.DataFrame | None = None
    ) -> Any:
        """What the policy's channels lean on besides the losses of the window that starts at a time.

        moved: of :meth:`explain`; with it, all that findings tell, whether it calls a drift or not.
        """
        ...

    def verdict(self, history: pl.DataFrame, policy: DriftPolicy, evidence: Any = None) -> DriftVerdict:
        """The drift verdict from the rows of :meth:`window_losses` so far, and from what :meth:`evidence` has found.

        history: with ``window_start`` and ``model_version`` beside them.
        """
        ...

    def explain(self, dataset: Any, members: Sequence[str], start: datetime, span: timedelta) -> pl.DataFrame:
        """What moved with a drift: statistics of the drifted members' inputs in a window against the time before."""
        ...

    def pictures(self, result: BacktestResult) -> dict[str, bytes]:
        """PNG pictures of a backtest by name."""
        ...

    def error_pictures(self, errors: pl.LazyFrame) -> dict[str, bytes]:
        """PNG pictures of predictions compared with what came, by name."""
        ...

    def drift_pictures(self, history: pl.DataFrame, features: pl.LazyFrame, policy: DriftPolicy) -> dict[str, bytes]:
        """PNG pictures of the verdicts by name; history: rows of the drift table, of all versions."""
        ...

    def finding_pictures(
        self, history: pl.DataFrame, features: pl.LazyFrame, finding: Mapping[str, Any]
    ) -> dict[str, bytes]:
        """PNG pictures of one finding by name, from the rows of the windows and those of the feature table."""
        ...


@dataclass(frozen=True)
class ModelDefinition:
    """All that the life cycle needs to know about a model.

    name: of the registered model and of all its assets. features: the key of its feature table ("features/demand").
    target: the column of it that is predicted; None: what is predicted stands nowhere.
    candidates: by name, in the order in which ties are broken; or a search for them, ``"auto"`` being the search for
    those who do not want to choose. primary metric and tests are the kind's.
    group: a text column of the feature table by which the gate looks after groups of members.
    deep: candidates that compete beside those that are named where a person asks for them (LAKEHOUSE_CANDIDATES=deep):
    they need an extra, and minutes.
    """

    name: str
    description: str
    features: str
    target: str | None
    kind: Kind
    candidates: Mapping[str, Candidate] | Search | Literal["auto"]
    gate: GatePolicy = GatePolicy()
    drift: DriftPolicy = DriftPolicy()
    retrain: RetrainPolicy = RetrainPolicy()
    schedules: Schedules = Schedules()
    group: str | None = None
    deep: Mapping[str, Candidate] = field(default_factory=dict)
