"""Arrays on the wire: there and back, also through the client's own code, and words for what is damaged."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nnsam3d.server.arrays import KINDS, MAGIC, pack, read_header, unpack
from nnsam3d.server.refusal import Refusal

LIMIT = 2**20


@given(
    st.sampled_from(KINDS).flatmap(
        lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=1, max_dims=4, max_side=6))
    )
)
@settings(deadline=None)
def test_there_and_back(array: np.ndarray) -> None:
    back = unpack(pack(array), LIMIT)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("kind", ["int16", "uint8", "float32", "bool"])
def test_the_clients_own_code_understands_it(kind: str) -> None:
    theirs = pytest.importorskip("nnInteractive.inference.remote.serialization", reason="needs nninteractive-client")
    array = (np.random.default_rng(0).normal(size=(3, 40, 50)) * 100).astype(kind)
    np.testing.assert_array_equal(theirs.unpack_array(pack(array)), array)
    np.testing.assert_array_equal(unpack(theirs.pack_array(array), LIMIT), array)
    zeros = np.zeros((1, 64, 64, 64), kind)
    np.testing.assert_array_equal(unpack(theirs.pack_array(zeros), 2**23), zeros)


def test_sizes_are_looked_at_before_anything_is_decompressed() -> None:
    message = bytearray(pack(np.zeros((10, 10, 10), np.int16)))
    assert read_header(bytes(message), 2000).shape == (10, 10, 10)
    with pytest.raises(Refusal, match="limit") as error:
        unpack(bytes(message), 1999)
    assert error.value.status == 413
    place = message.index(b"int16") + 5
    message[place : place + 8] = (2**40).to_bytes(8, "little")
    with pytest.raises(Refusal):
        unpack(bytes(message), LIMIT)


def test_ten_thousand_damaged_messages() -> None:
    rng = random.Random(0)
    good = [pack(np.arange(60, dtype=kind).reshape(3, 4, 5)) for kind in ("int16", "float64", "uint8")]
    refused = 0
    for _ in range(10_000):
        message = bytearray(rng.choice(good))
        for _ in range(rng.randint(1, 4)):
            what = rng.random()
            if what < 0.6:
                message[rng.randrange(len(message))] = rng.randrange(256)
            elif what < 0.8:
                del message[rng.randrange(len(message)) :]
            else:
                message[rng.randrange(len(message)) : 0] = rng.randbytes(rng.randint(1, 9))
            message = message or bytearray(MAGIC)
        try:
            unpack(bytes(message), LIMIT)
        except Refusal as refusal:
            refused += 1
            assert refusal.status in (400, 413)  # noqa: PT017
    assert refused > 5000
