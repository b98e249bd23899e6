"""A digest of all that a mask depends on: when it changes, the mask is out of date."""

from __future__ import annotations

import json
from dataclasses import asdict
from hashlib import sha256

from medsam2.batch.cases import Case
from medsam2.batch.settings import BatchSettings
from medsam2.batch.storage import state_of

_FORMAT = 1  # of what is digested
# Where it is computed and what may be fetched change nothing that a batch should be done again for.
_NOT_LOOKED_AT = ("weights", "device", "max_download_mib")


def fingerprint(case: Case, settings: BatchSettings, weights_sha256: str) -> str:
    """Return the SHA-256 of the image's name, size and time, the prompts, the weights and the options.

    Files that prompts and masks refer to count as the image does. Nothing of them is read.

    Raises:
        InputError: One of the files is not there.
    """
    places = [case.place, *case.mask_places, *([] if case.source is None else [case.source])]
    options = {name: value for name, value in asdict(settings).items() if name not in _NOT_LOOKED_AT}
    content = {
        "format": _FORMAT,
        "case": {
            "image": case.image,
            "plane": case.plane,
            "frame": case.frame,
            "series": case.series,
            "source": case.source,
        },
        "files": [state_of(place) for place in places],
        "prompts": [sorted((key, repr(value)) for key, value in row.values.items()) for row in case.rows],
        "weights": weights_sha256,
        "options": options,
    }
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
