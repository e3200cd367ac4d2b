"""A Hugging Face text classifier from a local folder, as a `Model` (extra `text`).

Nothing is fetched, and no code that lies in the folder is run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from cutaway.core.errors import BadShape, CutawayError, NotPossible, UnknownName
from cutaway.core.model import Model
from cutaway.core.space import tokens


def text_classifier(path: str | Path, *, name: str = "") -> Model:
    """The classifier in a folder that `save_pretrained` wrote: model, configuration and tokenizer.

    Attention is computed step by step ("eager"), so that its weights can be read.

    Args:
        path: The folder.
        name: What to call it; the folder's name by default.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise UnknownName(
            f"no Hugging Face model in {str(folder)!r}: expected a folder with config.json, weights and tokenizer."
        )
    try:
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
    except ImportError as fault:
        raise NotPossible("a Hugging Face model needs the extra `text`: pip install 'cutaway[text]'.") from fault
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, **local)
            _check_architecture(config, folder)
            tokenizer = AutoTokenizer.from_pretrained(folder, **local)
            module, loading = AutoModelForSequenceClassification.from_pretrained(
                folder, config=config, attn_implementation="eager", weights_only=True, output_loading_info=True, **local
            )
    except CutawayError:
        raise
    except Exception as fault:  # each kind of broken file has an error of its own
        raise BadShape(f"{folder.name}: not a readable Hugging Face classifier ({_first_line(fault)}).") from fault
    if missing := sorted(loading["missing_keys"]):
        raise BadShape(f"{folder.name}: weights are missing for {', '.join(missing[:5])}; they would be random.")
    classes = [config.id2label[i] for i in range(config.num_labels)]
    model = Model(
        module.eval(),
        tokens(),
        classes=classes,
        name=name or folder.name,
        output="logits",
        tokenizer=tokenizer,
        embedding=_path_of(module, module.get_input_embeddings()),
    )
    if config.num_labels == 1:
        model.scores = "values"
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and reports of transformers; what matters of them becomes an error or a check."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    try:
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _check_architecture(config: Any, folder: Path) -> None:
    architectures = config.architectures or ["none named"]
    if not architectures[0].endswith("ForSequenceClassification"):
        raise NotPossible(
            f"{folder.name} is a {architectures[0]}; expected a text classifier (…ForSequenceClassification)."
        )


def _path_of(module: nn.Module, part: nn.Module) -> str:
    return next(path for path, found in module.named_modules() if found is part)


def _first_line(fault: Exception) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0]
