"""Pushes to the Hugging Face Hub: a run (model, code, tokenizer, card, record), or generated data with its card.

    python scripts/push_to_hub.py --run runs/rope-answers --hub_model_id me/mingpt-birthplaces --private
    python scripts/push_to_hub.py --data runs/demo/data --hub_dataset_id me/biographies

Data is read back by `load_dataset("me/biographies", "biographies")`, and its questions by the config "questions".
"""

from dataclasses import dataclass

from hf_mingpt.hub.pushing import push_dataset, push_run
from hf_mingpt.system.command_line import parse_recipe, user_errors
from hf_mingpt.system.fields import flag


@dataclass(frozen=True, kw_only=True)
class PushRecipe:
    run: str | None = flag(None, "Finished run folder.")
    hub_model_id: str | None = flag(None, "Its repository; None: the name of the folder.")
    revision: str | None = flag(None, "Branch to push to; it is made if there is none.")
    data: str | None = flag(None, "Folder that generate_biographies.py wrote.")
    hub_dataset_id: str | None = flag(None, "Its repository; None: the name of the folder.")
    private: bool = flag(False, "Make the repository private.")

    def __post_init__(self):
        if (self.run is None) == (self.data is None):
            raise ValueError("Give --run or --data: one of them.")


def main() -> None:
    recipe = parse_recipe(PushRecipe)
    with user_errors():
        if recipe.run:
            print(push_run(recipe.run, recipe.hub_model_id, private=recipe.private, revision=recipe.revision))
        if recipe.data:
            print(push_dataset(recipe.data, recipe.hub_dataset_id, private=recipe.private))


if __name__ == "__main__":
    main()
