from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from nnsam3d.network import PRESETS, SAM3DConfig, preset_config


def test_defaults_are_the_paper() -> None:
    config = SAM3DConfig()
    assert config == preset_config("vit_b")
    assert config.token_grid == (32, 32, 32)
    assert config.feature_blocks == (2, 5, 8, 11)
    assert (config.adapter_dim, config.num_click_labels, config.pos_embed_size) == (384, 2, (64, 64))
    assert config.rel_pos_lengths[2] == (127, 127, 127)
    assert config.rel_pos_lengths[0] == (27, 27, 27)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config = preset_config(name, num_classes=5, patch_size=(96, 160, 128))
    stored = json.loads(json.dumps(dataclasses.asdict(config)))
    assert SAM3DConfig(**stored) == config


def test_whole_numbers_and_numpy_are_normalised() -> None:
    config = SAM3DConfig(patch_size=np.array([64, 96, 128]), window=4, token_stride=[2, 4, 4], depth=np.int64(8))
    assert config.patch_size == (64, 96, 128)
    assert config.window == (4, 4, 4)
    assert config.token_grid == (32, 24, 32)
    json.dumps(dataclasses.asdict(config))


def test_tables_of_the_own_window_and_grid() -> None:
    config = preset_config("tiny", window=(2, 3, 4), patch_size=(32, 48, 64))
    assert config.pos_embed_size == (12, 16)
    assert set(config.rel_pos_lengths) == {(5, 7, 3)}  # H, W, D


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_heads": 5}, ["num_heads 5", "768"]),
        ({"depth": 6}, ["depth is 6", "multiple of 4", "4 or 8"]),
        ({"prompt_heads": 3}, ["prompt_heads 3", "256"]),
        ({"token_stride": (4, 17, 4)}, ["(4, 17, 4)", "1..16"]),
        ({"neck_dim": 0}, ["neck_dim", "0"]),
        ({"window": (8, 0, 8)}, ["window", "(8, 0, 8)"]),
        ({"patch_size": (64, 64)}, ["patch_size", "(64, 64)"]),
        ({"window": 2.5}, ["window", "2.5"]),
        ({"rel_pos_tables": "long"}, ["rel_pos_tables", "long", "sam"]),
        ({"rel_pos_tables": [(3, 3, 3)]}, ["rel_pos_tables", "1 entries", "12"]),
        (
            {"patch_size": (20, 128, 128)},
            ["(20, 128, 128)", "(5, 32, 32)", "(8, 8, 8)", "(5, 8, 8)", "smaller"],
        ),
    ],
)
def test_errors_name_value_and_remedy(change: dict, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        SAM3DConfig(**change)
    assert all(word in str(caught.value) for word in words), caught.value


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="tiny, vit_b, vit_l, vit_h"):
        preset_config("vit_x")
    with pytest.raises(ValueError, match=r"colour.*known are.*embed_dim"):
        preset_config("tiny", colour=1)
