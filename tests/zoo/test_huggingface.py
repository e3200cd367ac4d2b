"""A Hugging Face text classifier from a folder; a tiny one, made here."""

import json
import os

import pytest
import torch

from cutaway import zoo
from cutaway.core.errors import BadShape, NotPossible, UnknownName

transformers = pytest.importorskip("transformers", reason="needs the extra `text`")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "a", "film", "##s"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random two-layer BERT with ten words and three classes, as `save_pretrained` writes it."""
    path = tmp_path_factory.mktemp("hf") / "tiny bert"
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        id2label={0: "awful", 1: "fine", 2: "great"},
        label2id={"awful": 0, "fine": 1, "great": 2},
    )
    transformers.BertForSequenceClassification(config).save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(str(path / "vocab.txt")).save_pretrained(path)
    return path


def test_texts_are_classified(folder):
    model = zoo.load(f"hf:{folder}")
    assert (model.name, model.classes) == ("tiny bert", ("awful", "fine", "great"))
    assert model.space.kind == "tokens"
    p = model.predict(["a good film", "bad"])
    assert p.shape == (2, 3)
    assert torch.allclose(p.sum(1), torch.ones(2))
    alone = model.predict(["bad"])
    assert torch.allclose(p[1:], alone, atol=1e-6)


def test_the_answer_is_that_of_transformers(folder):
    model = zoo.load(f"hf:{folder}")
    module = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(["a good film"], return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(model.run(["a good film"]).output, module(**tokens).logits, atol=1e-5)


def test_the_embedding_is_the_input_for_gradients(folder):
    found = zoo.load(f"hf:{folder}").gradient(["a good film"], "great")
    assert found.slope.shape == (1, 5, 16)
    assert found.slope.abs().sum() > 0


def test_attention_is_computed_step_by_step(folder):
    module = zoo.load(f"hf:{folder}").module
    assert module.config._attn_implementation == "eager"
    assert not module.training


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UnknownName, match=r"expected a folder with config.json"):
        zoo.load(f"hf:{tmp_path}")
    with pytest.raises(UnknownName, match=r"no Hugging Face model in 'bert-base-uncased'"):
        zoo.load("hf:bert-base-uncased")


def copied(folder, target, **changes):
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_another_architecture_is_refused(folder, tmp_path):
    other = copied(folder, tmp_path / "encoder", architectures=["BertModel"])
    with pytest.raises(NotPossible, match=r"encoder is a BertModel; expected a text classifier"):
        zoo.load(f"hf:{other}")


def test_random_weights_are_refused(folder, tmp_path):
    import safetensors.torch

    other = copied(folder, tmp_path / "headless")
    state = safetensors.torch.load_file(other / "model.safetensors")
    state = {key: value.clone() for key, value in state.items() if not key.startswith("classifier")}
    safetensors.torch.save_file(state, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadShape, match=r"weights are missing for classifier.bias, classifier.weight"):
        zoo.load(f"hf:{other}")


def test_code_in_the_folder_never_runs(folder, tmp_path):
    other = copied(
        folder,
        tmp_path / "coded",
        model_type="unheard-of",
        auto_map={"AutoConfig": "code.C", "AutoModelForSequenceClassification": "code.M"},
    )
    (other / "code.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'canary')!r})\n")
    with pytest.raises(BadShape, match="coded: not a readable Hugging Face classifier"):
        zoo.load(f"hf:{other}")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_broken_files_are_refused(folder, tmp_path, name):
    other = copied(folder, tmp_path / "broken")
    (other / name).write_bytes((other / name).read_bytes()[:50])
    with pytest.raises(BadShape, match="broken: not a readable Hugging Face classifier"):
        zoo.load(f"hf:{other}")


def test_a_payload_among_the_weights_never_runs(folder, tmp_path):
    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "canary"),))

    other = copied(folder, tmp_path / "hostile")
    (other / "model.safetensors").unlink()
    torch.save({"classifier.bias": Payload()}, other / "pytorch_model.bin")
    with pytest.raises(BadShape, match="hostile: not a readable Hugging Face classifier"):
        zoo.load(f"hf:{other}")
    assert not (tmp_path / "canary").exists()


def test_nothing_is_printed(folder, capfd):
    zoo.load(f"hf:{folder}")
    assert capfd.readouterr() == ("", "")
