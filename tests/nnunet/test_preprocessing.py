"""From prompt files to the network's input, through nnU-Net's real preprocessing."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from scipy.spatial.transform import Rotation

from nnsam3d.errors import UserError
from nnsam3d.geometry import GeometryError
from nnsam3d.nnunet import preprocessing, worker_messages
from nnsam3d.nnunet.preprocessing import PromptedPreprocessor, use_prompted_preprocessor
from nnsam3d.nnunet.worker_messages import WorkerMessages, shared_messages
from nnsam3d.prompts import Box, CasePrompts, Click, Prompt, PromptError, PromptWarning, read_channel
from nnsam3d.prompts.kinds.base import Space

from .plans import DATASET
from .plans import managers as plans_by_hand

CENTRE_ZYX = (9, 22, 17)


def managers() -> tuple[PlansManager, ConfigurationManager]:
    return plans_by_hand([1, 0, 2], [3.0, 1.5, 2.0], normalization="NoNormalization", order=1)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Oblique, anisotropic, with a zero border that is cropped away and a bright block around CENTRE_ZYX."""
    array = np.zeros((20, 40, 36), np.float32)
    array[2:18, 5:38, 3:30] = 1
    z, y, x = CENTRE_ZYX
    array[z - 1 : z + 2, y - 2 : y + 3, x - 2 : x + 3] = 50
    stored = sitk.GetImageFromArray(array)
    stored.SetSpacing((1.1, 0.9, 2.5))
    stored.SetOrigin((-30.0, 12.0, 400.0))
    stored.SetDirection(Rotation.from_euler("xyz", [15, -30, 70], degrees=True).as_matrix().ravel().tolist())
    path = tmp_path / "case_0000.nii.gz"
    sitk.WriteImage(stored, str(path))
    return path


def run(image: Path) -> np.ndarray:
    plans, configuration = managers()
    preprocessor = PromptedPreprocessor(verbose=False)
    data, _, _ = preprocessor.run_case([str(image)], None, plans, configuration, DATASET)
    return data


def write(path: Path, content: Any) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def file_of(space: str, position: Any, label: Any = "lesion") -> dict[str, Any]:
    return {"nnsam3d_prompts": 1, "space": space, "clicks": [{"position": position, "label": label}]}


def test_every_space_gives_the_same_input_and_hits_the_block(image: Path) -> None:
    index = CENTRE_ZYX[::-1]
    lps = sitk.ReadImage(str(image)).TransformIndexToPhysicalPoint(index)
    results = []
    for space, position in (
        ("voxel", list(index)),
        ("lps", list(lps)),
        ("ras", [-lps[0], -lps[1], lps[2]]),
    ):
        write(image.parent / "case.json", file_of(space, position))
        results.append(run(image))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    positions, labels = read_channel(results[0][1])
    assert labels.tolist() == [1]
    assert results[0][0][tuple(positions[0])] > 25, "the click lies on the bright block"


def test_without_a_prompt_file_the_channel_is_empty_and_it_is_said_once(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once for all of nnU-Net's worker processes, which share the configuration manager by pickling."""
    plans, configuration = managers()
    use_prompted_preprocessor(configuration)
    for _ in range(3):
        worker = pickle.loads(pickle.dumps(configuration))
        data, _, _ = worker.preprocessor_class(verbose=False).run_case([str(image)], None, plans, worker, DATASET)
        assert not data[1].any()
    assert capsys.readouterr().out.count("segmented automatically") == 1


def test_prompts_may_lie_in_their_own_folder(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    write(folder / "case.json", file_of("voxel", CENTRE_ZYX[::-1]))
    monkeypatch.setenv("nnsam3d_prompts", str(folder))
    assert run(image)[1].sum() == 2
    monkeypatch.setenv("nnsam3d_prompts", str(tmp_path / "missing"))
    with pytest.raises(UserError, match="no such folder"):
        run(image)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (file_of("voxel", [40, 0, 0]), r"case\.json.*click 1.*outside"),
        (file_of("voxel", [1, 1, 1], "tumor"), r"case\.json.*tumor.*lesion"),
        ({"nnsam3d_prompts": 1, "clicks": []}, r"case\.json.*space"),
        # somebody forgot to click; automatic segmentation is asked for by leaving the file out
        ({"nnsam3d_prompts": 1, "space": "voxel", "clicks": []}, r"case\.json.*list of clicks is empty"),
        ('{"nnsam3d_prompts": 1, ', r"case\.json.*line 1"),
        ('{"nnsam3d_prompts": 1, "space": "voxel", "clicks": [{"position": [NaN, 1, 1], "label": 1}]}', "finite"),
    ],
)
def test_bad_prompt_files_name_file_and_click(image: Path, content: Any, message: str) -> None:
    write(image.parent / "case.json", content)
    with pytest.raises(PromptError, match=f"(?s){message}"):
        run(image)


