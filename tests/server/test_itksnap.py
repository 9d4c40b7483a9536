"""ITK-SNAP's routes."""

from __future__ import annotations

import base64
import gzip
import json

import numpy as np
import pytest

from nnsam3d.inference.model import Model
from nnsam3d.server.drawn import lasso_prompts, scribble_prompts
from nnsam3d.server.itksnap import PARTS, multipart
from nnsam3d.server.refusal import Refusal

from .conftest import SHAPE, SPACING, Running, Start, image_array, opened_array

FORM = {"Content-Type": "multipart/form-data; boundary=----edge"}


def form(array: np.ndarray, **changes: object) -> bytes:
    metadata = {
        "dimensions": list(array.shape[::-1]),
        "spacing": list(SPACING[::-1]),
        "components_per_pixel": 1,
        **changes,
    }
    parts = []
    for name, content in (
        ("file", gzip.compress(array.astype("<f4").tobytes())),
        ("metadata", json.dumps(metadata).encode()),
    ):
        head = f'------edge\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    return b"".join(parts) + b"------edge--\r\n"


def mask_of(reply: dict[str, str]) -> np.ndarray:
    return np.frombuffer(gzip.decompress(base64.b64decode(reply["result"])), np.int8).reshape(SHAPE)


def test_a_session(running: Running, served_model: Model) -> None:
    assert running.ask("GET", "/status").json()["status"] == "ok"
    token = running.ask("GET", "/start_session").json()["session_id"]
    assert running.ask("POST", f"/upload_raw/{token}?filename=x.nii", form(image_array()), headers=FORM).status == 200
    session = opened_array(served_model)
    for (x, y, z), foreground in (((15, 20, 10), "true"), ((14, 22, 9), "false")):
        address = f"/process_point_interaction/{token}?x={x}&y={y}&z={z}&foreground={foreground}"
        mask = mask_of(running.ask("GET", address).json())
        session.add_click((x, y, z), int(foreground == "true"))
        np.testing.assert_array_equal(mask, session.segmentation == 1)
    assert mask.any()
    drawing = np.zeros(SHAPE, np.float32)
    drawing[10, 18, 20] = 1
    reply = running.ask("POST", f"/process_scribble_interaction/{token}?foreground=true", form(drawing), headers=FORM)
    session.add_click((20, 18, 10), 1)
    np.testing.assert_array_equal(mask_of(reply.json()), session.segmentation == 1)
    assert running.ask("GET", f"/reset_interactions/{token}").json() == {"status": "success"}
    address = f"/process_point_interaction/{token}?x=15&y=20&z=10&foreground=true"
    session.reset()
    session.add_click((15, 20, 10), 1)
    np.testing.assert_array_equal(mask_of(running.ask("GET", address).json()), session.segmentation == 1)
    assert running.ask("POST", f"/process_lasso_interaction/{token}", b"").status == 400
    assert running.ask("GET", f"/end_session/{token}").status == 200
    assert running.ask("GET", address).status == 410


def test_drawings_for_a_model_with_all_kinds(start: Start, drawing_model: Model) -> None:
    running = start(drawing_model)
    token = running.ask("GET", "/start_session").json()["session_id"]
    running.ask("POST", f"/upload_raw/{token}?filename=x.nii", form(image_array()), headers=FORM)
    session = opened_array(drawing_model)
    drawing = np.zeros(SHAPE, np.float32)
    drawing[10, 18:22, 8:20] = 1
    for what, foreground in (("scribble", "true"), ("lasso", "true"), ("scribble", "false")):
        address = f"/process_{what}_interaction/{token}?foreground={foreground}"
        mask = mask_of(running.ask("POST", address, form(drawing), headers=FORM).json())
        drawn = lasso_prompts if what == "lasso" else scribble_prompts
        session.add(drawn(drawing > 0, (0, 0, 0), int(foreground == "true"), session.kinds), "array")
        np.testing.assert_array_equal(mask, session.segmentation == 1)
        assert mask.any()
    assert [prompt.kind for prompt in session.prompts] == ["scribble", "lasso", "scribble"]
    assert not mask[drawing > 0].any()
    # its content is not looked at
    for wrong in (form(drawing[1:]), form(drawing[1:], dimensions=[2000, 2000, 100])):
        reply = running.ask("POST", f"/process_lasso_interaction/{token}", wrong, headers=FORM)
        assert (reply.status, "the drawn mask has shape" in reply.reason) == (400, True)


def test_uploads_that_are_not_what_they_announce(running: Running) -> None:
    token = running.ask("GET", "/start_session").json()["session_id"]
    for body, words in (
        (form(image_array(), dimensions=[30, 40, 21]), "does not contain"),
        (form(image_array(), dimensions=[30, 40, 19]), "does not contain"),
        (form(image_array(), dimensions=[30, 40]), "dimensions"),
        (form(image_array(), dimensions=[10**6] * 3), "limit"),
        (form(image_array(), components_per_pixel=3), "one value"),
        (b"nothing", "two parts"),
    ):
        reply = running.ask("POST", f"/upload_raw/{token}", body, headers=FORM)
        assert reply.status in (400, 413)
        assert words in reply.reason


PART = b'--edge\r\nContent-Disposition: form-data; name="%d"\r\n\r\n\r\n'


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"--edge" + b";" * 2**24 + b"\r\n\r\n", "no head, or one of more than 4096 bytes"),
        (b"--edge\r\n", "no head"),
        (b"".join(PART % number for number in range(PARTS + 1)), "more than 16 parts"),
        (PART % 0 * 10**6, "more than 16 parts"),
    ],
    ids=["long head", "no head", "many parts", "millions of parts"],
)
def test_forms_that_would_take_long(body: bytes, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        multipart("multipart/form-data; boundary=edge", body)


def test_as_many_parts_as_allowed() -> None:
    parts = b"".join(PART % number for number in range(PARTS))
    for end in (b"", b"--edge--\r\n", b"nothing"):
        assert len(multipart("multipart/form-data; boundary=edge", parts + end)) == PARTS
    assert multipart("multipart/form-data; boundary=edge", b"nothing") == {}


def test_metadata_is_small(running: Running) -> None:
    token = running.ask("GET", "/start_session").json()["session_id"]
    body = form(image_array(), more=" " * 2**20)
    reply = running.ask("POST", f"/upload_raw/{token}", body, headers=FORM)
    assert (reply.status, "the metadata has" in reply.reason) == (413, True)


def test_parts_of_a_form() -> None:
    content = bytes(range(256)) + b"\r\n\r\n --edge"
    body = (
        b'--edge\r\nContent-Type: x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + content + b"\r\n--edge--\r\n"
    )
    found = multipart('multipart/form-data; boundary="edge"', body)
    assert found == {"a": content}
    assert found["a"].obj is body, "not copied"
