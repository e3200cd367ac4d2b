"""Jobs that a study has begun: listed, gone on with, cleaned, from Python and the command line."""

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import cutaway as ct
from cutaway.cli import cli
from cutaway.core.errors import BadOption, NotPossible, UnknownName
from cutaway.core.progress import reporting
from cutaway.session import jobs as work

REQUEST = {"sites": "relu5", "k": 2}


@pytest.fixture
def stopped(tmp_path):
    """A study with a job that was interrupted after its first shard."""

    def stop(progress):
        if progress.label == "strongest examples" and progress.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), reporting(stop):
        ct.run("dataset_examples", "shapes-cnn", "shapes/test[0:300]", study=tmp_path, **REQUEST)
    return tmp_path


def test_a_stopped_job_is_listed_and_gone_on_with(stopped):
    (row,) = work.jobs(stopped).rows
    assert row[1:] == ["strongest examples", "shapes-cnn", "shapes/test[0:300]", "1 of 2", "stopped", 0]
    result = work.resume(stopped, row[0])
    assert result.rows == ct.run("dataset_examples", "shapes-cnn", "shapes/test[0:300]", **REQUEST).rows
    assert work.jobs(stopped).rows[0][4:6] == ["2 of 2", "finished"]


def test_a_partial_answer_is_given_and_not_kept(stopped):
    partial = ct.run("dataset_examples", "shapes-cnn", "shapes/test[0:300]", study=stopped, partial=True, **REQUEST)
    assert "256 of 300" in partial.checks["coverage"]
    whole = ct.run("dataset_examples", "shapes-cnn", "shapes/test[0:300]", study=stopped, **REQUEST)
    assert "coverage" not in whole.checks


def test_the_command_line_lists_resumes_and_cleans(stopped):
    def told(*words):
        shown = CliRunner().invoke(cli, ["jobs", "--study", str(stopped), *words])
        assert shown.exit_code == 0, shown.output
        return shown.output

    assert "stopped" in told()
    job = work.jobs(stopped).rows[0][0]
    assert "Table of dataset_examples" in told("resume", job)
    assert "finished" in told()
    assert job in told("clean")
    assert "no jobs" in told()
    assert "nothing" in told("clean")


def test_the_command_line_runs_a_method_on_a_data_set(tmp_path):
    words = "run dataset-examples --model shapes-cnn --x shapes/test[0:20] --sites relu5 --k 1 --study".split()
    shown = CliRunner().invoke(cli, [*words, str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "64 rows" in shown.output


def test_what_cannot_be_done_is_refused(stopped):
    job = work.jobs(stopped).rows[0][0]
    with pytest.raises(NotPossible, match="nobody works on"):
        work.cancel(stopped, job)
    with pytest.raises(UnknownName, match="no job"):
        work.resume(stopped, "0000")
    with pytest.raises(BadOption, match="expected workers"):
        ct.run("dataset_examples", "shapes-cnn", "shapes/test[0:3]", workers="many")
    own = ct.Model(nn.Sequential(nn.Linear(2, 2)), ct.rows(2))
    ct.run("dataset_examples", own, torch.rand(3, 2), sites="0", k=1, study=stopped)
    mine = next(row[0] for row in work.jobs(stopped).rows if row[2] != "shapes-cnn")
    with pytest.raises(NotPossible, match="in memory"):
        work.resume(stopped, mine)
