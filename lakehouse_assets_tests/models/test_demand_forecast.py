import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SAY = "from lakehouse_assets.models.demand_forecast import demand_forecast as d; print(d.kind.fold_days, *d.candidates)"


@pytest.mark.parametrize(("declared", "days"), [("m4_hourly", "1"), ("eia930", "7")])
def test_short_series_have_a_recipe_of_their_own(declared: str, days: str) -> None:
    """A definition is made once, when it is loaded, so each declaration needs a process."""
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SAY],
        env=os.environ | {"LAKEHOUSE_CONFIG": str(EXAMPLES / f"{declared}.yaml")},
        capture_output=True,
        text=True,
        check=True,
    )
    fold_days, *candidates = said.stdout.split()
    assert fold_days == days
    assert ("ridge_on_published" in candidates) == (days == "7")
    assert candidates[-1] == "blend"
