import numpy as np
import pytest

from hf_mingpt.data.birthplaces import BIRTHPLACE, invent_names, question_about
from hf_mingpt.data.questions import Question
from hf_mingpt.data.subjects import Template
from hf_mingpt.evaluation.answering import answer_questions
from hf_mingpt.evaluation.calibrating import calibrate
from hf_mingpt.evaluation.calibration import fit_calibration
from hf_mingpt.evaluation.confidence import Comparison, compute_confidence

from ..conftest import small_model


class TestCalibrate:
    train = tuple(
        Question(question_about(name), place)
        for name, place in (("Bo Lund", "London"), ("Wes Dan", " Bonn"), ("Åsa Lee", "London"))
    )
    asked = tuple(question_about(name) for name in ("Ada Byron", "Zoë Quist", "Ada Lund", "Bo Byron"))

    @pytest.fixture
    def runs(self, tokenizer):
        return [(small_model(variant, vocab_size=len(tokenizer)).eval(), tokenizer) for variant in ("rope", "learned")]

    @pytest.fixture
    def predictions(self, runs):
        return answer_questions(*runs[0], [Question(question, None) for question in self.asked])

    @pytest.fixture
    def questions(self, predictions):
        """Every other prediction is correct."""
        references = (prediction if i % 2 else f"not {prediction}" for i, prediction in enumerate(predictions))
        return [Question(*pair) for pair in zip(self.asked, references, strict=True)]

    def test_fits_on_held_out_questions_and_limits_by_invented_names(self, runs, predictions, questions):
        held_out_run, run = runs
        numbers = {"num_unknown_names": 2, "num_invented_names": 3, "seed": 1}
        calibration, probability, correct = calibrate(held_out_run, questions, self.train, run=run, **numbers)
        names = ["Bo Lund", "Wes Dan", "Åsa Lee", "Ada Byron", "Zoë Quist", "Ada Lund", "Bo Byron"]
        invented = invent_names(names, 5, seed=1)
        comparison = Comparison(candidates=["Bonn", "London"], unknown_names=invented[:2])
        features = compute_confidence(*held_out_run, self.asked, predictions, comparison).features
        about_invented = [question_about(name) for name in invented[2:]]
        predicted = answer_questions(*run, [Question(question, None) for question in about_invented])
        invented_features = compute_confidence(*run, about_invented, predicted, comparison).features
        expected = fit_calibration(features, correct, comparison, invented_features=invented_features)
        assert correct.tolist() == [False, True, False, True]
        assert calibration == expected
        np.testing.assert_array_equal(probability, expected.probability(features))

        limits = {"target_accuracy": 0.0, "max_false_answer_rate": 1.0}
        alone, _, _ = calibrate(held_out_run, questions, self.train, **{**numbers, "num_invented_names": 0}, **limits)
        assert alone == fit_calibration(features, correct, comparison, target_accuracy=0.0)

    def test_no_invented_name_is_in_the_text(self, runs, questions):
        numbers = {"num_unknown_names": 2, "num_invented_names": 0}
        first, _, _ = calibrate(runs[0], questions, self.train, **numbers)
        other, _, _ = calibrate(runs[0], questions, self.train, documents=[first.unknown_names[0]], **numbers)
        assert first.unknown_names[0] not in other.unknown_names

    def test_bad_questions_are_an_error(self, runs, questions):
        with pytest.raises(ValueError, match=r"'Where was Ada Byron born\?' is a training question"):
            calibrate(runs[0], questions, [*self.train, questions[0]])
        with pytest.raises(ValueError, match="correct answers is 0 of 2"):
            calibrate(runs[0], questions[::2], self.train, num_unknown_names=1, num_invented_names=0)
        with pytest.raises(ValueError, match="have no words in common around"):
            calibrate(runs[0], [Question("Who?", "Ada"), Question("A b", "Bo")], [Question("Why x", "so")])
        with pytest.raises(ValueError, match=r"names gives \d+ new ones, not 432"):
            calibrate(runs[0], questions, self.train)

    def test_every_kind_of_question_gets_invented_names_of_its_own(self, runs, tokenizer):
        """Two kinds, each with a half of the invented names, and with unknown names from its own subjects."""
        train = [*self.train, *(Question(f"Ada is in {name}?", "A") for name in ("Born", "Bonn", "London", "Zone"))]
        asked = [*self.asked, "Ada is in Lone?"]
        predictions = answer_questions(*runs[0], [Question(question, None) for question in asked])
        references = (p if i % 2 else f"not {p}" for i, p in enumerate(predictions))
        questions = [Question(*pair) for pair in zip(asked, references, strict=True)]
        numbers = {"num_unknown_names": 2, "num_invented_names": 2}
        calibration, _, _ = calibrate(runs[0], questions, train, **numbers)
        assert calibration.templates == [BIRTHPLACE, Template("Ada is in ", "?")]
        people, towns = calibration.unknown_names[:2], calibration.unknown_names[2:]
        assert all(" " in name for name in people)
        assert len(towns) == 2
        assert not any(" " in name for name in towns)
