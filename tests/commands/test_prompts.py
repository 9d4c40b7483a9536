"""`nnsam3d prompts inspect|convert|simulate`."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d import cli
from nnsam3d.commands import prompts as prompts_command
from nnsam3d.geometry import ImageGrid
from nnsam3d.nnunet.datasets import ANY_SPACING_KEY, OPTIONS_KEY
from nnsam3d.prompts import (
    Box,
    CasePrompts,
    Click,
    Lasso,
    Line,
    MaskPrompt,
    Scribble,
    read_prompts,
    write_prompts,
)
from nnsam3d.prompts.files import WRITABLE
from nnsam3d.prompts.kinds import KINDS
from nnsam3d.prompts.simulation import STRATEGIES

DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "organ": 1, "lesion": 2, "ignore": 3},
    "file_ending": ".nii.gz",
}
SHAPE_ZYX = (12, 20, 24)


def write_image(path: Path, array: np.ndarray) -> ImageGrid:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.8, 0.9, 2.5))
    image.SetOrigin((-30.0, 12.0, 400.0))
    image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))
    return ImageGrid.from_sitk(image)


def truth() -> np.ndarray:
    array = np.zeros(SHAPE_ZYX, np.uint8)
    array[2:10, 3:17, 3:15] = 1
    array[4:8, 6:12, 6:11] = 2
    array[:, :, 20:] = 3
    return array


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A raw dataset with three cases, one of them without a label."""
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for case, array in (("a", truth()), ("b", truth()[:, ::-1].copy()), ("empty", np.zeros(SHAPE_ZYX, np.uint8))):
        write_image(tmp_path / "labelsTr" / f"{case}.nii.gz", array)
        write_image(tmp_path / "imagesTr" / f"{case}_0000.nii.gz", array.astype(np.float32))
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET), encoding="utf-8")
    return tmp_path


@pytest.fixture
def predictions(dataset: Path) -> tuple[Path, np.ndarray]:
    """Right for all cases but "a": there, the lesion is missed, and invented elsewhere. And the mask of "a"."""
    folder = dataset / "predictions"
    shutil.copytree(dataset / "labelsTr", folder)
    wrong = np.where(truth() == 2, 1, truth())
    wrong[0:2, 18:, :4] = 2
    write_image(folder / "a.nii.gz", wrong)
    return folder, wrong


def run(*arguments: str | Path, status: int = 0) -> None:
    assert cli.main(["prompts", *map(str, arguments)]) == status


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    run(*arguments, status=1)
    return capsys.readouterr().err


def test_the_choices_are_those_of_the_library() -> None:
    assert set(WRITABLE) == set(prompts_command.TARGETS)
    assert prompts_command.STRATEGIES == STRATEGIES  # with "largest_error"
    assert {*prompts_command.SIMULATED, "mask"} == {name for name, kind in KINDS.items() if kind.trained}


# ---------------------------------------------------------------------- inspect


