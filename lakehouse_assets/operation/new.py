"""New files from templates: a model of any kind, or a table, as one commented file that works at once.

A template is a file in `templates`: `models/<kind>.txt` for each kind, and `table.txt`. `$name`, `$class_name` and
`$room` in it are replaced. A kind of your own gets a template by laying it there.
"""

import keyword
import re
from pathlib import Path
from string import Template

from lakehouse_assets.operation.errors import WrongRequest

TEMPLATES = Path(__file__).parent / "templates"
PACKAGE = Path(__file__).parents[1]
ROOMS = ("bronze", "silver", "gold", "features")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def kinds() -> list[str]:
    """The kinds of models that there are templates of."""
    return sorted(path.stem for path in (TEMPLATES / "models").glob("*.txt"))


def new_model(name: str, kind: str, package: Path = PACKAGE) -> Path:
    """Write `models/<name>.py`; returns the file.

    Raises:
        WrongRequest: the name is no name of a Python module, or taken; or there is no such kind.
    """
    if kind not in kinds():
        raise WrongRequest(f"there is no kind {kind!r}; there are {', '.join(kinds())}")
    return _write(package / "models", name, TEMPLATES / "models" / f"{kind}.txt")


def new_table(key: str, package: Path = PACKAGE) -> Path:
    """Write the file of a table by its key, as `gold/demand_weekly`; returns the file.

    Raises:
        WrongRequest: the key does not name a room of tables and a table that is not there yet.
    """
    room, _, name = key.partition("/")
    if room not in ROOMS or not name:
        raise WrongRequest(f"{key!r} is no key of a table: write ROOM/NAME, with the room {', '.join(ROOMS)}")
    return _write(package / room, name, TEMPLATES / "table.txt")


def _write(folder: Path, name: str, template: Path) -> Path:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise WrongRequest(
            f"{name!r} is no name for a file of Python: write small letters, digits and _, as energy_price"
        )
    file = folder / f"{name}.py"
    if file.exists():
        raise WrongRequest(f"{file} is there already; choose another name, or delete it first")
    class_name = "".join(word.capitalize() for word in (folder.name, *name.split("_")))
    text = Template(template.read_text(encoding="utf-8"))
    made = text.substitute(name=name, class_name=class_name, room=folder.name)
    try:
        file.write_text(made, encoding="utf-8")
    except OSError as error:
        raise WrongRequest(f"{file} could not be written: {error.strerror}") from None
    return file
