r"""Converts a checkpoint: of the CS224n assignment, of minGPT or GPT-2 to a run folder; a run to GPT-2 or to ONNX.

    python scripts/convert_checkpoint.py --checkpoint vanilla.pretrain.params --vocabulary_file wiki.txt \
        --output_dir runs/converted
    python scripts/convert_checkpoint.py --checkpoint mingpt.pt --num_attention_heads 6 --tokenizer_name gpt2 \
        --output_dir runs/converted
    python scripts/convert_checkpoint.py --checkpoint gpt2 --output_dir runs/gpt2-as-mingpt
    python scripts/convert_checkpoint.py --checkpoint runs/learned --to gpt2 --output_dir runs/learned-as-gpt2
    python scripts/convert_checkpoint.py --checkpoint runs/learned --to onnx --output_dir runs/learned-as-onnx

A file holds weights from `torch.save(model.state_dict())`. A folder or a Hub name is a GPT-2 or, with `--to gpt2`, a
minGPT with dot-product attention and learned positions. ONNX (extra `onnx`) is for onnxruntime and transformers.js: the
graph of any minGPT, with a cache of keys and values.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from hf_mingpt.conversion import from_gpt2, from_state_dict, to_gpt2
from hf_mingpt.data.encoding import load_tokenizer
from hf_mingpt.hub.exporting import export_onnx
from hf_mingpt.hub.loading import load_model
from hf_mingpt.hub.run_folders import written_whole
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.system.fields import check_choice, flag, required
from hf_mingpt.system.files import check_source, first_line, read_text
from hf_mingpt.system.writing import one_writer
from hf_mingpt.tokenization_mingpt import build_tokenizer, build_vocabulary, check_marks, vocabulary_size


@dataclass(frozen=True, kw_only=True)
class ConversionRecipe:
    checkpoint: str = required("File of weights, or folder or Hub name of a GPT-2 (with --to: of a minGPT).")
    output_dir: str = required("Folder to write.")
    to: str = flag("mingpt", "'mingpt', 'gpt2' or 'onnx'.")
    vocabulary_file: str | None = flag(None, "Text that a model of the assignment was trained on.")
    tokenizer_name: str | None = flag(None, "Tokenizer of a minGPT model, for a file of weights.")
    num_attention_heads: int | None = flag(
        None, "Attention heads, for a file of weights. None: 8, as in the assignment."
    )

    def __post_init__(self):
        check_choice("to", self.to, ("mingpt", "gpt2", "onnx"))
        if self.to == "onnx" and find_spec("onnxscript") is None:
            raise ValueError('onnxscript is not installed: pip install -c constraints.txt -e ".[onnx]".')
        if Path(self.output_dir).is_file():
            raise ValueError(f"output_dir {self.output_dir} is a file: choose a folder.")
        if Path(self.output_dir).exists() and any(Path(self.output_dir).iterdir()):
            raise ValueError(f"output_dir {self.output_dir} is not empty: choose another.")
        if Path(self.checkpoint).is_file() and (self.vocabulary_file is None) == (self.tokenizer_name is None):
            raise ValueError("A file of weights has no vocabulary: give vocabulary_file or tokenizer_name.")


def main() -> None:
    recipe = parse_recipe(ConversionRecipe)
    with user_errors():
        if Path(recipe.checkpoint).is_file():
            model, tokenizer = read_file(recipe)
        else:
            check_source(recipe.checkpoint, "checkpoint")
            source = load_model(recipe.checkpoint)
            wanted = "gpt2" if recipe.to == "mingpt" else "mingpt"
            if source.config.model_type != wanted:
                raise ValueError(
                    f"{recipe.checkpoint} is a {source.config.model_type}: --to {recipe.to} needs a {wanted}."
                )
            convert = {"gpt2": to_gpt2, "mingpt": from_gpt2}.get(recipe.to)
            model = convert(source) if convert else source.float().eval()
            model.generation_config = source.generation_config
            tokenizer = load_tokenizer(recipe.checkpoint, has_owner=False)
        if (size := vocabulary_size(tokenizer)) > model.config.vocab_size:
            raise ValueError(
                f"The vocabulary has {size} tokens, the checkpoint {model.config.vocab_size}: give the text or the "
                "tokenizer that the model was trained with."
            )
    folder = Path(recipe.output_dir)
    with accidents(), one_writer(folder), written_whole(folder, folder.resolve().name) as aside:
        if recipe.to == "onnx":
            export_onnx(model, tokenizer, aside)
        else:
            model.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
    print(f"Wrote {recipe.output_dir}: {model.num_parameters():,} parameters, {len(tokenizer):,} tokens.")


def read_file(recipe: ConversionRecipe):
    try:
        weights = torch.load(recipe.checkpoint, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises errors of many classes for a damaged file
        raise ValueError(f"{recipe.checkpoint} is not a file of weights, or contains code: it is refused.") from error
    is_state = isinstance(weights, dict) and all(isinstance(name, str) for name in weights)
    if not is_state or not all(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
        raise ValueError(f"{recipe.checkpoint} is not a state dict: save `model.state_dict()`.")
    try:
        model = from_state_dict(weights, recipe.num_attention_heads)
    except (LookupError, RuntimeError) as error:  # a weight is missing, or has another shape
        raise ValueError(f"{recipe.checkpoint}: its weights do not fit together: {first_line(error)}.") from error
    if recipe.tokenizer_name:
        tokenizer = load_tokenizer(recipe.tokenizer_name, has_owner=False)
    else:
        text = read_text(recipe.vocabulary_file)
        check_marks(text, recipe.vocabulary_file)
        tokenizer = build_tokenizer(build_vocabulary([[text]]), model.config.max_position_embeddings)
    return model, tokenizer


if __name__ == "__main__":
    main()
