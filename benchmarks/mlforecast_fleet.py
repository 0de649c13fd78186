"""mlforecast on a fleet, run in the environment of the peers: fit and backtest of one LightGBM across all series.

    python benchmarks/mlforecast_fleet.py HOURS FORECASTS FOLDS

HOURS: a Parquet file of unique_id, ds, y, gapless, all series of the same hours. FORECASTS: Parquet, unique_id, ds,
forecast: of the first day of each fold, a fold a week, the last one beginning a week before the end. Prints JSON: the
seconds of the fit and of the backtest, which fits anew for each fold.
"""

import json
import sys
import time
import warnings

import lightgbm
import pandas as pd
from mlforecast import MLForecast
from mlforecast.lag_transforms import RollingMean
from mlforecast.target_transforms import LocalStandardScaler

LAGS = [1, 2, 3, 24, 25, 48, 72, 96, 120, 144, 168, 336]


def main() -> None:
    """Fit, backtest, write."""
    warnings.filterwarnings("ignore")
    hours, forecasts, folds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    frame = pd.read_parquet(hours)

    def model() -> MLForecast:
        return MLForecast(
            models={"forecast": lightgbm.LGBMRegressor(n_estimators=100, verbosity=-1)},
            freq="h",
            lags=LAGS,
            lag_transforms={1: [RollingMean(24)], 24: [RollingMean(168)]},
            date_features=["hour", "dayofweek", "month"],
            target_transforms=[LocalStandardScaler()],
        )

    start = time.perf_counter()
    model().fit(frame)
    fitted = time.perf_counter()
    # Weekly origins, and a day of 24 hours from each: the last origin lies a week before the end.
    last = frame["ds"].max() - pd.Timedelta(days=6)
    scored = frame[frame["ds"] <= last]
    found = model().cross_validation(scored, n_windows=folds, h=24, step_size=168, refit=True)
    end = time.perf_counter()
    found[["unique_id", "ds", "forecast"]].to_parquet(forecasts)
    print(json.dumps({"fit": fitted - start, "backtest": end - fitted}))


if __name__ == "__main__":
    main()
