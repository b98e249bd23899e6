"""What a batch does with each of its cases."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_DOWNLOAD_MIB = 4096


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """For all cases; where a row of the table says otherwise, the row is followed."""

    weights: str = "compact"
    """Name or file."""
    window: str | tuple[float, float] | None = None
    plane: str | None = None
    frame: int | None = None
    series: str | None = None
    memory: str = "recent"
    keep_component: bool | None = None
    stop_after: int | None = None
    device: str = "auto"
    precision: str = "auto"
    output_type: str = "nifti"
    """A key of `imaging.outputs.write.SUFFIXES`."""
    preview: bool = False
    """Whether each case gets a picture too."""
    max_download_mib: int = DEFAULT_DOWNLOAD_MIB
    """The most that is fetched of one image or mask."""
