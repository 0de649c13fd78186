"""mlforecast on the EIA year, run in the environment of the peers: one global LightGBM, one fit, recursive forecasts.

    python benchmarks/mlforecast_eia930.py HOURS FORECASTS DAYS

HOURS: a Parquet file of unique_id, ds, y, gapless, all series to the same end. The last DAYS of it are forecast, 24
hours from each midnight with everything before it known. FORECASTS: Parquet, unique_id, ds, cutoff, forecast. Prints
the seconds of the fit and of the forecasts.
"""

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
    warnings.filterwarnings("ignore")
    hours, forecasts, days = sys.argv[1], sys.argv[2], int(sys.argv[3])
    frame = pd.read_parquet(hours)
    model = lightgbm.LGBMRegressor(n_estimators=100, num_leaves=31, learning_rate=0.1, verbosity=-1, random_state=0)
    forecast = MLForecast(
        models={"forecast": model},
        freq="h",
        lags=LAGS,
        lag_transforms={1: [RollingMean(24), RollingMean(168)]},
        date_features=["hour", "dayofweek", "month"],
        target_transforms=[LocalStandardScaler()],
    )
    start = time.perf_counter()
    cutoff = frame["ds"].max() - pd.Timedelta(days=days)
    forecast.fit(frame[frame["ds"] <= cutoff])
    later = frame[frame["ds"] > cutoff].sort_values(["ds", "unique_id"])
    found = []
    # Not cross_validation: that reads the whole history anew for each of its windows.
    for _, day in later.groupby((later["ds"] - cutoff - pd.Timedelta(hours=1)).dt.days):
        found.append(forecast.predict(24).assign(cutoff=day["ds"].min() - pd.Timedelta(hours=1)))
        forecast.update(day)
    print(f"{time.perf_counter() - start:.0f}")
    pd.concat(found).to_parquet(forecasts)


if __name__ == "__main__":
    main()
