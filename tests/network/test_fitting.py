"""A model's weights as the beginning of another network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nnsam3d.errors import UserError
from nnsam3d.network import SAM3D, SAM3DConfig
from nnsam3d.network.fitting import load_fitting
from nnsam3d.network.prompts import PromptTensors

from .conftest import SMALL

BASE: dict[str, Any] = SMALL | {
    "patch_size": (16, 16, 16),
    "window": (4, 4, 4),
    "max_clicks": 4,
    "fine_click_maps": 2,
    "detail_dim": 4,
    "num_image_channels": 1,
    "num_classes": 2,
    "num_click_labels": 2,
    "extent_maps": 7,
    "extents_at_voxels": True,
    "rel_pos_tables": "window",
}


def network(**changed: Any) -> SAM3D:
    torch.manual_seed(len(str(changed)))
    net = SAM3D(SAM3DConfig(**{**BASE, **changed})).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    def save(net: SAM3D) -> Path:
        torch.save(net.state_dict(), tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    return save


def answer(net: SAM3D, image: torch.Tensor, label: int = 1, maps: int = 7) -> torch.Tensor:
    dense = torch.zeros(1, maps, *image.shape[2:])
    dense[:, label - 1 :: maps // 7] = 0.5
    prompts = PromptTensors(torch.tensor([[[8.0, 7, 5]]]), torch.tensor([[label]]), dense)
    with torch.no_grad():
        return net.decode(net.encode(image), prompts)


def test_an_equal_network_is_loaded_completely(saved: Any) -> None:
    old, new = network(), network(max_clicks=5)
    report = load_fitting(new, old.state_dict(), saved(old))
    assert not report.new
    assert not report.unused
    assert not report.adapted
    image = torch.randn(1, 1, 16, 16, 16)
    torch.testing.assert_close(answer(new, image), answer(old, image))


def test_every_label_begins_as_the_object(saved: Any) -> None:
    """A click, or an extent, on either label is answered as one on the object; the other label has the same logits."""
    old, new = network(), network(num_classes=3, num_click_labels=3, extent_maps=14)
    report = load_fitting(new, old.state_dict(), saved(old))
    assert not report.new
    image = torch.randn(1, 1, 16, 16, 16)
    expected = answer(old, image)
    for label in (1, 2):
        found = answer(new, image, label, maps=14)
        torch.testing.assert_close(found[:, :2], expected)
        torch.testing.assert_close(found[:, 2], expected[:, 1])


def test_a_region_has_the_odds_of_the_object(saved: Any) -> None:
    old, new = network(), network(num_classes=2, num_click_labels=3, extent_maps=14)
    load_fitting(new, old.state_dict(), saved(old))
    image = torch.randn(1, 1, 16, 16, 16)
    expected = answer(old, image)
    found = answer(new, image, maps=14)
    torch.testing.assert_close(found[:, 0], expected[:, 1] - expected[:, 0])


def test_equal_channels_give_the_same_answer(saved: Any) -> None:
    old, new = network(), network(num_image_channels=3)
    report = load_fitting(new, old.state_dict(), saved(old))
    assert report.new == ["image_encoder.channel_map"]
    with torch.no_grad():
        new.image_encoder.get_parameter("channel_map").fill_(1 / 3)
    image = torch.randn(1, 1, 16, 16, 16)
    torch.testing.assert_close(answer(new, image.expand(-1, 3, -1, -1, -1)), answer(old, image), rtol=1e-4, atol=1e-4)


def test_tables_of_positions_are_interpolated(saved: Any) -> None:
    old, new = network(), network(patch_size=(16, 24, 32), window=(4, 6, 8))
    table = "image_encoder.blocks.0.attn.rel_pos_w"
    with torch.no_grad():
        rows = old.get_parameter(table)
        rows.copy_(torch.linspace(-1, 1, len(rows))[:, None])
    report = load_fitting(new, old.state_dict(), saved(old))
    assert not report.new
    assert table in report.adapted
    longer = new.get_parameter(table)[:, 0]
    assert len(longer) > len(rows)
    assert (longer.diff() >= 0).all()
    assert longer.min() >= -1
    torch.testing.assert_close(longer, -longer.flip(0))


def test_the_position_table_is_that_of_another_patch(saved: Any) -> None:
    old = network(pos_embed_size=(4, 4))
    new = network(patch_size=(16, 24, 12), window=(4, 6, 3), pos_embed_size=(6, 3))
    report = load_fitting(new, old.state_dict(), saved(old))
    assert "image_encoder.pos_embed" in report.adapted
    grid = (6, 3, 4)
    torch.testing.assert_close(new.image_encoder.positions(grid), old.image_encoder.positions(grid))


BY_NAME = ("mask_decoder.extent_map.weight", "mask_decoder.extent_logits.weight", "mask_decoder.voxel_map.weight")
EVERY = ("click", "scribble", "box", "line", "lasso", "mask")  # box_sd, box_el, plane_near, plane_far, line_…, mask


def of_extents(net: SAM3D) -> list[torch.Tensor]:
    state = net.state_dict()
    return [state[name][:, -net.config.extent_maps :].clone() for name in BY_NAME]


def test_maps_are_matched_by_name(saved: Any) -> None:
    old, new = network(extent_maps=2), network()
    before = of_extents(new)
    load_fitting(new, old.state_dict(), saved(old), (("click", "lasso"), EVERY))
    for given, own, found in zip(of_extents(old), before, of_extents(new), strict=True):
        torch.testing.assert_close(found[:, 2:4], given)
        torch.testing.assert_close(found[:, [0, 1, 4, 5, 6]], own[:, [0, 1, 4, 5, 6]])
    back = network(extent_maps=4, num_classes=3, num_click_labels=3)
    load_fitting(back, new.state_dict(), saved(new), (EVERY, ("click", "lasso")))
    for given, found in zip(of_extents(new)[::2], of_extents(back)[::2], strict=True):
        torch.testing.assert_close(found, given[:, [2, 2, 3, 3]], msg="both labels begin as the object")


def test_as_many_maps_of_another_kind_are_none_of_its_own(saved: Any) -> None:
    old, new = network(extent_maps=2), network(extent_maps=2, max_clicks=5)
    before = of_extents(new)
    report = load_fitting(new, old.state_dict(), saved(old), (("click", "lasso"), ("click", "line")))
    assert {*BY_NAME[:2]} <= {*report.new}
    torch.testing.assert_close(of_extents(new), before)
    clicks = [net.mask_decoder.voxel_map.weight[:, :2] for net in (old, new)]
    torch.testing.assert_close(*clicks)


@pytest.mark.parametrize("number", [2, 7])
def test_maps_without_names_are_matched_where_there_are_as_many(saved: Any, number: int) -> None:
    old, new = network(extent_maps=number), network(max_clicks=5)
    before = of_extents(new)
    load_fitting(new, old.state_dict(), saved(old))
    torch.testing.assert_close(of_extents(new), of_extents(old) if number == 7 else before)


@pytest.mark.parametrize("there", [0, 2])
def test_maps_of_clicks_at_the_voxels_may_be_missing(saved: Any, there: int) -> None:
    old, new = network(fine_click_maps=there), network(fine_click_maps=2 - there, max_clicks=5)
    load_fitting(new, old.state_dict(), saved(old))
    torch.testing.assert_close(of_extents(new), of_extents(old))


def test_what_nobody_knows_stays_as_it_was(saved: Any) -> None:
    old, new = network(decoder_dim=12), network()
    before = new.mask_decoder.cls[0].weight.clone()
    report = load_fitting(new, old.state_dict(), saved(old))
    assert "mask_decoder.cls.0.weight" in report.new
    assert "mask_decoder.cls.0.weight" in report.unused
    torch.testing.assert_close(new.mask_decoder.cls[0].weight, before)


def test_a_model_of_regions_gives_labels_no_last_layer(saved: Any) -> None:
    """Its first row is a region, not background, also where the numbers of rows are equal."""
    old, new = network(num_classes=2, num_click_labels=3, extent_maps=14), network()
    before = new.mask_decoder.cls[3].weight.clone()
    report = load_fitting(new, old.state_dict(), saved(old))
    assert "mask_decoder.cls.3.weight" in report.new
    torch.testing.assert_close(new.mask_decoder.cls[3].weight, before)


def test_other_networks_are_loaded_where_shapes_are_equal(tmp_path: Path) -> None:
    old = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3), torch.nn.Conv3d(4, 2, 1))
    new = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3), torch.nn.Conv3d(4, 3, 1))
    torch.save(old.state_dict(), tmp_path / "weights.pth")
    report = load_fitting(new, old.state_dict(), tmp_path / "weights.pth")
    assert report.loaded == ["0.weight", "0.bias"]
    assert report.new == ["1.weight", "1.bias"]


def test_a_network_of_another_size_is_no_beginning(saved: Any) -> None:
    old = network()
    with pytest.raises(UserError, match=r"only \d+% of the network's parameters .*preset"):
        load_fitting(network(embed_dim=2 * BASE["embed_dim"]), old.state_dict(), saved(old))
