"""Every method of the catalogue, held to every law."""

import pytest
from click.testing import CliRunner

from cutaway.cli import cli
from cutaway.core.method import catalogue
from cutaway.testing.battery import check_method
from cutaway.testing.models import with_other_weights, with_recipe

# Options beside a method's own quick ones, so that one call fits images and rows.
# The region is where the true reason of `oracle_beats_random` is.
_REGION = {"region": "6,4,12,10"}
OPTIONS = {
    "fragility_targeted": _REGION,
    "insertion": {"fills": ("zero",)},
    "label_randomization": {"other": with_other_weights},
    "remove_and_retrain": {"recipe": with_recipe},
    "attention_seeds": {"recipe": with_recipe},
    "attention_guide": {"recipe": with_recipe},
    "attention_adversarial_training": {"recipe": with_recipe},
    "pointing_game": _REGION,
    "energy_in_region": _REGION,
}
CASES = [(name, check) for name in catalogue() for check in check_method(name, **OPTIONS.get(name, {}))]


@pytest.mark.parametrize(("name", "check"), CASES, ids=[f"{name}-{check.name}" for name, check in CASES])
def test_law(name, check):
    check()


@pytest.mark.parametrize("name", list(catalogue()))
def test_the_command_line_shows_every_option(name):
    shown = CliRunner().invoke(cli, ["run", name.replace("_", "-"), "--help"])
    assert shown.exit_code == 0, shown.output
    for option in catalogue()[name].options:
        assert f"--{option.name.replace('_', '-')}" in shown.output
