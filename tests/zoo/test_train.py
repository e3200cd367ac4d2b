"""Recipes: the same seed gives the same file."""

import pytest
import torch

from cutaway import zoo
from cutaway.core.errors import BadOption, NotPossible, UnknownName
from cutaway.core.progress import reporting
from cutaway.zoo import digits_cnn, shapes_cnn
from cutaway.zoo.train import train


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    torch.manual_seed(1)
    first = train("digits-cnn", epochs=1).save(tmp_path / "a.safetensors").read_bytes()
    torch.manual_seed(2)
    assert train("digits-cnn", epochs=1).save(tmp_path / "b.safetensors").read_bytes() == first
    assert train("digits-cnn", epochs=1, seed=1).save(tmp_path / "c.safetensors").read_bytes() != first


def test_training_leaves_threads_and_random_state_alone():
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():
        train("digits-cnn", epochs=1)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_the_digits_recipe_reaches_its_accuracy():
    assert train("digits-cnn", seed=3).accuracy >= 0.97


def test_one_epoch_already_learns_and_can_be_loaded(tmp_path):
    done = train("digits-cnn", epochs=3)
    assert done.accuracy > 0.9
    model = zoo.load("digits-cnn", weights=done.save(tmp_path / "own.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(model.module.parameters(), done.module.parameters(), strict=True))


def test_progress_is_told_and_a_listener_can_stop_it():
    seen = []

    def listen(progress):
        seen.append(progress)
        if progress.done == 3:
            raise KeyboardInterrupt

    threads = torch.get_num_threads()
    with reporting(listen), pytest.raises(KeyboardInterrupt):
        train("digits-cnn")
    assert (seen[-1].label, seen[-1].done, seen[-1].total) == ("training digits-cnn", 3, 30 * 22)
    assert torch.get_num_threads() == threads


def test_saving_replaces_our_own_file_and_no_other(tmp_path):
    done = train("digits-cnn", epochs=1)
    done.save(tmp_path / "a.safetensors")
    done.save(tmp_path / "a.safetensors")
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(NotPossible, match="exists"):
        done.save(tmp_path / "thesis.txt")
    with pytest.raises(NotPossible, match="does not exist"):
        done.save(tmp_path / "nowhere" / "a.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "thesis.txt"]


def test_wrong_requests():
    with pytest.raises(UnknownName, match="no recipe 'efficientnet-lite0'; nearest: .*Only cutaway's own"):
        train("efficientnet-lite0")
    with pytest.raises(BadOption, match="epochs of 1 or more"):
        train("digits-cnn", epochs=0)


def test_variations_keep_what_the_label_depends_on():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, 3, 48, 48)
    assert torch.equal(shapes_cnn.turned(x, generator).flatten(1).sort()[0], x.flatten(1).sort()[0])
    ink = torch.zeros(8, 1, 8, 8)
    ink[:, :, 3:5, 3:5] = 1
    moved = digits_cnn.shifted(ink, generator)
    assert moved.shape == ink.shape
    assert torch.equal(moved.sum((1, 2, 3)), ink.sum((1, 2, 3)))