def test_clicks_in_the_cropped_border(image: Path) -> None:
    """nnU-Net cuts zero borders: a background click there keeps its meaning, a lesion cannot be there."""
    write(image.parent / "case.json", file_of("voxel", [1, 1, 1], "background"))
    assert run(image)[1].sum() == 1
    write(image.parent / "case.json", file_of("voxel", [1, 1, 1]))
    with pytest.raises(PromptError, match=r"click 1.*non-zero"):
        run(image)


def test_single_slice_and_unreadable_images(tmp_path: Path) -> None:
    flat = tmp_path / "flat_0000.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((1, 8, 8), np.float32)), str(flat))
    with pytest.raises(UserError, match=r"flat_0000.*single slice"):
        run(flat)
    broken = tmp_path / "broken_0000.nii.gz"
    broken.write_bytes(b"not an image")
    with pytest.raises(UserError, match="broken_0000"):
        run(broken)


def channel_of_array(*prompts: Prompt, space: Space = "voxel") -> np.ndarray:
    """The prompt channel of an array, with its prompts in the properties, as nnU-Net's Python predictor passes them."""
    given = {"spacing": [2.5, 0.9, 1.1], "nnsam3d_prompts": CasePrompts("array", space, prompts)}
    properties, array = dict(given), np.ones((1, 12, 14, 16), np.float32)
    data, _, _ = PromptedPreprocessor(verbose=False).run_case_npy(array, None, properties, *managers(), DATASET)
    assert properties == given, "left alone: the caller may use them again"
    return data[1]


def test_arrays_carry_their_prompts_in_the_properties() -> None:
    clicks = Click((5.0, 6.0, 7.0), 1), Click((9.0, 9.0, 9.0), 0)
    assert sorted(read_channel(channel_of_array(*clicks))[1].tolist()) == [0, 1]
    assert channel_of_array(Click((5.0, 6.0, 7.0), "lesion")).sum() == 2


def test_clicks_of_arrays_are_checked_like_those_of_files() -> None:
    outside, unknown = Click((1000.0, 1.0, 1.0), 0), Click((1.0, 1.0, 1.0), "x")
    for click, message in ((outside, "outside the image"), (unknown, "lesion")):
        with pytest.raises(PromptError, match=message):
            channel_of_array(click)
    with pytest.raises(GeometryError):
        channel_of_array(Click((1.0, 1.0, 1.0), 1), space="lps")


def test_prompts_that_no_network_takes_are_refused_and_not_forgotten() -> None:
    box, click = Box((1.0, 1.0, 1.0), (5.0, 5.0, 5.0), 1), Click((3.0, 3.0, 3.0), 1)
    with pytest.raises(PromptError, match="trained with prompts of type click, not box"):
        channel_of_array(box)
    with pytest.warns(PromptWarning, match="1 skipped"):
        np.testing.assert_array_equal(channel_of_array(box, click), channel_of_array(click))


def test_a_click_in_the_air_does_not_push_out_one_at_the_border(image: Path) -> None:
    """The zero border ends at z = 2: the background click above is moved to where the lesion click is."""
    content = file_of("voxel", [10, 20, 2])
    content["clicks"].append({"position": [10, 20, 0], "label": "background"})
    write(image.parent / "case.json", content)
    assert sorted(read_channel(run(image)[1])[1].tolist()) == [0, 1]


