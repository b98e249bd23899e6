"""The memory policies by the names a caller gives."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from medsam2.tracking.select import Policy, Recent
from medsam2.tracking.self_sorting import SelfSorting

POLICIES: Mapping[str, Policy] = MappingProxyType({"recent": Recent(), "self-sorting": SelfSorting()})
