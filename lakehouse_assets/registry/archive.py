"""A fitted model as one archive file, and MLflow's way into it.

This module and `lakehouse_assets.ml` travel with each model version, so that `mlflow.pyfunc.load_model` works where
only MLflow and the version's requirements are installed. It therefore imports nothing of ours and no Dagster.
"""

import json
import pickle
import platform
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

ARCHIVE = "model.zip"
MODEL = "model.pkl"
PACKAGES = ("numpy", "pandas", "polars", "pyarrow", "scikit-learn", "scipy")


class ModelNotReadable(RuntimeError):
    """The archive's model cannot be unpickled here; the message compares the versions then and now."""


def write_archive(path: Path, model: Any, about: Mapping[str, Any]) -> None:
    """Write `model` (any object that pickles) and `about` (JSON: name, pins, tags ...) to `path`.

    A model that can be `dismantled()` is written part by part, and its parts are read when they are asked for.
    """
    about = {**about, "python": platform.python_version(), "packages": installed()}
    # stored, not deflated: arrays of floats hardly shrink, and thousands of models load within a second
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("about.json", json.dumps(about, indent=1, default=str))
        parts: Iterable[Any] = ()
        if hasattr(model, "dismantled"):
            model, parts = model.dismantled()
        for name, item in chain([(MODEL, model)], ((_part(number), part) for number, part in enumerate(parts))):
            with archive.open(name, "w", force_zip64=True) as file:
                pickle.dump(item, file, protocol=5)


def read_archive(path: Path) -> Any:
    """The model that was written to `path`.

    Raises:
        ModelNotReadable: the pickle does not fit the packages that are installed here.
    """
    model = _read(path, MODEL)
    return model.assembled(ArchivedParts(path)) if hasattr(model, "assembled") else model


@dataclass(frozen=True)
class ArchivedParts:
    """The parts of the model in an archive; each is read from there whenever it is asked for."""

    path: Path

    def __getitem__(self, number: int, /) -> Any:
        """The part of that number."""
        return _read(self.path, _part(number))


def _part(number: int) -> str:
    return f"parts/{number:05d}.pkl"


def _read(path: Path, name: str) -> Any:
    with zipfile.ZipFile(path) as archive:
        try:
            with archive.open(name) as file:
                return pickle.load(file)
        except Exception as error:
            then, now = json.loads(archive.read("about.json"))["packages"], installed()
            changed = [f"{name} {then.get(name)} -> {now.get(name)}" for name in then if then[name] != now.get(name)]
            raise ModelNotReadable(
                f"{path}: {type(error).__name__}: {error}. Packages that changed since it was written: "
                f"{', '.join(changed) or 'none'}."
            ) from error


def installed() -> dict[str, str]:
    """Versions of the packages that a fitted model may depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class PyfuncModel:
    """MLflow's view of a fitted model: a pandas frame of the feature table in, a pandas frame of forecasts out."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def predict(self, frame: "pd.DataFrame", params: Mapping[str, Any] | None = None) -> "pd.DataFrame":
        """Forecasts, a row for each row of `frame`; naive timestamps are read as UTC, as MLflow's type has no zone."""
        import pandas as pd
        import polars as pl
        import polars.selectors as cs

        features = pl.from_pandas(frame).with_columns(
            cs.datetime(time_zone=None).dt.replace_time_zone("UTC").dt.cast_time_unit("us"),
            cs.datetime(time_zone="*").dt.convert_time_zone("UTC").dt.cast_time_unit("us"),
        )
        result = self.model.predict(features)
        if isinstance(result, pl.DataFrame):
            return result.to_pandas()
        return pd.DataFrame({"yhat": result.to_numpy() if isinstance(result, pl.Series) else result})


def _load_pyfunc(path: str) -> PyfuncModel:
    """MLflow's entry point (`loader_module`)."""
    return PyfuncModel(read_archive(Path(path)))
