"""Continues a prompt with a trained minGPT, token by token.

    python scripts/sample.py --model_name_or_path runs/book --prompt "It was " --max_new_tokens 300 --temperature 0.8
    python scripts/sample.py --model_name_or_path runs/rope-answers --question "Where was Ada Byron born?" --greedy

--question adds the mark that ends a question. In a --prompt, [MASK] may be typed for it.
"""

from dataclasses import dataclass

from accelerate.utils import set_seed

from hf_mingpt.evaluation.answering import continue_prompt, with_mark
from hf_mingpt.hub.loading import load_run
from hf_mingpt.system.command_line import parse_recipe, user_errors
from hf_mingpt.system.fields import check_least, flag, required


@dataclass(frozen=True, kw_only=True)
class SampleRecipe:
    model_name_or_path: str = required("Run folder or Hub name.")
    prompt: str | None = flag(None, "Text to continue. None: a line break.")
    question: str | None = flag(None, "Question to continue with an answer.")
    max_new_tokens: int = flag(200, "Tokens to generate.")
    num_samples: int = flag(1, "Continuations to generate.")
    temperature: float = flag(1.0, "Temperature of the softmax: under 1 sharpens the distribution, over 1 flattens it.")
    top_k: int | None = flag(None, "Draw from the k most probable tokens. None: from all.")
    greedy: bool = flag(False, "Take the most probable token every time.")
    seed: int = flag(0, "Seed of the draws.")
    revision: str | None = flag(None, "Branch, tag or commit of a Hub model.")

    def __post_init__(self):
        if self.question is not None and (self.prompt is not None or not self.question.strip()):
            raise ValueError("Give a prompt or a question, not both, and no empty question.")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(
                f"temperature is {self.temperature:g}: it must be more than 0; for no draw, give --greedy."
            )
        check_least(self, 0, "seed", "top_k")
        check_least(self, 1, "max_new_tokens", "num_samples")


def main() -> None:
    recipe = parse_recipe(SampleRecipe)
    with user_errors():
        model, tokenizer = load_run(recipe.model_name_or_path, recipe.revision)
        set_seed(recipe.seed)
        options = {"do_sample": not recipe.greedy}
        if not recipe.greedy:
            options |= {"temperature": recipe.temperature, "top_k": recipe.top_k or 0}
        prompt = "\n" if recipe.prompt is None else recipe.prompt
        if recipe.question is not None:
            prompt = f"{recipe.question.removesuffix('[MASK]')}[MASK]"
        for _ in range(recipe.num_samples):
            print(continue_prompt(model, tokenizer, with_mark(prompt, tokenizer), recipe.max_new_tokens, **options))


if __name__ == "__main__":
    main()
