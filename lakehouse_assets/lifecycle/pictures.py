"""Pictures in an asset's metadata: PNG bytes as Markdown that the Dagster UI shows in place."""

import base64
from collections.abc import Mapping

import dagster as dg


def picture_metadata(pictures: Mapping[str, bytes]) -> dict[str, dg.MarkdownMetadataValue]:
    """Metadata entries, one a picture."""
    return {
        f"{name}_picture": dg.MetadataValue.md(f"![{name}](data:image/png;base64,{base64.b64encode(png).decode()})")
        for name, png in pictures.items()
    }
