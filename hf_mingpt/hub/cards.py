"""Model cards: model_card.md, rendered with the records of a run folder."""

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from ..data.encoding import load_tokenizer
from ..data.questions import read_questions
from ..evaluation.markup import code_span, escape_markdown
from ..evaluation.report import PICTURE, PICTURE_LINE, format_metrics, format_table
from ..system.fields import with_present_names
from ..system.wording import count
from ..system.writing import written_aside
from ..tokenization_mingpt import is_character_tokenizer
from ..training.recipes import FinetuneRecipe, PretrainRecipe
from .metadata import describe_questions, describe_run
from .records import read_public

logger = logging.getLogger(__name__)
_PACKAGE = Path(__file__).resolve().parent.parent
# in a wheel inside the package, in a checkout beside it
CARD_TEMPLATE = next(p for p in (_PACKAGE / "model_card.md", _PACKAGE.parent / "model_card.md") if p.exists())


def write_card(
    folder: str | Path, repo_id: str | None = None, *, dataset: str | None = None, language: str | None = None
) -> ModelCard:
    """Renders the model card of a run, with the metadata of the Hub, and writes it as README.md.

    Names and texts from other sources are escaped.

    Args:
        folder: a run folder with recipe.json, run.json and config.json; with report.json, the card has results.
        repo_id: the name on the Hub; None: the name of the folder.
        dataset: the run's data on the Hub, if it was pushed there after the training.
        language: codes of ISO 639, separated by commas. None: English if the training questions are, else unknown.
    """
    folder = Path(folder)
    recipe, run, config = (read_public(folder / name) for name in ("recipe.json", "run.json", "config.json"))
    recipe = _with_present_names(recipe)
    tokenizer, questions = load_tokenizer(str(folder)), _find_questions(folder, run)
    report_path = folder / "report.json"
    report = read_public(report_path) if report_path.exists() else None
    name = repo_id or folder.resolve().name
    about: dict[str, Any] = {"tokenizer": tokenizer, "questions": questions, "dataset": dataset, "language": language}
    data = describe_run(name, recipe, report, **about)
    card = ModelCard.from_template(
        data,
        template_path=str(CARD_TEMPLATE),
        name=name,
        text=escape_markdown,
        code=code_span,
        count=count,
        parameters=f"{run['parameters']:,}",
        config=config,
        recipe=recipe,
        answers_questions=bool(questions),
        example=next(iter(questions.get("examples", ())), None),
        characters=is_character_tokenizer(tokenizer),
        vocabulary=len(tokenizer),
        mask=tokenizer.mask_token,
        pad=tokenizer.pad_token,
        quote=lambda text: json.dumps(text, ensure_ascii=not text.isprintable()),
        options=", add_special_tokens=False" if tokenizer.num_special_tokens_to_add() else "",
        run=run,
        report=report,
        table=format_table(report["results"]) if report else None,
        calibration=_format_calibration(report) if report else None,
    )
    with written_aside(folder / "README.md") as aside:
        card.save(aside)
    return card


def try_card(folder: str | Path) -> None:
    """Writes the card, or warns if that fails: a run is worth more than its card."""
    try:
        write_card(folder)
    except Exception as error:  # of the template, the records or the disk
        logger.warning(f"{folder} has no new card: {error}")


def _with_present_names(recipe: dict[str, Any]) -> dict[str, Any]:
    return with_present_names(FinetuneRecipe if recipe["kind"] == "FinetuneRecipe" else PretrainRecipe, recipe)


def _find_questions(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    """`describe_questions` of a run's training questions; empty if there are none.

    run.json has it; for a run of an earlier version, it is found if the file of the questions is still there.
    """
    if "questions" in run:
        return run["questions"]
    recipe = _with_present_names(json.loads((folder / "recipe.json").read_text(encoding="utf-8")))
    if recipe["kind"] != "FinetuneRecipe" and not recipe.get("questions_file"):
        return {}
    questions = []
    with suppress(OSError, ValueError):
        questions = read_questions(recipe["questions_file"], answers=True)
    return describe_questions(questions)


def _format_calibration(report: dict[str, Any]) -> str | None:
    """The calibration report in Markdown, with the picture that was written with it."""
    for key in ("calibration", "honesty"):  # the latter in reports of earlier versions
        if key in report:
            return f"{PICTURE_LINE.replace(PICTURE, f'{key}.png')}\n\n{format_metrics(report[key])}"
    return None
