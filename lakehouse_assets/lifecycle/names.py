"""What the stages of one model's life cycle are called: asset keys, tags and jobs, made from the model's name."""

from dataclasses import dataclass

import dagster as dg

TRIGGER_TAG = "lakehouse/trigger"
REPORT_TAG = "lakehouse/report"
ALERT_TAG = "lakehouse/alert"
CHANNEL_TAG = "lakehouse/channel"
ATTEMPT_TAG = "lakehouse/attempt"
REQUESTED_AT_TAG = "lakehouse/requested_at"
REPLAYED_TAG = "lakehouse/replayed"
"""Of each run of a replay: what it does is about the past, and nobody is told."""


@dataclass(frozen=True)
class Names:
    """Asset keys and job names of the model `model`."""

    model: str

    @property
    def training(self) -> dg.AssetKey:
        """The trained challenger."""
        return dg.AssetKey(["models", self.model])

    @property
    def promotion(self) -> dg.AssetKey:
        """The gate's decisions."""
        return dg.AssetKey(["registry", self.model])

    @property
    def series(self) -> dg.AssetKey:
        """What is in force for each member."""
        return dg.AssetKey(["registry", f"{self.model}_series"])

    @property
    def series_history(self) -> dg.AssetKey:
        """What was in force for each member, and why."""
        return dg.AssetKey(["registry", f"{self.model}_series_history"])

    @property
    def prediction(self) -> dg.AssetKey:
        """The champion's predictions."""
        return dg.AssetKey(["predictions", self.model])

    @property
    def rungs(self) -> dg.AssetKey:
        """Who predicted where the champion could not, and why."""
        return dg.AssetKey(["monitoring", f"{self.model}_rungs"])

    @property
    def errors(self) -> dg.AssetKey:
        """Predictions against what came."""
        return dg.AssetKey(["monitoring", f"{self.model}_errors"])

    @property
    def profile(self) -> dg.AssetKey:
        """What values, predictions and errors were like, window by window."""
        return dg.AssetKey(["monitoring", f"{self.model}_profile"])

    @property
    def drift(self) -> dg.AssetKey:
        """The weekly verdicts."""
        return dg.AssetKey(["monitoring", f"{self.model}_drift"])

    @property
    def retrain_job(self) -> str:
        """The job that trains, decides and predicts anew."""
        return f"{self.model}_retrain"

    @property
    def predict_job(self) -> str:
        """The job that predicts with the champion and compares earlier predictions with what came."""
        return f"{self.model}_predict"

    @property
    def monitor_job(self) -> str:
        """The job that looks for drift."""
        return f"{self.model}_monitor"

    @property
    def alert_job(self) -> str:
        """The job that sends an alert."""
        return f"{self.model}_alert"

    @property
    def send(self) -> str:
        """The only op of that job."""
        return f"{self.model}_send"

    @property
    def pool(self) -> str:
        """The pool whose only slot a training holds."""
        return f"{self.model}_training"


def table_key(key: dg.AssetKey) -> str:
    """A table's place in the lake: the words of its asset key."""
    return "/".join(key.path)
