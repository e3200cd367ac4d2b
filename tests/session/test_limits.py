"""Limits of cost and time, from the command line and for stored results."""

import pytest
from click.testing import CliRunner

import cutaway as ct
from cutaway.cli import cli
from cutaway.core.budget import limits
from cutaway.core.errors import NotPossible


def test_a_result_that_time_cut_short_is_made_again(tmp_path):
    x, options = ct.data("digits/test[0:1]"), {"features": "cells:5", "forwards": 2000, "within": 0.0, "target": 0}
    with limits(seconds=1e-6):
        short = ct.run("kernel_shapley", "digits-cnn", x, study=tmp_path, **options)
    whole = ct.run("kernel_shapley", "digits-cnn", x, study=tmp_path, **options)
    assert "partial" in short.checks
    assert "partial" not in whole.checks
    again = ct.run("kernel_shapley", "digits-cnn", x, study=tmp_path, **options)
    assert again.provenance.created == whole.provenance.created
    assert again.provenance.cost == whole.provenance.cost


def test_dear_work_asks_for_yes(tmp_path):
    call = ["run", "permutation-shapley", "--model", "digits-cnn", "--x", "digits/test[0:1]", "--features", "cells:5"]
    call += ["--forwards", "100050", "--within", "0.9", "--target", "0", "--study", str(tmp_path)]
    refused = CliRunner().invoke(cli, call)
    assert isinstance(refused.exception, NotPossible)
    assert "100,050 forwards" in str(refused.exception)
    assert "--yes" in str(refused.exception)
    done = CliRunner().invoke(cli, [*call, "--yes"])
    assert done.exit_code == 0, done.output


def test_seconds_end_a_run_with_what_there_is(tmp_path):
    call = ["run", "kernel-shapley", "--model", "digits-cnn", "--x", "digits/test[0:1]", "--features", "cells:5"]
    call += ["--within", "0", "--seconds", "0.000001", "--target", "0", "--study", str(tmp_path)]
    done = CliRunner().invoke(cli, call)
    assert done.exit_code == 0, done.output
    assert "partial: The time limit" in done.output


@pytest.mark.parametrize("seconds", ["0", "-1"])
def test_a_time_limit_below_zero_is_refused(seconds, tmp_path):
    call = ["run", "gradient", "--model", "digits-cnn", "--x", "digits/test[0:1]", "--seconds", seconds]
    assert CliRunner().invoke(cli, [*call, "--study", str(tmp_path)]).exit_code != 0
