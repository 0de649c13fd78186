"""Pure functions and estimators on arrays and frames: no Dagster, no Delta, no MLflow."""
