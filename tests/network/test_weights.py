from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nnsam3d.network import SAM3D, SAM3DConfig
from nnsam3d.network.weights import WeightsError, from_official, load_sam

from .conftest import SMALL, same

POS = 16  # SAM's position table is square
SAM_LIKE = SAM3DConfig(**{**SMALL, "pos_embed_size": (POS, POS)})


def sam_state(dim: int = 24, depth: int = 4, heads: int = 3, pos: int = POS) -> dict[str, Tensor]:
    """A checkpoint in the layout of SAM's, with its other parts (abridged); values random."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    state = {
        "image_encoder.pos_embed": draw(1, pos, pos, dim),
        "image_encoder.patch_embed.proj.weight": draw(dim, 3, 16, 16),
        "image_encoder.patch_embed.proj.bias": draw(dim),
    }
    for i in range(depth):
        block = f"image_encoder.blocks.{i}."
        length = 2 * pos - 1 if i % (depth // 4) == depth // 4 - 1 else 27
        for name, shape in {
            "norm1.weight": (dim,),
            "norm1.bias": (dim,),
            "attn.rel_pos_h": (length, dim // heads),
            "attn.rel_pos_w": (length, dim // heads),
            "attn.qkv.weight": (3 * dim, dim),
            "attn.qkv.bias": (3 * dim,),
            "attn.proj.weight": (dim, dim),
            "attn.proj.bias": (dim,),
            "norm2.weight": (dim,),
            "norm2.bias": (dim,),
            "mlp.lin1.weight": (4 * dim, dim),
            "mlp.lin1.bias": (4 * dim,),
            "mlp.lin2.weight": (dim, 4 * dim),
            "mlp.lin2.bias": (dim,),
        }.items():
            state[block + name] = draw(*shape)
    unused = {
        "image_encoder.neck.0.weight": (8, dim, 1, 1),
        "image_encoder.neck.1.weight": (8,),
        "image_encoder.neck.2.weight": (8, 8, 3, 3),
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (2, 4),
        "prompt_encoder.point_embeddings.0.weight": (1, 8),
        "mask_decoder.transformer.layers.0.self_attn.q_proj.weight": (8, 8),
        "mask_decoder.iou_token.weight": (1, 8),
    }
    return state | {name: draw(*shape) for name, shape in unused.items()}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_load_sam(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"sam{suffix}"
    state = sam_state()
    if suffix == ".pth":
        torch.save(state, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(state, path)
    net = SAM3D(SAM_LIKE)
    fresh = {name: value.clone() for name, value in net.state_dict().items()}
    report = load_sam(net, path)
    own = net.state_dict()
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sorted(report.unused) == sorted(k for k in state if ".neck." in k or not k.startswith("image_encoder"))
    assert sorted(report.loaded) == sorted(set(state) - set(report.unused))
    assert report.adapted == [f"image_encoder.blocks.{i}.attn.rel_pos_d" for i in range(4)]
    assert sorted([*report.loaded, *report.adapted, *report.new]) == sorted(own)
    for name in report.loaded:
        assert torch.equal(own[name], state[name]), name
    for name in report.adapted:
        same(own[name], (state[name[:-1] + "h"] + state[name[:-1] + "w"]) / 2, 1e-6)
    for name in report.new:
        assert torch.equal(own[name], fresh[name]), name
    assert "4 adapted" in report.summary()
    assert report.sha256 in report.summary()


def test_a_detail_branch_is_none_of_sams(tmp_path: Path) -> None:
    torch.save(sam_state(), tmp_path / "sam.pth")
    net = SAM3D(SAM3DConfig(**{**SMALL, "pos_embed_size": (POS, POS), "detail_dim": 4}))
    report = load_sam(net, tmp_path / "sam.pth")
    detail = {name for name in net.state_dict() if name.startswith("image_encoder.detail.")}
    assert detail
    assert detail <= {*report.new}


def refuse(net: SAM3D, path: Path, *words: str) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_sam(net, path)
    for word in (str(path), *words):
        assert word in str(caught.value), caught.value
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_unusable_files(tmp_path: Path) -> None:
    net = SAM3D(SAM_LIKE)
    refuse(net, tmp_path / "missing.pth", "no such file")
    whole = tmp_path / "whole.pth"
    torch.save(sam_state(), whole)
    cut = tmp_path / "cut.pth"
    for part in (0, 10, whole.stat().st_size // 2, whole.stat().st_size - 100):
        cut.write_bytes(whole.read_bytes()[:part])
        refuse(net, cut, f"{part} bytes", "download it again")
    pytest.importorskip("safetensors.torch").save_file(sam_state(), tmp_path / "whole.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-100])
    refuse(net, cut, "download it again")
    page = tmp_path / "page.pth"
    page.write_text("<html>404</html>")
    refuse(net, page, "download it again")
    torch.save([1, 2], tmp_path / "list.pth")
    refuse(net, tmp_path / "list.pth", "no state dict")
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    refuse(net, tmp_path / "other.pth", "not a SAM checkpoint")


def test_wrong_sizes_name_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    state = sam_state()
    # ViT-L's names and outer sizes suffice for the message; the whole would be 1.2 GB.
    state["image_encoder.pos_embed"] = torch.zeros(1, 64, 64, 1024)
    state["image_encoder.blocks.23.norm1.weight"] = torch.zeros(1024)
    torch.save(state, path)
    refuse(SAM3D(SAM_LIKE), path, "embed_dim 24", "embed_dim 1024", "depth 24", '"vit_l"')
    torch.save(sam_state(pos=8), path)
    refuse(SAM3D(SAM_LIKE), path, "16 x 16", "8 x 8", "no preset")
    short = sam_state()
    del short["image_encoder.blocks.3.attn.qkv.weight"]
    torch.save(short, path)
    refuse(SAM3D(SAM_LIKE), path, "missing", "blocks.3.attn.qkv.weight")


# ---- official state dicts ----


def official_like(stirred: Callable[..., SAM3D]) -> SAM3D:
    return stirred(paper=True, num_classes=2, pos_embed_size=(12, 16), rel_pos_tables="window")


def test_round_trip(stirred: Callable[..., SAM3D]) -> None:
    """An anisotropic network (grid, windows, tables) from nothing but its state dict."""
    net = official_like(stirred)
    state = dict(net.state_dict())
    state["image_encoder.blocks.0.attn_mask"] = torch.zeros(1)
    state["prompt_encoder.positional_encoding_gaussian_matrix"] = torch.zeros(3, 8, dtype=torch.float64)
    again = from_official(state, num_heads=3, window=(2, 3, 4), prompt_heads=4)
    assert not again.training
    assert again.config.paper
    assert again.config.patch_size == (16, 24, 32)
    assert again.config.token_grid == net.config.token_grid
    x = torch.randn(1, 2, 16, 24, 32, dtype=torch.float64)
    assert torch.equal(again(x), net(x))


def test_unofficial_states(stirred: Callable[..., SAM3D]) -> None:
    state = official_like(stirred).state_dict()

    def load(changed: dict[str, Tensor]) -> None:
        from_official(changed, num_heads=3, window=(2, 3, 4), prompt_heads=4)

    with pytest.raises(WeightsError, match="pos_embed is missing"):
        load({})
    with pytest.raises(WeightsError, match=r"neck_3d\.3\.3\.bias is missing"):
        load({k: v for k, v in state.items() if k != "image_encoder.neck_3d.3.3.bias"})
    with pytest.raises(WeightsError, match="extra is unknown"):
        load({**state, "extra": torch.zeros(1)})
    name = "mask_decoder.cls.0.weight"
    with pytest.raises(WeightsError, match=rf"{name} is \(1,\), expected \(8, 33"):
        load({**state, name: torch.zeros(1)})


def test_the_authors_checkpoint(stirred: Callable[..., SAM3D], tmp_path: Path) -> None:
    """Three dictionaries, the prompt encoders of all levels in a list; only the last is used."""
    net = official_like(stirred).float()
    part = {
        name: {key.removeprefix(prefix): v for key, v in net.state_dict().items() if key.startswith(prefix)}
        for name, prefix in (("e", "image_encoder."), ("p", "prompt_encoder."), ("d", "mask_decoder."))
    }
    noise = {key: torch.randn_like(value) for key, value in part["p"].items()}
    part["p"]["positional_encoding_gaussian_matrix"] = torch.zeros(3, 8)
    part["e"]["blocks.0.attn_mask"] = torch.zeros(1)
    saved = {
        "epoch": 3,
        "best_val_loss": 0.25,
        "encoder_dict": part["e"],
        "feature_dict": [noise, noise, noise, part["p"]],
        "decoder_dict": part["d"],
        "optimizer": {"state": {}},
    }
    path = tmp_path / "best.pth.tar"
    torch.save(saved, path)
    x = torch.randn(1, 2, 16, 24, 32)
    for source in (saved, path, str(path)):
        again = from_official(source, num_heads=3, window=(2, 3, 4), prompt_heads=4)  # type: ignore[arg-type]
        assert torch.equal(again(x), net(x))
    for broken, words in (
        ({**saved, "feature_dict": []}, "feature_dict"),
        ({k: v for k, v in saved.items() if k != "decoder_dict"}, "decoder_dict is missing"),
        ({**saved, "encoder_dict": {}}, "pos_embed is missing"),
        ({**saved, "decoder_dict": {"cls.0.weight": 3}}, "values that are not tensors"),
    ):
        with pytest.raises(WeightsError, match=words):
            from_official(broken, num_heads=3, window=(2, 3, 4), prompt_heads=4)
    with pytest.raises(WeightsError, match="does not fit: num_heads 12"):
        from_official({**saved, "encoder_dict": {**part["e"], "pos_embed": torch.zeros(1, 12, 16, 25)}})
    with pytest.raises(WeightsError, match="no such file"):
        from_official(tmp_path / "missing.pth")
