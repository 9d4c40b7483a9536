"""Options: where they come from, and that nothing wrong passes silently."""

from __future__ import annotations

import pytest

from nnsam3d.training.options import (
    ENVIRONMENT_VARIABLE,
    OptionsError,
    TrainingOptions,
    options_from_mapping,
    options_of_checkpoint,
    resolve_options,
)


def test_environment_wins_over_plans_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "num_epochs=3 learning_rate=1e-3")
    options = resolve_options({"nnsam3d": {"preset": "tiny", "num_epochs": 7}}, "3d_fullres")
    assert (options.preset, options.num_epochs, options.learning_rate) == ("tiny", 3, 1e-3)
    assert options.max_clicks == TrainingOptions().max_clicks


def test_resolved_options_survive_the_plans() -> None:
    options = TrainingOptions(preset="tiny", num_epochs=3, weights="scratch")
    assert options_from_mapping(options.as_dict()) == options


def test_there_is_room_for_the_clicks_of_every_kind() -> None:
    """A scribble acts as up to eight clicks, a line as three."""
    assert TrainingOptions().click_slots == TrainingOptions().max_clicks
    for kinds, most, slots in (("click", 2, 2), ("click,line", 2, 3), ("click,scribble", 2, 8), ("click,line", 9, 9)):
        assert TrainingOptions(prompt_kinds=kinds, max_clicks=most).click_slots == slots


def test_unknown_option_lists_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "epochs=3")
    with pytest.raises(OptionsError, match=r"environment variable nnsam3d_options: unknown option epochs.*num_epochs"):
        resolve_options({}, "3d_fullres")
    with pytest.raises(OptionsError, match=r'entry "nnsam3d": unknown option colour.*preset'):
        resolve_options({"nnsam3d": {"colour": 1}}, "3d_fullres")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_epochs", "not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("num_epochs=3 num_epochs=4", "given twice"),
        ("num_epochs=three", "num_epochs='three' must be of type int"),
        ("num_epochs=0", "num_epochs=0 must be at least 1"),
        ("learning_rate=-1", "zero or positive"),
        ("rounds=6-1", "a number .3. or a range .1-6."),
        ("rounds=many", "a number .3. or a range .1-6."),
        ("fine_click_maps=3", "0, 1 or 2"),
        ("prompt_learning_rate_factor=0", "must be positive"),
        ("refinement_share=0.5", "refinement_share no longer exists: use rounds"),
        ("zero_click_share=1.5", "between 0 and 1"),
        ("validation_clicks=-1", "zero or positive"),
        ("click_strategy=guess", "one of uniform, center"),
        ("checkpointing=all", "one of none, cheap, blocks"),
        ("preset='tiny", "No closing quotation"),
    ],
)
def test_bad_values_are_named(monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, text)
    with pytest.raises(OptionsError, match=message):
        resolve_options({}, "3d_fullres")


def test_plans_values_must_have_the_right_type() -> None:
    for wrong in ({"num_epochs": 2.5}, {"num_epochs": True}, {"preset": 3}, {"learning_rate": None}):
        with pytest.raises(OptionsError, match="must be of type"):
            options_from_mapping(wrong)
    with pytest.raises(OptionsError, match="must be an object"):
        resolve_options({"nnsam3d": ["preset"]}, "3d_fullres")


def test_what_a_preset_and_a_device_need_is_their_default() -> None:
    on_gpu, on_cpu = TrainingOptions().resolved("cuda"), TrainingOptions().resolved("cpu")
    assert (on_gpu.preset, on_gpu.learning_rate, on_gpu.num_iterations_per_epoch) == ("vit_b", 4e-4, 250)
    assert (on_cpu.preset, on_cpu.learning_rate, on_cpu.num_iterations_per_epoch) == ("tiny", 1e-3, 50)
    assert TrainingOptions(preset="tiny").resolved("cuda").learning_rate == 1e-3
    length = {"num_iterations_per_epoch": 7, "num_val_iterations_per_epoch": 2}
    said = TrainingOptions(preset="vit_l", learning_rate=3e-4, **length)
    assert said.resolved("cpu") == said
    assert on_cpu.resolved("cuda") == on_cpu, "what is resolved stays as it is"


@pytest.mark.parametrize(("text", "expected"), [("3", (3, 3)), ("0", (0, 0)), ("1-6", (1, 6)), ("0-20", (0, 20))])
def test_rounds_are_a_number_or_a_range(text: str, expected: tuple[int, int]) -> None:
    assert TrainingOptions(rounds=text).rounds_range == expected


def test_plans_may_give_rounds_as_a_number() -> None:
    assert options_from_mapping({"rounds": 4}).rounds_range == (4, 4)
    with pytest.raises(OptionsError, match="rounds=True must be of type"):
        options_from_mapping({"rounds": True})


def test_a_model_of_before_is_continued_as_it_was_trained() -> None:
    stored = {"preset": "tiny", "refinement_share": 0.5, "max_clicks": 4}
    options = options_of_checkpoint(stored, "checkpoint.pth")
    assert (options.rounds_range, options.prompt_learning_rate_factor, options.fine_click_maps) == ((0, 0), 1, 0)
    assert options.max_clicks == 4
    new = TrainingOptions(preset="tiny")
    assert options_of_checkpoint(new.as_dict(), "checkpoint.pth") == new
