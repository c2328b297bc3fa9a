"""The evaluation part of a recipe: what is held out, when it is evaluated, and which weights are best.

The names and their meaning are those of transformers' TrainingArguments and EarlyStoppingCallback.
"""

from dataclasses import dataclass

from ..system.fields import check_positive, flag


@dataclass(frozen=True, kw_only=True)
class EvaluationRecipe:
    """Held-out data, evaluations while the model trains, and the best weights."""

    validation_questions_file: str | None = flag(
        None,
        "TSV or Hub dataset of questions with answers: measures accuracy and loss while training.",
        topic="Evaluation",
    )
    validation_ratio: float | None = flag(
        None, "Ratio of the questions to hold out for evaluation or, without questions_file, of the documents."
    )
    eval_steps: int | None = flag(None, "Steps between two evaluations. None: evaluate only at the end.")
    load_best_model_at_end: bool = flag(False, "End with the weights of the best evaluation, not with the last ones.")
    metric_for_best_model: str | None = flag(None, "Metric that says which evaluation is best. None: eval_loss.")
    greater_is_better: bool | None = flag(None, "Whether the largest value is best. None: only for eval_accuracy.")
    early_stopping_patience: int | None = flag(
        None, "Stop after this many evaluations in a row that are not better than the best one."
    )

    @property
    def _has_questions(self) -> bool:
        return getattr(self, "questions_file", None) is not None

    @property
    def has_validation_text(self) -> bool:
        """Whether documents are held out."""
        has_file = getattr(self, "validation_file", None) is not None  # finetuning has no text
        return has_file or (self.validation_ratio is not None and not self._has_questions)

    @property
    def has_validation_questions(self) -> bool:
        """Whether questions are held out."""
        return bool(self.validation_questions_file or (self.validation_ratio and self._has_questions))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of an evaluation; empty if nothing is held out."""
        names = ["eval_loss", "eval_bits_per_character"] * (self.has_validation_text or self.has_validation_questions)
        names += ["eval_questions_loss"] * (self.has_validation_text and self.has_validation_questions)
        return (*names, *["eval_accuracy"] * self.has_validation_questions)

    @property
    def best_metric(self) -> str:
        """The metric that says which evaluation is best."""
        name = self.metric_for_best_model or "eval_loss"
        return name if name.startswith("eval_") else f"eval_{name}"

    @property
    def greater_is_best(self) -> bool:
        """Whether the best value of that metric is the largest."""
        return self.best_metric == "eval_accuracy" if self.greater_is_better is None else self.greater_is_better

    def check_evaluation(self) -> None:
        """Raises a ValueError if the fields contradict each other or the data of the recipe."""
        check_positive(self, "eval_steps", "early_stopping_patience")
        if self.validation_ratio is not None and not 0 < self.validation_ratio < 1:
            raise ValueError(f"validation_ratio is {self.validation_ratio}: it must be over 0 and under 1.")
        file = "validation_questions_file" if self._has_questions else "validation_file"
        if self.validation_ratio and getattr(self, file, None):
            raise ValueError(f"validation_ratio and {file} both say what is held out: give one of them.")
        chooses = ("load_best_model_at_end", "early_stopping_patience")
        needs = [name for name in ("eval_steps", *chooses, "metric_for_best_model") if getattr(self, name)]
        if needs and not self.metrics:
            raise ValueError(
                f"{needs[0]} needs held-out data: give a validation file (see --help) or --validation_ratio."
            )
        if (name := next((name for name in chooses if getattr(self, name)), None)) and not self.eval_steps:
            raise ValueError(
                f"{name} chooses among evaluations, but there is only the one at the end: give eval_steps."
            )
        if self.metrics and self.best_metric not in self.metrics:
            raise ValueError(
                f"metric_for_best_model {self.metric_for_best_model!r} is not a metric of this run: choose one of "
                f"{', '.join(self.metrics)}."
            )
