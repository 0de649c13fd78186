"""dagster-deltalake's base and configuration classes, without what importing its package costs; and dataframely.

Its `__init__` imports `pyarrow.dataset`, and that imports pandas: more than half of the time of `import dagster`, for
handlers that are not used here. So the package is put in place unexecuted; its submodules load as ever, and whoever
asks the package itself for something (`dagster_deltalake.DeltaLakePyArrowTypeHandler`) executes it then.
"""

import importlib
import importlib.util
import sys
from typing import Any


def _execute_when_asked(name: str) -> None:
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None or spec.loader is None:
        return
    package, loader = importlib.util.module_from_spec(spec), spec.loader

    def load(attribute: str) -> Any:
        if attribute.startswith("__") and attribute != "__version__":  # import machinery and inspection look for these
            raise AttributeError(attribute)
        del package.__getattr__
        loader.exec_module(package)
        return getattr(package, attribute)

    package.__getattr__ = load  # type: ignore[method-assign]
    sys.modules[name] = package


def _import_without(name: str, optional: str) -> None:
    """Import a package as if another, that it can do without and that is slow to import, were not installed."""
    if optional in sys.modules or name in sys.modules:
        return
    sys.modules[optional] = None  # type: ignore[assignment]  # what Python takes for "there is no such package"
    try:
        importlib.import_module(name)
    finally:
        del sys.modules[optional]


_execute_when_asked("dagster_deltalake")
# dataframely offers its schemas to SQLAlchemy, which nobody here asks for; that import alone is half of Dagster's.
_import_without("dataframely", "sqlalchemy")

from dagster_deltalake.config import AzureConfig, ClientConfig, GcsConfig, LocalConfig, S3Config  # noqa: E402
from dagster_deltalake.io_manager import DeltaLakeIOManager  # noqa: E402

__all__ = ["AzureConfig", "ClientConfig", "DeltaLakeIOManager", "GcsConfig", "LocalConfig", "S3Config"]
