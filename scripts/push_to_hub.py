"""Pushes to the Hugging Face Hub: a run, generated data with its card, the demo page of a run, or the metric.

    python scripts/push_to_hub.py --data runs/demo/data --hub_dataset_id me/biographies
    python scripts/push_to_hub.py --run runs/demo/finetuned --hub_model_id me/mingpt --hub_dataset_id me/biographies
    python scripts/push_to_hub.py --space me/mingpt --hub_space_id me/ask-mingpt
    python scripts/push_to_hub.py --metric --hub_space_id me/birthplace_accuracy

Load the data with `load_dataset("me/biographies", "biographies")`, and its questions with the config "questions"; the
metric with `evaluate.load("me/birthplace_accuracy")`. Pushing needs a token: `hf auth login`, or HF_TOKEN.
"""

from dataclasses import dataclass
from pathlib import Path

from hf_mingpt.hub.pushing import push_dataset, push_run
from hf_mingpt.hub.spaces import push_metric, push_page
from hf_mingpt.system.command_line import parse_recipe, user_errors
from hf_mingpt.system.fields import flag


@dataclass(frozen=True, kw_only=True)
class PushRecipe:
    run: str | None = flag(None, "Finished run folder.")
    hub_model_id: str | None = flag(None, "Repository to push to. None: the name of the folder.")
    revision: str | None = flag(None, "Branch to push to, created if it does not exist.")
    language: str | None = flag(
        None,
        "Language of the text, for the card: codes of ISO 639, such as en,sv. None: en if the questions are English.",
    )
    data: str | None = flag(
        None, "Folder of generate_biographies.py, or another that load_dataset takes, with a dataset card."
    )
    hub_dataset_id: str | None = flag(
        None,
        "Repository to push the data to. None: the name of the folder. With --run: the run's data on the Hub, for the "
        "card, and for .eval_results if its eval.yaml has a task for the questions of the report.",
    )
    space: str | None = flag(None, "Calibrated run on the Hub: pushes a Gradio Space with the page of demo.py for it.")
    metric: bool = flag(False, "Push the metric of evaluate_birthplaces.py as a Space, for evaluate.load.")
    hub_space_id: str | None = flag(None, "Space to push to. None: the name of the run on the Hub.")
    hub_private_repo: bool = flag(False, "Make the repository private.", formerly="private")

    def __post_init__(self):
        if sum((self.run is not None, self.data is not None, self.space is not None, self.metric)) != 1:
            raise ValueError("Give one of --run, --data, --space and --metric.")
        if self.metric and not self.hub_space_id:
            raise ValueError("--metric needs hub_space_id: give the Space to push to, such as me/birthplace_accuracy.")


def main() -> None:
    recipe = parse_recipe(PushRecipe)
    private = recipe.hub_private_repo
    with user_errors():
        if recipe.run:
            about = {"revision": recipe.revision, "dataset": recipe.hub_dataset_id, "language": recipe.language}
            print(push_run(recipe.run, recipe.hub_model_id, private=private, **about))
        if recipe.data:
            print(push_dataset(recipe.data, recipe.hub_dataset_id, private=private))
        if recipe.space:
            page = Path(__file__).parent / "demo.py"
            print(push_page(recipe.space, page, recipe.hub_space_id, private=private))
        if recipe.metric:
            print(push_metric(recipe.hub_space_id, private=private))


if __name__ == "__main__":
    main()
