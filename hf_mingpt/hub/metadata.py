"""What the Hub reads about a run: the metadata of its model card, and the results of its evaluation.

Results stand in two places. `model-index` in the card belongs to the model alone. A file in `.eval_results` names a
dataset on the Hub and a task of its eval.yaml. The Hub shows it on the leaderboard of that dataset, if the dataset is
one of those that it lists as benchmarks.

References: https://huggingface.co/docs/hub/model-cards, https://huggingface.co/docs/hub/eval-results.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, constants, eval_result_entries_to_yaml
from transformers import PreTrainedTokenizerBase

from ..data.questions import Question
from ..data.subjects import find_templates, match
from ..system.files import hub_dataset, is_path
from ..tokenization_mingpt import is_character_tokenizer

RESULTS_FILE = ".eval_results/hf_mingpt.yaml"
NUM_EXAMPLES = 3
_ENGLISH = re.compile(r"(In which|Who|What|Where|When|Which|How) ")


def describe_questions(questions: Sequence[Question]) -> dict[str, Any]:
    """What a card says about training questions: a few examples, of as many templates as possible, and the language."""
    asked = list(dict.fromkeys(question.question for question in questions))
    templates = find_templates(asked)
    first_of_kind = {match(question, templates): question for question in reversed(asked)}.values()
    examples = list(dict.fromkeys([*sorted(first_of_kind, key=asked.index), *asked]))[:NUM_EXAMPLES]
    return {"examples": examples, "language": "en" if asked and all(map(_ENGLISH.match, asked)) else None}


def describe_run(
    name: str,
    recipe: Mapping[str, Any],
    report: Mapping[str, Any] | None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    questions: Mapping[str, Any],
    dataset: str | None = None,
    language: str | None = None,
) -> ModelCardData:
    """Collects the metadata of a run's model card.

    Args:
        name: the name of the model.
        recipe: recipe.json, prepared for publication.
        report: report.json, prepared for publication; None: the run has not been evaluated.
        tokenizer: of the run.
        questions: `describe_questions` of the training questions; empty if there are none.
        dataset: the run's data on the Hub, if it was pushed there after the training.
        language: codes of ISO 639, separated by commas. None: English if the training questions are, else unknown.
    """
    language = language or questions.get("language")
    pretrains = recipe["kind"] == "PretrainRecipe" and recipe.get("objective") == "span_corruption"
    tags = {
        "mingpt": True,
        "character-level": is_character_tokenizer(tokenizer),
        "span-corruption": pretrains and recipe.get("ssm_probability", 0) < 1,
        "salient-span-masking": pretrains and recipe.get("ssm_probability", 0) > 0,
        "closed-book-question-answering": bool(questions),
    }
    base = None if recipe.get("from_scratch") else _hub_name(recipe.get("model_name_or_path"))
    sources = [dataset, *(_hub_name(recipe.get(flag)) for flag in ("train_file", "questions_file"))]
    return ModelCardData(
        license="mit",
        language=language.split(",") if language and "," in language else language,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=[tag for tag, holds in tags.items() if holds],
        base_model=base,
        datasets=list(dict.fromkeys(source for source in sources if source)) or None,
        metrics=["exact_match"] if report else None,
        widget=[{"text": f"{question}{tokenizer.mask_token}"} for question in questions.get("examples", ())] or None,
        model_name=name,
        eval_results=[_result(report, dataset)] if report else None,
    )


def find_task(report: Mapping[str, Any], dataset: str, tasks: Sequence[Mapping[str, Any]]) -> str | None:
    """The task of a dataset whose questions a run was evaluated on: its id, or None.

    A file of questions is the task of its name, as `generate_biographies.py` names them. Questions from the dataset
    itself, `owner/name/configuration:split`, are the task with this configuration and split.

    Args:
        report: report.json, prepared for publication.
        dataset: the dataset on the Hub.
        tasks: of its eval.yaml.
    """
    source = report["questions"]["file"]
    on_hub = hub_dataset(source)
    if on_hub is None:
        return next((str(task["id"]) for task in tasks if task.get("id") == Path(source).stem), None)
    configurations = [on_hub.configuration] if on_hub.configuration else ["questions", "default"]
    found = {task.get("config"): str(task["id"]) for task in tasks if task.get("split") == (on_hub.split or "train")}
    own = [found[name] for name in configurations if name in found and on_hub.repository == dataset]
    return next(iter(own), None)


def format_results(report: Mapping[str, Any], dataset: str, task: str, repo_id: str) -> str:
    """The content of a file in `.eval_results`: the accuracy, its dataset, and report.json as the source.

    Args:
        report: report.json, prepared for publication.
        dataset: the dataset on the Hub with the questions.
        task: from `find_task`.
        repo_id: the run on the Hub.
    """
    entry = EvalResultEntry(
        dataset_id=dataset,
        task_id=task,
        value=_accuracy(report),
        date=report["date"],
        source_url=f"{constants.ENDPOINT}/{repo_id}/blob/main/report.json",
        source_name="report.json",
        notes=f"exact match, closed book, {report['results']['model']['total']} questions",
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)


def _result(report: Mapping[str, Any], dataset: str | None) -> EvalResult:
    source = report["questions"]["file"]
    on_hub = hub_dataset(source)
    return EvalResult(
        task_type="question-answering",
        task_name="Closed-book question answering",
        dataset_type=dataset or (on_hub.repository if on_hub else Path(source).stem),
        dataset_name=source,
        metric_type="exact_match",
        metric_name="accuracy",
        metric_value=_accuracy(report),
    )


def _accuracy(report: Mapping[str, Any]) -> float:
    return round(report["results"]["model"]["accuracy"], 4)


def _hub_name(source: str | None) -> str | None:
    if source and (dataset := hub_dataset(source)):
        return dataset.repository
    return source if source and "/" in source and not is_path(source) else None
