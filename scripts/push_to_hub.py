"""Pushes a run folder to the Hugging Face Hub: model, code, tokenizer, card and run record.

python scripts/push_to_hub.py --run runs/rope-answers --hub_model_id me/mingpt-birthplaces --private
"""

from dataclasses import dataclass, field

from hf_mingpt.hub import push_run
from hf_mingpt.recipes import parse_recipe, user_errors


@dataclass(frozen=True, kw_only=True)
class PushRecipe:
    run: str = field(metadata={"help": "Finished run folder."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Repository; None: the name of the folder."})
    private: bool = field(default=False, metadata={"help": "Make the repository private."})
    revision: str | None = field(default=None, metadata={"help": "Branch to push to; it is made if there is none."})


def main() -> None:
    recipe = parse_recipe(PushRecipe)
    with user_errors():
        print(push_run(recipe.run, recipe.hub_model_id, private=recipe.private, revision=recipe.revision))


if __name__ == "__main__":
    main()
