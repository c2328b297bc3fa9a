"""The data part of a pretraining recipe: where the text comes from, and what the model learns from it."""

from dataclasses import dataclass

from ..system.fields import check_choice, check_finite, check_least, flag, required

OBJECTIVES = ("span_corruption", "causal")


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Text and questions, the objective, and which spans are masked."""

    train_file: str = required("Text file (one document a line), table with a column of documents, or Hub dataset.")
    dataset_config_name: str | None = flag(None, "Configuration of a Hub dataset.")
    dataset_split: str = flag("train", "Split of a Hub dataset.")
    text_column: str = flag("text", "Column that holds the documents.")
    streaming: bool = flag(False, "Read documents on the fly, in file order. Needs max_steps and tokenizer_name.")
    tokenizer_name: str | None = flag(None, "Folder or Hub name of a character tokenizer. None: built from the text.")
    vocabulary_file: str | None = flag(None, "Text whose characters join the vocabulary, such as later questions.")
    objective: str = flag("span_corruption", f"One of {OBJECTIVES}.")
    num_spans: int = flag(1, "Spans that span corruption masks in a document.")
    document_windows: bool = flag(False, "Apply span corruption to a random window of a long document, not its start.")
    ssm_probability: float = flag(
        0.0, "Probability of salient span masking (one name or number) for a document.", formerly="salient_share"
    )
    ssm_numbers: bool = flag(True, "Salient spans include numbers, not only names.", formerly="salient_numbers")
    context_before: int | None = flag(None, "Salient span masking: characters kept before the mask. None: any number.")
    context_after: int | None = flag(None, "Salient span masking: characters kept after the mask. None: any number.")
    long_context_probability: float = flag(
        0.0, "Probability that 24 and 4 characters are kept instead.", formerly="long_context_share"
    )
    questions_file: str | None = flag(None, "TSV of training questions with answers, mixed into every step.")
    questions_ratio: float = flag(
        0.25, "Ratio of the questions among the examples of a step.", formerly="questions_share"
    )
    masking_policy_probability: float = flag(
        0.0, "Probability of masking a span that the masking policy chooses.", formerly="answers_share"
    )
    learned_masking_policy: bool = flag(
        False,
        "The policy masks names in answer-like contexts, learned from questions_file. False: the answers only.",
        formerly="seek_contexts",
    )
    paraphrases_per_answer: int = flag(
        0, "Documents added for each pair of questions_file, each in other words.", formerly="phrasings_per_answer"
    )
    block_size: int | None = flag(None, "Longest training example in characters. None: the context of the model.")

    def __post_init__(self):
        check_finite(self)
        check_choice("objective", self.objective, OBJECTIVES)
        for name in (
            "ssm_probability",
            "long_context_probability",
            "questions_ratio",
            "masking_policy_probability",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be from 0 to 1.")
        check_least(self, 0, "context_before", "context_after", "paraphrases_per_answer")
        check_least(self, 1, "num_spans", "block_size")
        contexts = (self.context_before, self.context_after)
        if self.long_context_probability and (not self.ssm_probability or None in contexts):
            raise ValueError(
                f"long_context_probability is {self.long_context_probability}: it needs salient span masking with "
                "short contexts: give ssm_probability, context_before and context_after too."
            )
        if self.masking_policy_probability and not (self.ssm_probability and self.questions_file):
            also = " and --learned_masking_policy false" if self.learned_masking_policy else ""
            raise ValueError(
                f"masking_policy_probability is {self.masking_policy_probability}: it needs salient span masking and "
                "the answers of a questions_file: give ssm_probability and questions_file, or "
                f"--masking_policy_probability 0{also}."
            )
        for name, unset in (("ssm_probability", 0), ("num_spans", 1), ("document_windows", False)):
            if (value := getattr(self, name)) != unset and self.objective != "span_corruption":
                raise ValueError(f"{name} {value} goes with the objective 'span_corruption' only.")
        if self.learned_masking_policy and (self.streaming or not self.masking_policy_probability):
            raise ValueError(
                "learned_masking_policy is learned from the whole text and needs a probability: give "
                "masking_policy_probability, and not streaming, or --learned_masking_policy false."
            )
        if self.questions_file and not 0 < self.questions_ratio < 1:
            raise ValueError(
                f"questions_ratio is {self.questions_ratio}: with a questions_file it must be over 0 and under 1."
            )
        if self.paraphrases_per_answer and (self.streaming or not self.questions_file):
            raise ValueError(
                f"paraphrases_per_answer is {self.paraphrases_per_answer}: they restate the answers of a "
                "questions_file, in a text that is no stream: give questions_file, and not streaming."
            )
