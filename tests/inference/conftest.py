"""A model folder with a small random network, and images of many geometries."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnsam3d.cli import main
from nnsam3d.inference import Session
from nnsam3d.inference.model import Model
from nnsam3d.network import SAM3D, SAM3DConfig
from nnsam3d.prompts import PromptCodec, click_labels
from nnsam3d.prompts.kinds import KINDS
from nnsam3d.training.click_unet import CLICK_CHANNELS_KEY, nnUNetClickTrainer

PATCH = (16, 24, 24)
CASE_SHAPE = (16, 26, 24)
ARCHITECTURE: dict[str, Any] = {
    "patch_size": PATCH,
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 3,
    "window": (4, 3, 3),
    "token_stride": (4, 4, 4),
    "neck_dim": 16,
    "decoder_dim": 8,
    "prompt_heads": 4,
    "prompt_mlp_dim": 32,
    "pos_embed_size": (8, 8),
    "max_clicks": 4,
}


class ArrayVolume:
    """An array as a preprocessed image."""

    properties: ClassVar[dict[str, Any]] = {}

    def __init__(self, data_CDHW: np.ndarray) -> None:
        self.data_CDHW = data_CDHW

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data_CDHW.shape[1:]

    def box(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        far = max(size)
        padded = np.pad(self.data_CDHW, [(0, 0), *[(far, far)] * 3])
        return padded[(slice(None), *(slice(a + far, a + far + n) for a, n in zip(start, size, strict=True)))]

    def whole(self) -> np.ndarray:
        return self.data_CDHW


def write_model(
    folder: Path,
    *,
    labels: dict[str, Any] | None = None,
    transpose: Sequence[int] = (0, 1, 2),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    patch: Sequence[int] = PATCH,
    folds: int = 1,
    channels: int = 1,
    kinds: Sequence[str] = ("click",),
    hears: Callable[[SAM3D, PromptCodec], None] = lambda net, codec: None,
    unet: dict[str, Any] | None = None,
) -> Path:
    """`folder` as nnU-Net leaves it after training, as far as prediction reads it.

    Args:
        patch: voxels (z, y, x) of a window.
        kinds: of prompts that the network supports.
        hears: changes the random network.
        unet: the architecture in nnU-Net's plans; with it, the network is that of nnUNetClickTrainer.
    """
    labels = labels or {"background": 0, "lesion": 1, "organ": 2}
    dataset = {"labels": labels}
    if any(isinstance(value, list) for value in labels.values()):
        dataset["regions_class_order"] = list(range(1, len(labels)))
    codec = PromptCodec.of(kinds, click_labels(dataset), spacing)
    architecture = ARCHITECTURE | {"num_click_labels": codec.labels, "extent_maps": len(codec.maps)}
    architecture["patch_size"] = tuple(patch)
    kwargs = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "x",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "spacing": list(spacing),
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        "nnsam3d_prompt_types": list(kinds),
        CLICK_CHANNELS_KEY: {"labels": codec.labels, "radius": [2, 2, 2], "maps": len(codec.maps)},
        "architecture": unet
        or {"network_class_name": "nnsam3d.network.SAM3D", "arch_kwargs": architecture, "_kw_requires_import": []},
    }
    for what in ("data", "seg", "probabilities"):
        configuration[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        configuration[f"resampling_fn_{what}_kwargs"] = {**kwargs, "is_seg": what == "seg"}
    plans = {
        "dataset_name": "Dataset999_Test",
        "plans_name": "nnUNetPlans",
        "label_manager": "LabelManager",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose),
        "transpose_backward": [int(i) for i in np.argsort(transpose)],
        "foreground_intensity_properties_per_channel": {str(i): {} for i in range(channels)},
        "configurations": {"3d_fullres": configuration},
    }
    names = {str(i): f"MR{i}" for i in range(channels)}
    folder.mkdir(parents=True)
    save_json(plans, str(folder / "plans.json"))
    dataset |= {"channel_names": names, "file_ending": ".nii.gz"}
    save_json(dataset, str(folder / "dataset.json"), sort_keys=False)  # the order of regions matters
    manager = PlansManager(plans)
    heads = manager.get_label_manager(dataset).num_segmentation_heads
    for fold in range(folds):
        torch.manual_seed(fold)
        net: Any
        if unet:
            stock = manager.get_configuration("3d_fullres")
            net = nnUNetClickTrainer.build_network_architecture(manager, stock, channels, heads, False)
        else:
            net = SAM3D(SAM3DConfig(**architecture, num_image_channels=channels, num_classes=heads))
        with torch.no_grad():  # as initialised a network hardly listens to its clicks
            for name, parameter in net.named_parameters():
                if not name.endswith(".lr"):
                    parameter.add_(0.1 * torch.randn_like(parameter))
            hears(net, codec)
        (folder / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": net.state_dict(),
            "trainer_name": "nnUNetClickTrainer" if unet else "SAM3DAdapterTrainer",
            "init_args": {"configuration": "3d_fullres"},
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres", folds=2)


def literally(net: SAM3D, codec: PromptCodec) -> None:
    """The network says what the prompts say, and nothing else: label 1 where a map of label 1 is positive."""
    decoder = net.mask_decoder
    for convolution in (decoder.cls[-1], decoder.extent_map, decoder.extent_logits):
        torch.nn.init.zeros_(convolution.weight)
    for label in (1, 2):  # a box is stronger than a mask that says otherwise
        decoder.extent_logits.weight[label, codec.maps.index(("mask", label)), 1, 1, 1] = 8.0
    for name in ("box_el", "plane_near", "line_ball"):
        number = codec.maps.index((name, 1))
        decoder.extent_logits.weight[1, number, 1, 1, 1] = 20.0
    decoder.extent_logits.weight[0, codec.maps.index(("box_el", 1)), 1, 1, 1] = -1.0  # not a tie where nothing is said


@pytest.fixture(scope="session")
def literal_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that supports all kinds of prompts and takes them at their word."""
    folder = tmp_path_factory.mktemp("literal") / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres"
    return write_model(folder, kinds=tuple(KINDS), hears=literally)


