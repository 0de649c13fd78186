"""What the end-to-end tests share: commands without the slow imports."""

from collections.abc import Iterator

import pytest

from lakehouse_assets_tests.operation.commands import Commands


@pytest.fixture(scope="session")
def lakehouse() -> Iterator[Commands]:
    commands = Commands()
    yield commands
    commands.close()
