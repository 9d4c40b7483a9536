"""Options: where they come from, and that nothing wrong passes silently."""

from __future__ import annotations

import pytest

from nnsam3d.training.options import (
    ENVIRONMENT_VARIABLE,
    OptionsError,
    TrainingOptions,
    options_from_mapping,
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
        ("learning_rate=-1", "must be positive"),
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
