"""The data part of a pretraining recipe: text, questions, and the objective."""

from dataclasses import dataclass

from ..system.fields import check_choice, check_finite, check_fraction, check_least, flag, required

OBJECTIVES = ("span_corruption", "causal")


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """The text, the questions mixed into it, the objective, and the masking policy."""

    train_file: str = required(
        "Text: a file with one document per line, a table with a column of documents, or a Hub dataset.", topic="Data"
    )
    dataset_config_name: str | None = flag(None, "Configuration of a Hub dataset.")
    dataset_split: str = flag("train", "Split of a Hub dataset.")
    text_column: str = flag("text", "Column of the documents.")
    streaming: bool = flag(False, "Read documents while training, in file order. Needs max_steps and tokenizer_name.")
    tokenizer_name: str | None = flag(
        None, "Folder or Hub name of a tokenizer of any class. None: a character tokenizer, built from the text."
    )
    vocabulary_file: str | None = flag(
        None, "File whose characters join the vocabulary, such as the questions for a later finetuning."
    )
    questions_file: str | None = flag(
        None, "TSV or Hub dataset of training questions with answers, mixed into every step."
    )
    questions_ratio: float = flag(0.25, "Ratio of questions among the examples of a step.", formerly="questions_share")
    paraphrases_per_answer: int = flag(
        0, "Documents to add for each answer of questions_file, in different words.", formerly="phrasings_per_answer"
    )
    block_size: int | None = flag(None, "Longest example, in tokens. None: the context length of the model.")

    objective: str = flag("span_corruption", "'span_corruption' or 'causal'.", topic="Objective")
    num_spans: int = flag(1, "Spans that span corruption masks in a document.")
    document_windows: bool = flag(
        False, "Corrupt a random window of a document that is longer than block_size, instead of its beginning."
    )
    ssm_probability: float = flag(
        0.0,
        "Probability of salient span masking (SSM: one name or number is masked) instead of span corruption.",
        formerly="salient_share",
    )
    ssm_numbers: bool = flag(
        True,
        "SSM masks numbers too, not only names. A learned masking policy also masks those that are like answers.",
        formerly="salient_numbers",
    )
    context_before: int | None = flag(None, "SSM: tokens to keep before the masked span. None: all.")
    context_after: int | None = flag(None, "SSM: tokens to keep after the masked span. None: all.")
    long_context_probability: float = flag(
        0.0,
        "SSM: probability of keeping 24 tokens before and 4 after instead.",
        formerly="long_context_share",
    )
    title_prefix_probability: float = flag(
        0.0,
        "SSM: probability that something precedes the title: what precedes a name in questions_file, or up to 16 "
        "tokens of the text. With several kinds of questions, a span that answers one kind always has the prefix of "
        "such a question.",
    )
    title_loss_probability: float = flag(
        0.0,
        "SSM: probability that the title and the context carry loss too. The model then learns the names that it "
        "reads, and calibration can tell names that it does not know.",
    )
    masking_policy_probability: float = flag(
        0.0,
        "SSM: probability that the masking policy chooses the span, not chance.",
        formerly="answers_share",
    )
    learned_masking_policy: bool = flag(
        False,
        "The masking policy chooses the most probable answer of each document, learned from questions_file for each "
        "kind of question. False: it chooses the answers of questions_file.",
        formerly="seek_contexts",
    )

    def __post_init__(self):
        check_finite(self)
        check_choice("objective", self.objective, OBJECTIVES)
        check_fraction(self, "ssm_probability", "long_context_probability", "title_loss_probability")
        check_fraction(self, "questions_ratio", "masking_policy_probability", "title_prefix_probability")
        check_least(self, 0, "context_before", "context_after", "paraphrases_per_answer")
        check_least(self, 1, "num_spans", "block_size")
        contexts = (self.context_before, self.context_after)
        if self.long_context_probability and (not self.ssm_probability or None in contexts):
            raise ValueError(
                f"long_context_probability is {self.long_context_probability}: it needs salient span masking with "
                "short contexts: give ssm_probability, context_before and context_after too."
            )
        if self.title_prefix_probability and (self.streaming or not self.ssm_probability):
            raise ValueError(
                f"title_prefix_probability is {self.title_prefix_probability}: it needs salient span masking, and "
                "cannot be combined with streaming: give ssm_probability, or --title_prefix_probability 0."
            )
        if self.title_loss_probability and not self.ssm_probability:
            raise ValueError(
                f"title_loss_probability is {self.title_loss_probability}: it needs salient span masking: give "
                "ssm_probability, or --title_loss_probability 0."
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
                raise ValueError(f"{name} {value} needs the objective 'span_corruption'.")
        if self.learned_masking_policy and (self.streaming or not self.masking_policy_probability):
            raise ValueError(
                "learned_masking_policy needs masking_policy_probability, and cannot be combined with streaming: give "
                "the probability, or --learned_masking_policy false."
            )
        if self.questions_file and not 0 < self.questions_ratio < 1:
            raise ValueError(
                f"questions_ratio is {self.questions_ratio}: with a questions_file it must be over 0 and under 1."
            )
        if self.paraphrases_per_answer and (self.streaming or not self.questions_file):
            raise ValueError(
                f"paraphrases_per_answer is {self.paraphrases_per_answer}: it needs the answers of a questions_file, "
                "and cannot be combined with streaming."
            )
