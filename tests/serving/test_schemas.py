"""What clients send in other words than ours: byte order marks, data: URIs, base64 of URLs, HEAD."""

from __future__ import annotations

import base64
import json

import pytest

from medsam2.serving.schemas import bytes_in, json_in

DATA = bytes(range(256)) + b"\xfb\xff\xfe"  # whose base64 holds + and /
TEXT = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.rstrip("="),
        base64.urlsafe_b64encode(DATA).decode(),
        base64.urlsafe_b64encode(DATA).decode().rstrip("="),
        base64.encodebytes(DATA).decode(),
        f"data:application/gzip;base64,{TEXT}",
        f"DATA:;BASE64,{TEXT}",
        f"data:application/octet-stream;charset=binary;base64,{TEXT.replace('+', '%2B').replace('/', '%2f')}",
    ],
)
def test_ways_to_write_base64(text: str) -> None:
    assert bytes_in(text) == DATA


@pytest.mark.parametrize(
    "text", ["*", "A", "AAAA=AAAA", "data:text/plain,AAAA", "data:AAAA", "\u00e4\u00e4\u00e4\u00e4"]
)
def test_what_is_no_base64(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        bytes_in(text)


def test_a_byte_order_mark_says_nothing() -> None:
    body = '{"a": "\u00fc"}'.encode()
    for sent in (body, b"\xef\xbb\xbf" + body):
        assert json_in(sent) == json_in(bytearray(sent)) == {"a": "\u00fc"}
    for other in ("utf-16-le", "utf-16-be"):
        with pytest.raises(ValueError, match="UTF-16; UTF-8 is expected"):
            json_in(("\ufeff" + body.decode()).encode(other))
    with pytest.raises(ValueError, match=r"."):
        json_in(b"\xef\xbb\xbf" * 2 + body)


def test_the_contract_takes_them(server, table, scan: str) -> None:
    expected = server.score({**table, "mask_format": ["rle"]}).json()["mask"]
    assert expected
    for image in (
        f"data:application/gzip;base64,{scan}",
        scan.replace("+", "-").replace("/", "_").rstrip("="),
    ):
        answer = server.score({**table, "nii_image": [image], "mask_format": ["rle"]})
        assert answer.json()["mask"] == expected
    body = json.dumps({"input_data": {**table, "mask_format": ["rle"]}}).encode()
    answer = server.client.post("/score", content=b"\xef\xbb\xbf" + body)
    assert answer.json()["mask"] == expected
    answer = server.client.post("/score", content=body.decode().encode("utf-16"))
    assert answer.status_code == 400
    assert "UTF-16; UTF-8 is expected" in answer.json()["error"]


def test_head_is_get_without_the_body(server) -> None:
    for path in ("/healthz", "/readyz", "/ping", "/metrics", "/openapi.json", "/v1/sessions", "/nowhere"):
        asked, headed = server.client.get(path), server.client.head(path)
        assert headed.status_code == asked.status_code
        assert headed.content == b""
        assert headed.headers["content-type"] == asked.headers["content-type"]
    assert server.client.head("/score").status_code == 405