def test_the_first_case_tells_the_problems_of_all(image: Path) -> None:
    other = image.with_name("other_0000.nii.gz")
    other.write_bytes(image.read_bytes())
    write(image.parent / "case.json", file_of("voxel", list(CENTRE_ZYX[::-1])))
    write(image.parent / "other.json", file_of("voxel", [99, 0, 0], "tumor"))
    with pytest.raises(PromptError) as error:
        run(image)
    assert "99" in str(error.value)
    assert "tumor" in str(error.value)
    assert "other.json" in str(error.value)


def test_configuration_manager_pickles_with_its_preprocessor() -> None:
    _, configuration = managers()
    use_prompted_preprocessor(configuration)
    there = pickle.loads(pickle.dumps(configuration))
    preprocessor = there.preprocessor_class(verbose=False)
    assert isinstance(preprocessor, PromptedPreprocessor)
    preprocessor.worker_messages.add("from the worker")
    assert shared_messages().read().endswith("from the worker\n")


def test_networks_that_are_built_leave_no_trace(tmp_path: Path) -> None:
    program = (
        "import sys, tempfile, os\n"
        "from tests.nnunet.plans import managers\n"
        "from nnsam3d.nnunet.preprocessing import use_prompted_preprocessor\n"
        "hook = sys.excepthook\n"
        "for _ in range(3):\n"
        "    plans, configuration = managers([0, 1, 2], [1.0, 1.0, 1.0], normalization='NoNormalization', order=1)\n"
        "    use_prompted_preprocessor(configuration)\n"
        "    configuration.preprocessor_class(verbose=False)\n"
        "assert sys.excepthook is hook\n"
        "assert os.listdir(tempfile.gettempdir()) == []\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=root)


def test_one_worker_checks_the_folder_and_the_others_wait(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(image.parent / "case.json", file_of("voxel", list(CENTRE_ZYX[::-1])))
    asked = []

    def check() -> str:
        asked.append(1)
        return "checked"

    monkeypatch.setattr(preprocessing, "LONGEST_CHECK", 0.2)
    words = WorkerMessages(image.parent / "words.log")
    for _ in range(3):  # as many workers
        PromptedPreprocessor(False, words)._check_folder(image.parent, check)
    assert len(asked) == 1
    words.remove()
    words.first_time(f"checking_{zlib.crc32(str(image.parent).encode()):08x}")  # by one that was killed
    PromptedPreprocessor(False, words)._check_folder(image.parent, check)
    assert len(asked) == 2


def test_a_check_that_fails_keeps_nobody_waiting_and_the_next_prediction_checks_again(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_messages.time, "sleep", lambda seconds: pytest.fail("a worker waits"))
    bad = image.parent / "case.json"
    write(bad, file_of("voxel", [1, 2, 3], "unknown"))
    check = partial(preprocessing.check_all_prompts, image.parent, ".nii.gz", {"lesion": 1})
    words = WorkerMessages(image.parent / "words.log")
    for prediction, workers in (("_0", 2), ("_1", 1)):
        with pytest.raises(PromptError, match="unknown label"):
            PromptedPreprocessor(False, words, prediction)._check_folder(image.parent, check)
        for _ in range(workers - 1):  # the prediction has ended by now
            PromptedPreprocessor(False, words, prediction)._check_folder(image.parent, check)
    alone = PromptedPreprocessor(False)
    for _ in range(2):  # in one process every preprocessor checks for itself
        with pytest.raises(PromptError, match="unknown label"):
            PromptedPreprocessor(False)._check_folder(image.parent, check)
    bad.unlink()
    alone._check_folder(image.parent, check)


def test_worker_messages_follow_the_traceback() -> None:
    program = (
        "from nnsam3d.nnunet.worker_messages import shared_messages\n"
        "words = shared_messages(); words.add('case.json: click 1 is outside'); raise RuntimeError('workers died')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "RuntimeError: workers died" in done.stderr
    assert done.stderr.rstrip().splitlines()[-1] == "nnsam3d: case.json: click 1 is outside"


def test_worker_messages_never_raise(tmp_path: Path) -> None:
    words = WorkerMessages(tmp_path / "missing" / "file")
    words.add("lost")
    assert words.read() == ""
