"""A small declaration for tests, with what a test wants to be different."""

import copy
from pathlib import Path
from typing import Any

import yaml

from lakehouse_assets.sources.declaration import Declaration, load_declaration

BASE: dict[str, Any] = {
    "name": "plant",
    "files": {"glob": "*.csv", "format": "csv"},
    "columns": {"series_id": "area", "ts": "time", "value": "mw"},
    "time_zone": "UTC",
    "interval": "1h",
    "unit": {"kind": "power", "name": "MW"},
    "start": "2020-01-01",
}
COVARIATES = {
    "day_ahead": {"column": "plan", "known": "before", "role": "published_forecast"},
    "temperature": {"column": "temp", "known": "after"},
}


def declare(folder: Path, **changes: Any) -> Declaration:
    """Write a declaration into the folder and load it; None takes a key away."""
    content = {k: v for k, v in {**copy.deepcopy(BASE), **changes}.items() if v is not None}
    path = folder / "source.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_declaration(path)
