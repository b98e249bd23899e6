"""Let a server segment a scan, by the published JSON contract and with Python's own library alone.

    medsam2 serve
    python examples/ask_server.py http://127.0.0.1:8000 demo/scan.nii.gz demo/served.nii.gz

Set MEDSAM2_API_KEY if the server has a key.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROW = {"bbox": [65, 113, 82, 137], "key_slice_idx": 24, "dicom_window": [-160, 240]}


def score(url: str, rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Send a table of rows and return an answer for each; if a row failed, it has `error` and `status`."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("MEDSAM2_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    body = json.dumps({"dataframe_records": rows}).encode()
    request = urllib.request.Request(f"{url}/score", body, headers)
    # No proxy of the environment is used: the scan goes to this server and nowhere else.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:  # the body says in words what was wrong
        answer = json.load(error)
    return answer if isinstance(answer, list) else [answer]


def main(url: str, scan: str, output: str) -> None:
    """Request the mask as a NIfTI file, and write it."""
    image = base64.b64encode(Path(scan).read_bytes()).decode()
    (answer,) = score(url, [{**ROW, "nii_image": image, "mask_format": "nifti"}])
    if "error" in answer:
        sys.exit(f"{answer['status']}: {answer['error']}")
    Path(output).write_bytes(base64.b64decode(answer["mask"]))
    print(f"{output}: {answer['metadata']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