def test_inspect_shows_every_space_and_what_is_hit(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clicks = (Click((8, 8, 5), "lesion"), Click((1, 8, 5), "organ"), Click((12, 8, 5), 0))
    path = dataset / "a.json"
    write_prompts(path, CasePrompts("a", "voxel", clicks))
    image, segmentation = dataset / "imagesTr", dataset / "labelsTr" / "a.nii.gz"
    run("inspect", path, "--image", image, "--segmentation", segmentation, "--dataset", dataset / "dataset.json")
    said = capsys.readouterr().out
    x, y, z = ImageGrid.from_file(segmentation).index_to_world([[8, 8, 5]])[0]
    row = next(line for line in said.splitlines() if re.match(r"\s+1 ", line))
    for text in ("lesion", "8.0, 8.0, 5.0", f"{x:.1f}, {y:.1f}, {z:.1f}", f"{-x:.1f}, {-y:.1f}, {z:.1f}", "yes"):
        assert text in row
    assert "background, organ is 1.6 mm away" in said
    assert "24 x 20 x 12 voxels of 0.8 x 0.9 x 2.5 mm" in said
    run("inspect", path)
    assert "voxel i, j, k" in capsys.readouterr().out


def test_inspect_shows_what_every_kind_holds(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, image = dataset / "a.json", dataset / "imagesTr"
    prompts = (
        Box((6, 6, 4), (10, 11, 7), "lesion"),  # exactly the lesion
        Line((6, 8, 5), (10, 8, 5), "lesion"),
        Scribble([(3, 4, 2), (3, 16, 2)], "organ"),
        Lasso([(0, 0, 3), (5, 0, 3), (5, 5, 3), (0, 5, 3)], "background"),
        Box((40, 6, 4), (50, 11, 7), "lesion"),
        MaskPrompt("before.nii.gz"),
    )
    write_prompts(path, CasePrompts("a", "voxel", prompts))
    segmentation = ("--segmentation", dataset / "labelsTr" / "a.nii.gz", "--dataset", dataset / "dataset.json")
    run("inspect", path, "--image", image, *segmentation, status=1)
    said = capsys.readouterr().out
    assert "0 clicks, 2 boxes, 1 line, 1 scribble, 1 lasso, 1 mask, in space voxel" in said
    rows = said.splitlines()

    def row(kind: str, number: int = 1) -> str:
        return next(line for line in rows if re.match(rf"\s+{number}\s+{kind}", line))

    assert re.search(r"yes +120 +lesion 100%", row("box"))
    assert "6, 6, 4 to 10, 11, 7" in row("box")
    grid = ImageGrid.from_file(segmentation[1])
    corners = np.sort(grid.index_to_world([(5.5, 5.5, 3.5), (10.5, 11.5, 7.5)]), axis=0)
    after = rows[rows.index(row("box")) + 1]
    assert "LPS mm" in after
    assert " to ".join(", ".join(f"{v:g}" for v in corner) for corner in corners) in after
    assert re.search(r"lesion 100%", row("line"))
    assert re.search(r"13 +organ 100%", row("scribble"))
    assert re.search(r"36 +background 75%, organ 25%", row("lasso"))
    assert re.search(r"NO +0 +outside it", row("box", 2))
    assert "before.nii.gz" in row("mask")
    run("inspect", path)
    assert re.search(r"1 +lasso +background +4 points around 2.5, 2.5, 3", capsys.readouterr().out)


def test_inspect_tells_what_lies_outside(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = dataset / "a.json"
    write_prompts(path, CasePrompts("a", "voxel", (Click((30, 8, 5), "lesion"),)))
    run("inspect", path, "--image", dataset / "imagesTr" / "a_0000.nii.gz", status=1)
    assert re.search(r"30\.0.*NO", capsys.readouterr().out)
    assert "needs --image" in error_of(capsys, "inspect", path, "--segmentation", dataset / "labelsTr" / "a.nii.gz")
    assert "contains 0 images named x_0000" in error_of(
        capsys, "inspect", path.rename(dataset / "x.json"), "--image", dataset / "imagesTr"
    )


def test_inspect_names_the_segments_of_slicer(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In layers, all have the value 1; the file may be of a part of the image."""
    layers = np.stack([truth() == 2, truth() == 1], -1).astype(np.uint8)
    image = sitk.GetImageFromArray(layers, isVector=True)
    image.CopyInformation(sitk.ReadImage(str(dataset / "labelsTr" / "a.nii.gz")))
    image = image[2:18, 2:18, 1:11]
    for number, name in enumerate(("Lesion", "organ")):
        for key, value in (("Name", name), ("LabelValue", "1"), ("Layer", str(number))):
            image.SetMetaData(f"Segment{number}_{key}", value)
    segmentation = dataset / "a.seg.nrrd"
    sitk.WriteImage(image, str(segmentation))
    clicks = (Click((8, 8, 5), "lesion"), Click((4, 5, 3), "organ"))
    write_prompts(dataset / "a.json", CasePrompts("a", "voxel", clicks))
    known = ("--image", dataset / "imagesTr", "--segmentation", segmentation)
    run("inspect", dataset / "a.json", *known, "--dataset", dataset / "dataset.json")
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[-1] for row in rows[-2:]] == ["lesion", "organ"]
    run("inspect", dataset / "a.json", *known)
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[-1] for row in rows[-2:]] == ["Lesion", "organ"]


@pytest.mark.parametrize("any_spacing", [True, False])
def test_a_class_agnostic_model_takes_any_label(
    dataset: Path, any_spacing: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    model = dataset / "model"
    model.mkdir()
    entry = {OPTIONS_KEY: {"targets": "any"}, **({ANY_SPACING_KEY: True} if any_spacing else {})}
    plans = {"image_reader_writer": "SimpleITKIO", "original_median_spacing_after_transp": [50, 50, 50]}
    (model / "plans.json").write_text(json.dumps({**plans, "configurations": {"3d_fullres": entry}}), encoding="utf-8")
    (model / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "object": 1}}), encoding="utf-8")
    write_prompts(dataset / "a.json", CasePrompts("a", "voxel", (Click((8, 8, 5), "kidney"), Click((1, 2, 3), 4))))
    known = ("--image", dataset / "imagesTr", "-m", model)
    run("inspect", dataset / "a.json", *known)
    said = capsys.readouterr().out
    assert "kidney" in said
    assert ("those of the training data" in said) != any_spacing
    run("convert", dataset / "a.json", *known, "-o", dataset / "out")
    assert [click.label for click in read_prompts(dataset / "out" / "a.json").clicks] == ["kidney", 4]
    assert "unknown label 'kidney'" in error_of(
        capsys, "inspect", dataset / "a.json", *known, "--dataset", dataset / "dataset.json"
    )


# ---------------------------------------------------------------------- convert


def test_there_and_back_over_slicer(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = dataset / "a.json", dataset / "out"
    prompts = CasePrompts("a", "voxel", (Click((8, 9, 5), "lesion"), Click((1, 2, 3), "background")))
    write_prompts(path, prompts)
    options = ("-o", out, "--image", dataset / "imagesTr", "--dataset", dataset / "dataset.json")
    run("convert", path, "--to", "slicer", *options)
    said = capsys.readouterr().out
    assert "a.mrk.json: 2 clicks, space lps" in said
    assert "not checked" not in said
    run("convert", out / "a.mrk.json", "--to-space", "voxel", *options)
    back = read_prompts(out / "a.json")
    assert [c.label for c in back.clicks] == ["lesion", "background"]
    assert np.allclose([c.position for c in back.clicks], [(8, 9, 5), (1, 2, 3)])
    assert "already contains a.json" in error_of(capsys, "convert", out / "a.mrk.json", *options)
    run("convert", out / "a.mrk.json", "--overwrite", "-o", out)
    said = capsys.readouterr().out
    assert "the labels were not checked" in said
    assert "named after the files" in said
    assert read_prompts(out / "a.json").space == "lps"


def test_every_kind_goes_to_slicer_and_back(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = (
        Click((8, 8, 5), "lesion"),
        Box((6, 6, 4), (10, 11, 7), 2),
        Line((6, 8, 5), (10, 8, 5), "lesion"),
        Scribble([(3, 4, 2), (3, 16, 2)], "organ"),
        Scribble([(3, 4, 2), (3, 5, 2)], "organ", joined=False),
        Lasso([(0, 0, 3), (5, 0, 3), (5, 5, 3)], "background"),
    )
    write_prompts(dataset / "a.json", CasePrompts("a", "voxel", kinds))
    known = ("--image", dataset / "imagesTr", "--dataset", dataset / "dataset.json")
    run("convert", dataset / "a.json", "-o", dataset / "slicer", "--to", "slicer", *known)
    types = [one["type"] for one in json.loads((dataset / "slicer" / "a.mrk.json").read_text())["markups"]]
    assert types == ["Fiducial", "ROI", "Line", "Curve", "Fiducial", "ClosedCurve"]
    run("convert", dataset / "slicer" / "a.mrk.json", "-o", dataset / "back", "--to-space", "voxel", *known)
    back = read_prompts(dataset / "back" / "a.json").prompts
    assert [(one.kind, one.label) for one in back] == [
        (one.kind, "lesion" if one.label == 2 else one.label) for one in kinds
    ]
    for before, after in zip(kinds, back, strict=True):
        assert after.describe() == before.describe()
    # all or none: a mask cannot go
    write_prompts(dataset / "b.json", CasePrompts("b", "voxel", [MaskPrompt("m.nii.gz")]))
    files = (dataset / "a.json", dataset / "b.json")
    said = error_of(capsys, "convert", *files, "-o", dataset / "none", "--to", "slicer", *known)
    assert "b.mrk.json: format 'slicer' cannot hold mask" in said
    assert not (dataset / "none").exists()
    said = error_of(capsys, "convert", files[0], "-o", dataset / "none", "--to", "grand-challenge", *known)
    assert "cannot hold box, lasso, line, scribble" in said


def test_doubts_are_cleared_by_options(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = dataset / "a.json", dataset / "out"
    points = [{"name": "F", "point": [8, 9, 5]}, {"name": "B", "point": [1, 2, 3]}]
    content = {"type": "Multiple points", "points": points, "version": {"major": 1, "minor": 0}}
    path.write_text(json.dumps(content), encoding="utf-8")
    options = ("-o", out, "--dataset", dataset / "dataset.json")
    said = error_of(capsys, "convert", path, *options)
    assert "does not state the space" in said
    assert "label 'F' is not in this dataset" in said
    assert not out.exists()
    run("convert", path, "--space", "voxel", "--label", "F=lesion", "--label", "B=background", *options)
    assert [c.label for c in read_prompts(out / "a.json").clicks] == ["lesion", "background"]
    options = ("-o", dataset / "out2", "--dataset", dataset / "dataset.json")
    said = error_of(capsys, "convert", path, "--label", "F=lesion", "--label", "B", *options)
    assert "either one LABEL for all words, or WORD=LABEL" in said
    said = error_of(capsys, "convert", path, "--space", "voxel", "--label", "lesion", "--to", "slicer", *options)
    assert "needs the image" in said
    assert "unknown prompt format 'x'" in error_of(capsys, "convert", path, "--format", "x", *options)


def test_a_file_with_another_ending_is_recognised_by_its_content(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.txt").write_text("index,axis-0,axis-1,axis-2,label\n0,1,2,3,lesion\n")
    image = next((dataset / "imagesTr").glob("*_0000.nii.gz"))
    cli.main(["prompts", "inspect", str(tmp_path / "other.txt"), "--image", str(image)])
    case = image.name.removesuffix("_0000.nii.gz")
    assert f"predictions find this file as {case}.json only" in " ".join(capsys.readouterr().out.split())


def test_the_named_image_tells_the_case(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Slicer saves a point list under the list's name."""
    path = dataset / "F.mrk.json"
    write_prompts(path, CasePrompts("a", "lps", (Click((-40, 20, 410), "F-1"),)), format="slicer")
    options = ("-o", dataset / "out", "--dataset", dataset / "dataset.json", "--label", "lesion")
    run("convert", path, "--image", dataset / "imagesTr" / "b_0000.nii.gz", *options)
    assert read_prompts(dataset / "out" / "b.json").clicks[0].label == "lesion"
    said = error_of(capsys, "convert", path, "--image", dataset / "imagesTr", *options)
    assert "contains 0 images named F_0000" in said


def test_the_point_lists_of_one_case_are_joined(dataset: Path) -> None:
    """Slicer saves each list to a file of its own."""
    image = dataset / "imagesTr" / "a_0000.nii.gz"
    grid, files = ImageGrid.from_file(image), []
    for label, index, space in (("lesion", (8, 9, 5), "lps"), ("background", (1, 2, 3), "ras")):
        files.append(dataset / f"{label}.mrk.json")
        prompts = CasePrompts("a", "voxel", (Click(index, label),)).to(space, grid)
        write_prompts(files[-1], prompts, format="slicer")
        numbered = files[-1].read_text(encoding="utf-8").replace(f'"{label}"', f'"{label}-1"')
        files[-1].write_text(numbered, encoding="utf-8")
    run("convert", *files, "--image", image, "-o", dataset / "out", "--dataset", dataset / "dataset.json")
    joined = read_prompts(dataset / "out" / "a.json")
    assert (joined.space, [c.label for c in joined.clicks]) == ("lps", ["lesion", "background"])
    assert np.allclose(joined.points.to("voxel", grid).values_N3, [(8, 9, 5), (1, 2, 3)])


def test_all_files_or_none(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, out = dataset / "a.json", dataset / "b.json", dataset / "out"
    write_prompts(good, CasePrompts("a", "voxel", (Click((8, 9, 5), "lesion"),)))
    bad.write_text("{}", encoding="utf-8")
    assert "b.json" in error_of(capsys, "convert", good, bad, "-o", out)
    assert not out.exists()


# ---------------------------------------------------------------------- simulate


@pytest.mark.parametrize("strategy", ["uniform", "center"])
def test_simulated_clicks_lie_on_their_labels_and_replay(dataset: Path, strategy: str) -> None:
    for name, n in (("one", 1), ("three", 3), ("again", 3)):
        run("simulate", dataset / "labelsTr", "-o", dataset / name, "-n", n, "--strategy", strategy)
    run("simulate", dataset / "labelsTr", "-o", dataset / "other", "-n", "3", "--strategy", strategy, "--seed", "9")
    for case in ("a", "b"):
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(dataset / "labelsTr" / f"{case}.nii.gz")))
        few, many, again = (read_prompts(dataset / name / f"{case}.json") for name in ("one", "three", "again"))
        assert many == again
        assert many.clicks[:1] == few.clicks
        assert len(many.clicks) == 3
        for click in many.clicks:
            i, j, k = map(int, click.position)
            assert array[k, j, i] == DATASET["labels"][click.label]
    assert not (dataset / "one" / "empty.json").exists()
    one, other = (read_prompts(dataset / name / "a.json") for name in ("one", "other"))
    assert strategy == "center" or other.clicks[:1] != one.clicks


@pytest.mark.parametrize("kind", [kind for kind in prompts_command.SIMULATED if kind != "click"])
def test_every_kind_can_be_simulated_and_replays(dataset: Path, kind: str) -> None:
    labels, grid = dataset / "labelsTr", ImageGrid.from_file(dataset / "labelsTr" / "a.nii.gz")
    names = {"background": 0, "organ": 1, "lesion": 2}
    for name, n, seed in (("one", 1, 0), ("two", 2, 0), ("again", 2, 0), ("other", 2, 9)):
        run("simulate", labels, "-o", dataset / name, "-n", n, "--seed", seed, "--kind", kind)
    run("simulate", labels, "-o", dataset / "grown", "--add-to", dataset / "one", "--kind", kind)
    read = {name: read_prompts(dataset / name / "a.json", grid, names) for name in ("one", "two", "again", "other")}
    assert read["two"] == read["again"] == read_prompts(dataset / "grown" / "a.json", grid, names)
    assert read["two"].prompts[:1] == read["one"].prompts
    assert read["two"].prompts != read["other"].prompts
    assert not (dataset / "one" / "empty.json").exists()
    prompts = read["two"].prompts
    assert [(prompt.kind, prompt.label) for prompt in prompts] == [(kind, "organ"), (kind, "lesion")]
    for prompt in prompts:
        shape = prompt.shape(prompt.points("voxel")[:, ::-1], 1)
        voxels = KINDS[shape.kind].inside(shape.points_N3, SHAPE_ZYX)
        hits = truth()[tuple(voxels.T)] == names[str(prompt.label)]
        assert hits.mean() > 0.3, "around the label; the lesion lies inside of the organ"


def test_a_prompt_on_a_region_is_around_all_of_it(dataset: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    regions = dataset / "regions.json"
    regions.write_text(json.dumps({**DATASET, "labels": labels, "regions_class_order": [1, 2]}), encoding="utf-8")
    core = np.where(truth() == 1, 0, truth())  # a region of which no voxel has the value
    write_image(dataset / "labelsTr" / "b.nii.gz", core)
    known = ("--dataset", regions, "--kind", "box", "-n", 2)
    run("simulate", dataset / "labelsTr", "-o", dataset / "out", *known)
    assert [prompt.label for prompt in read_prompts(dataset / "out" / "b.json").prompts] == ["whole", "core"]
    predictions = dataset / "wrong"
    predictions.mkdir()
    for case in ("a", "b", "empty"):
        shutil.copy(dataset / "labelsTr" / f"{case}.nii.gz", predictions)
    write_image(predictions / "a.nii.gz", np.where(truth() == 2, 1, truth()))
    run("simulate", dataset / "labelsTr", "-o", dataset / "missed", *known, "--predictions", predictions)
    missed = read_prompts(dataset / "missed" / "a.json").prompts
    assert [prompt.label for prompt in missed] == ["core"], "nothing of the whole is missed"


def test_errors_are_drawn_around(dataset: Path, predictions, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("-n", 5, "--predictions", predictions[0], "--kind", "box")
    run("simulate", dataset / "labelsTr", "-o", dataset / "out", *arguments)
    assert "nothing to click on: b, empty" in capsys.readouterr().out
    invented, missed = read_prompts(dataset / "out" / "a.json").prompts
    assert (invented.label, missed.label) == ("background", "lesion")
    np.testing.assert_allclose(invented.points("voxel")[0], (1.5, 18.5, 0.5), atol=3)
    np.testing.assert_allclose(missed.points("voxel")[0], (8, 8.5, 5.5), atol=3)


def test_correcting_predictions_round_by_round(dataset: Path, predictions, capsys: pytest.CaptureFixture[str]) -> None:
    folder, wrong = predictions
    grid = ImageGrid.from_file(folder / "a.nii.gz")
    correct = ("--strategy", "largest_error", "--predictions", folder)
    run("simulate", dataset / "labelsTr", "-o", dataset / "round1", *correct)
    assert "nothing to click on: b, empty" in capsys.readouterr().out
    first = read_prompts(dataset / "round1" / "a.json")
    assert [c.label for c in first.clicks] == ["lesion"]
    run("simulate", dataset / "labelsTr", "-o", dataset / "both", "-n", "5", *correct)
    both = read_prompts(dataset / "both" / "a.json")
    assert [c.label for c in both.clicks] == ["lesion", "background"]
    run("simulate", dataset / "labelsTr", "-o", dataset / "round2", "--add-to", dataset / "round1", *correct)
    second = read_prompts(dataset / "round2" / "a.json")
    assert second.clicks[:1] == first.clicks
    assert len(second.clicks) == 2
    assert second.clicks[1] != first.clicks[0]
    index = second.points.to("voxel", grid).values_N3
    assert all(truth()[int(k), int(j), int(i)] != wrong[int(k), int(j), int(i)] for i, j, k in index)
    # clicks that correct a mask go on correcting it
    started = replace(first, prompts=(MaskPrompt("start.nii.gz"), *first.prompts))
    write_prompts(dataset / "round1" / "a.json", started)
    run("simulate", dataset / "labelsTr", "-o", dataset / "round3", "--add-to", dataset / "round1", *correct)
    third = read_prompts(dataset / "round3" / "a.json")
    assert third.prompts == (MaskPrompt("../round1/start.nii.gz"), *second.prompts)


def test_simulation_that_cannot_be(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, out = dataset / "labelsTr", dataset / "out"
    assert "must be used together" in error_of(capsys, "simulate", labels, "-o", out, "--strategy", "largest_error")
    assert "must be at least 1" in error_of(capsys, "simulate", labels, "-o", out, "-n", "0")
    assert "none: no such folder" in error_of(capsys, "simulate", dataset / "none", "-o", out)
    (dataset / "empty").mkdir()
    assert "no segmentations *.nii.gz" in error_of(capsys, "simulate", dataset / "empty", "-o", out)
    said = error_of(capsys, "simulate", labels, "-o", out, "--dataset", dataset / "x.json")
    assert "x.json: the dataset.json cannot be read" in said
    assert not out.exists()
    said = error_of(capsys, "simulate", labels, "-o", out, "--kind", "box", "--strategy", "center")
    assert "--strategy center places clicks; with --kind box, leave it out" in said
    predictions = dataset / "predictions"
    predictions.mkdir()
    write_image(predictions / "a.nii.gz", truth()[1:])
    correct = ("--strategy", "largest_error", "--predictions", predictions)
    assert "(12, 20, 24) in the ground truth" in error_of(capsys, "simulate", labels, "-o", out, *correct)
    several = dataset / "several"
    for name in ("a.json", "a.mrk.json"):
        several.mkdir(exist_ok=True)
        write_prompts(several / name, CasePrompts("a", "lps", (Click((-40, 20, 410), "organ"),)))
    said = error_of(capsys, "simulate", labels, "-o", out, "--add-to", several)
    assert "case a has several prompt files: a.json, a.mrk.json" in said
    (predictions / "a.nii.gz").unlink()
    assert "a.nii.gz is missing: largest_error needs" in error_of(capsys, "simulate", labels, "-o", out, *correct)
    run("simulate", labels, "-o", out)
    assert "already contains a.json, b.json" in error_of(capsys, "simulate", labels, "-o", out)
    run("simulate", labels, "-o", out, "--overwrite")


def test_every_action_has_its_help() -> None:
    for action in ("inspect", "convert", "simulate"):
        with pytest.raises(SystemExit) as end:
            cli.main(["prompts", action, "--help"])
        assert end.value.code == 0


def test_inspect_says_what_it_did_not_check(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = dataset / "imagesTr" / "a_0000.nii.gz"
    clicks = {"nnsam3d_prompts": 1, "space": "voxel", "clicks": [{"position": [1, 2, 3], "label": "tumour"}]}
    named, other = tmp_path / "a.json", tmp_path / "F.json"
    for path in (named, other):
        path.write_text(json.dumps(clicks), encoding="utf-8")
    run("inspect", named, "--image", image)
    said = capsys.readouterr().out
    assert "the labels were not checked" in said
    assert "the image is that of" not in said
    run("inspect", other, "--image", image)
    assert "predictions find this file as a.json only" in capsys.readouterr().out
    model = tmp_path / "model"
    model.mkdir()
    (model / "plans.json").write_text(json.dumps({"image_reader_writer": "SimpleITKIO"}), encoding="utf-8")
    (model / "dataset.json").write_text(json.dumps(DATASET), encoding="utf-8")
    for given in (("--dataset", dataset / "dataset.json"), ("-m", model)):
        assert "unknown label 'tumour'" in error_of(capsys, "inspect", named, "--image", image, *given)
    clicks["clicks"][0]["label"] = "lesion"
    named.write_text(json.dumps(clicks), encoding="utf-8")
    for given, unchecked in ((("-m", model), False), ((), True)):
        run("convert", named, "-o", tmp_path / f"out_{unchecked}", "--image", image, *given)
        assert ("the labels were not checked" in capsys.readouterr().out) == unchecked
    said = error_of(capsys, "inspect", named, "--image", tmp_path / "nope_0000.nii.gz")
    assert "nope_0000.nii.gz: no such file" in said
    assert "nibabel" not in said
