"""An open lakehouse for forecasting and machine learning on Dagster; Dagster loads `definitions`, people use `cli`."""