@pytest.fixture
def literal(literal_folder: Path) -> Model:
    """Without mirroring."""
    return Model(literal_folder, [0], mirroring=False)


@pytest.fixture
def model(model_folder: Path) -> Model:
    """Fold 0, without mirroring."""
    return Model(model_folder, [0], mirroring=False)


def volume(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Noise with something bright in it, never zero (nnU-Net would crop zeros)."""
    rng = np.random.default_rng(seed)
    array = rng.normal(100, 10, shape).astype(np.float32)
    z, y, x = (n // 2 for n in shape)
    array[z - 2 : z + 3, y - 3 : y + 4, x - 3 : x + 4] += 60
    return array


def opened(model: Any, image: Any, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> Session:
    """A session with an image; arrays have this spacing."""
    session = Session(model)
    session.set_image(image, spacing if isinstance(image, np.ndarray) else None)
    return session


@pytest.fixture
def write_image(tmp_path: Path) -> Callable[..., Path]:
    """Writes a volume as one channel of a case; oblique unless told otherwise."""

    def write(name: str = "case_0000.nii.gz", shape: tuple[int, int, int] = (20, 40, 30), **geometry: Any) -> Path:
        image = sitk.GetImageFromArray(volume(shape, geometry.get("seed", 0)))
        image.SetSpacing(geometry.get("spacing_xyz", (1.0, 1.0, 1.0)))
        image.SetOrigin((-20.0, 30.0, 5.0))
        turn = 0.3
        oblique = (np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, 1)
        image.SetDirection(geometry.get("direction", oblique))
        path = tmp_path / "images" / name
        path.parent.mkdir(exist_ok=True)
        sitk.WriteImage(image, str(path))
        return path

    return write


@pytest.fixture
def demo(tmp_path: Path, write_image: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model and an image where `nnsam3d demo` leaves them."""
    model = "results/Dataset990_PhantomCT/SAM3DAdapterTrainer__nnUNetPlans__3d_fullres"
    write_model(tmp_path / "demo" / model, labels={"background": 0, "lesion": 1})
    image = write_image("test_000_0000.nii.gz", shape=(20, 40, 40))
    images = tmp_path / "demo" / "raw" / "Dataset990_PhantomCT" / "imagesTs"
    images.mkdir(parents=True)
    shutil.move(image, images / image.name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---------------------------------------------------------------------- folders of cases for `nnsam3d predict`


def write_case(folder: Path, name: str, clicks: list[Any] | None = None, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(volume(CASE_SHAPE, seed))
    image.SetSpacing((1.0, 1.0, 1.0))
    sitk.WriteImage(image, str(folder / f"{name}_0000.nii.gz"))
    if clicks is not None:
        write_clicks(folder, name, clicks)


def write_clicks(folder: Path, name: str, clicks: list[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    listed = [{"position": position, "label": label} for position, label in clicks]
    (folder / f"{name}.json").write_text(json.dumps({"nnsam3d_prompts": 1, "space": "voxel", "clicks": listed}))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cases; the last one without clicks."""
    folder = tmp_path_factory.mktemp("images with spaces")
    for number in range(6):
        clicks = [([10 + number % 3, 12, 8], "lesion"), ([3, 4, 2], 0)] if number < 5 else None
        write_case(folder, f"case_{number}", clicks, number)
    return folder


def predict_with(model: Path, images: Path, output: Path, *more: Any) -> int:
    """The status of `nnsam3d predict` on the CPU, without mirroring."""
    arguments = ["predict", "-i", images, "-o", output, "-m", model, "-device", "cpu", "--disable_tta", *more]
    return main([str(argument) for argument in arguments])


@pytest.fixture
def predict(model_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """With fold 0: status and folder of the results."""
    monkeypatch.setenv("nnsam3d_prompts", "")  # what --prompts sets ends with the test

    def run(*more: Any, output: str = "out", folder: Path = images) -> tuple[int, Path]:
        return predict_with(model_folder, folder, tmp_path / output, "-f", 0, *more), tmp_path / output

    return run


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
