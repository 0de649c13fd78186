"""MLflow: runs, versions, aliases, pins."""
