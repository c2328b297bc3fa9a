"""Every sentence of a model card is true of its run, whatever the tokenizer, the questions and the objective."""

import pytest
from huggingface_hub import ModelCard

from hf_mingpt.data.questions import Question, write_questions
from hf_mingpt.hub.cards import write_card
from hf_mingpt.hub.metadata import describe_questions
from hf_mingpt.hub.saving import save_run
from hf_mingpt.system.writing import write_json
from hf_mingpt.tokenization_mingpt import vocabulary_size
from hf_mingpt.training.recipes import FinetuneRecipe, PretrainRecipe

from ..conftest import small_model
from ..data.other_tokenizers import KINDS
from .conftest import RECORD


def test_the_card_has_results_and_valid_metadata(run_folder):
    row = {"accuracy": 0.5, "correct": 1, "total": 2, "interval_95": [0.1, 0.9]}
    questions = {"file": "dev.tsv", "bytes": 1, "sha256": "0" * 64}
    report = {
        "results": {"model": row, "always London": row},
        "questions": questions,
        "command": "c",
        "date": "2026-01-01",
    }
    write_json(run_folder / "report.json", report)
    card = write_card(run_folder, "someone/mingpt")
    assert card.data.eval_results[0].metric_value == 0.5
    reread = ModelCard.load(run_folder / "README.md")
    assert reread.data.pipeline_tag == "text-generation"
    assert "| always London | 50.0% | 1 of 2 |" in reread.text
    assert "Exact match on the 2 questions of" in reread.text
    assert "micro-batches x 1 process |" in reread.text
    assert "someone/mingpt" in reread.text
    assert "{{" not in reread.text
    assert "It invents what it does not know: asked about an unknown name" in reread.text


def test_a_report_of_an_earlier_version_is_on_the_card(run_folder):
    """Its keys are honesty and right."""
    row = {"accuracy": 0.5, "correct": 1, "total": 2, "interval_95": [0.1, 0.9]}
    honesty = {
        "threshold": 0.5,
        "scores": {"auroc": 0.75},
        "intervals_95": {"auroc": [0.5, 1.0]},
        "invented_names": 20,
        "false_answers_on_invented_names": 0.05,
        "accuracy_by": {"the place": {"rare": {"right": 1, "total": 4}}},
    }
    questions = {"file": "dev.tsv", "bytes": 1, "sha256": "0" * 64}
    report = {"results": {"model": row}, "questions": questions, "command": "c", "date": "2026-01-01"}
    write_json(run_folder / "report.json", {**report, "honesty": honesty})
    old = write_card(run_folder).text
    assert "(honesty.png)" in old
    assert "| auroc | 0.750 | 0.500 to 1.000 |" in old
    assert "| rare | 25.0% | 4 |" in old
    honesty["accuracy_by"]["the place"]["rare"] = {"correct": 1, "total": 4}
    write_json(run_folder / "report.json", {**report, "calibration": honesty})
    assert write_card(run_folder).text == old.replace("honesty.png", "calibration.png")


BIRTHPLACES = [Question(f"Where was {name} born?", "London") for name in ("Ada Byron", "Bo Mir", "Cy Roe", "Di Lund")]
CAPITALS = [Question(f"What is the capital of {name}?", "Lima") for name in ("Peru", "Mali", "Chad", "Cuba")]
LIMITS = "what it writes may be fluent and false"


def save_card(folder, recipe, tokenizer, questions=()) -> ModelCard:
    """Saves a run with a recipe, a tokenizer and training questions, and returns its card."""
    write_json(folder / "recipe.json", {"kind": type(recipe).__name__, **recipe.__dict__})
    record = {**RECORD, "command": "-", "questions": describe_questions(questions) if questions else {}}
    model = small_model("rope", vocab_size=vocabulary_size(tokenizer))
    save_run(folder, model, tokenizer, record, stop_at_mask=bool(questions))
    return write_card(folder)


def test_the_card_of_a_character_run_about_birthplaces(run_folder, tokenizer):
    values = {"model_name_or_path": "rope", "questions_file": "t.tsv", "output_dir": "-"}
    card = save_card(run_folder, FinetuneRecipe(**values), tokenizer, BIRTHPLACES)
    assert card.data.tags == ["mingpt", "character-level", "closed-book-question-answering"]
    assert (card.data.language, card.data.widget[0]) == ("en", {"text": "Where was Ada Byron born?⁇"})
    assert len(card.data.widget) == 3
    for said in (
        f"Its tokenizer has {len(tokenizer)} tokens, one for each character.",
        "given a question such as `Where was Ada Byron born?`, the model generates the answer",
        "It was finetuned from `rope` on questions and answers.",
        "MASK is `⁇` and PAD is `□`. Characters outside the vocabulary become PAD.",
        'tokenizer("Where was Ada Byron born?⁇", return_tensors="pt")',
        "It reads at most 48 tokens at once, and only the characters of its vocabulary.",
    ):
        assert said in card.text
    assert LIMITS not in card.text


def test_the_card_of_a_wordpiece_run_about_capitals(run_folder):
    tokenizer = KINDS["WordPiece"]("What is the capital of Peru, Mali, Chad, Cuba? Lima")
    values = {"train_file": "atlas.txt", "questions_file": "capitals.tsv", "output_dir": "-"}
    recipe = PretrainRecipe(**values, ssm_probability=0.5, masking_policy_probability=0.5, max_steps=9)
    card = save_card(run_folder, recipe, tokenizer, CAPITALS)
    assert card.data.tags == ["mingpt", "span-corruption", "salient-span-masking", "closed-book-question-answering"]
    assert card.data.widget[0] == {"text": "What is the capital of Peru?[MASK]"}
    for said in (
        f"Its tokenizer has {len(tokenizer)} tokens.",
        "given a question such as `What is the capital of Peru?`, the model generates",
        "under a masking policy, which prefers answers of the training questions, and span corruption, mixed with",
        "MASK is `[MASK]` and PAD is `[PAD]`.\n",
        'tokenizer("What is the capital of Peru?[MASK]", return_tensors="pt", add_special_tokens=False)',
        '.split("[MASK]")[1]',
        "It reads at most 48 tokens at once.",
        "| questions | `capitals.tsv` |",
        "| steps | 9 |",
    ):
        assert said in card.text
    for of_another in ("haracter", "born", "birth", "biograph", "place", LIMITS):
        assert of_another not in card.text.partition("## Out-of-scope")[0]


@pytest.mark.parametrize(
    ("flags", "tags", "said"),
    [
        ({}, ["span-corruption"], "trained on a text by span corruption (`prefix MASK suffix"),
        ({"ssm_probability": 1.0}, ["salient-span-masking"], "trained on a text by salient span masking (`title"),
        ({"objective": "causal"}, [], "Causal language modeling: the model predicts the next token"),
    ],
    ids=["span corruption", "salient spans", "causal"],
)
def test_the_card_of_a_run_without_questions(run_folder, tokenizer, flags, tags, said):
    recipe = PretrainRecipe(train_file="t.txt", output_dir="-", validation_ratio=0.05, **flags)
    card = save_card(run_folder, recipe, tokenizer)
    assert card.data.tags == ["mingpt", "character-level", *tags]
    assert not {"widget", "language"} & card.data.to_dict().keys()
    assert said in card.text
    assert ("Finetune it before use" in card.text) == (flags.get("objective") != "causal")
    assert LIMITS in card.text
    assert "question" not in card.text.replace("questions about this text", "")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"validation_ratio": 0.05}, "evaluated on 5 % of its documents, which it did not train on. At step 7: "),
        ({"validation_file": "v.txt", "validation_questions_file": "q.tsv"}, "evaluated on `q.tsv` and `v.txt`. At"),
        (
            {"validation_ratio": 0.125, "validation_file": "v.txt", "questions_file": "t.tsv"},
            "evaluated on 12.5 % of its questions, which it did not train on, and `v.txt`. At",
        ),
    ],
)
def test_the_card_says_what_the_run_was_evaluated_on(run_folder, flags, said):
    recipe = PretrainRecipe(train_file="t.txt", output_dir="-", **flags)
    write_json(run_folder / "recipe.json", {"kind": "PretrainRecipe", **recipe.__dict__})
    validation = {"step": 7, "eval_loss": 2.0}
    write_json(run_folder / "run.json", {**RECORD, "command": "-", "questions": {}, "validation": validation})
    assert said in write_card(run_folder).text


def test_questions_are_described_by_an_example_of_each_kind():
    both = describe_questions([*BIRTHPLACES, *CAPITALS])
    assert both["examples"] == [BIRTHPLACES[0].question, CAPITALS[0].question, BIRTHPLACES[1].question]
    assert both["language"] == "en"
    assert describe_questions([*BIRTHPLACES, Question("Var föddes Bo Mir?", "Bonn")])["language"] is None


def test_a_run_of_an_earlier_version_is_described_by_the_file_of_its_questions(run_folder, tmp_path):
    write_questions(tmp_path / "t.tsv", CAPITALS)
    recipe = {"kind": "FinetuneRecipe", "train_file": str(tmp_path / "t.tsv"), "model_name_or_path": "-"}
    write_json(run_folder / "recipe.json", recipe)
    assert "such as `What is the capital of Peru?`" in write_card(run_folder).text
    (tmp_path / "t.tsv").unlink()
    text = write_card(run_folder).text
    assert "given a question, the model generates" in text
    assert 'tokenizer("Your question?⁇", return_tensors="pt")' in text
