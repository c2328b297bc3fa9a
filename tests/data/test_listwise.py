"""The listwise loss, by hand and by finite differences."""

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.linear_model import LogisticRegression

from hf_mingpt.data.listwise import ListwiseLoss, fit_listwise


class TestListwiseLoss:
    """Three documents: one answer of two candidates, two answers of three, and none of one."""

    columns = np.array([[0, 1], [2, 2], [0, 3], [1, 3], [4, 2], [1, 0]])
    offsets = np.array([0, 2, 5, 6])
    is_answer = np.array([False, True, True, False, True, False])

    def loss(self, penalty=0.0):
        return ListwiseLoss(self.columns, self.offsets, self.is_answer, num_features=5, penalty=penalty)

    def test_by_hand(self):
        """Every score is 0: one of three, two of four, and one of two are right."""
        value, gradient = self.loss()(np.zeros(6))
        assert value == pytest.approx(np.log(3) + np.log(2) + np.log(2))
        # by candidate, the probability less that among the right ones
        change = np.array([1 / 3, 1 / 3 - 1, 1 / 4 - 1 / 2, 1 / 4, 1 / 4 - 1 / 2, 1 / 2])
        expected = [change[0] + change[2] + change[5], change[0] + change[3] + change[5]]
        expected += [2 * change[1] + change[4], change[2] + change[3], change[4]]
        np.testing.assert_allclose(gradient, [*expected, 1 / 3 + 1 / 4 + 1 / 2 - 1], atol=1e-12)

    def test_the_scores_of_a_document_with_a_null_score(self):
        """Scores 1 + 2, and 2 * 0.5 for the answer; null 0.25."""
        loss = ListwiseLoss(self.columns[:2], np.array([0, 2]), np.array([False, True]), num_features=3, penalty=3.0)
        value, _ = loss(np.array([1.0, 2.0, 0.5, 0.25]))
        penalty = 1.5 * (1 + 4 + 0.25 + 0.0625)
        assert value == pytest.approx(np.log(np.exp(3) + np.exp(1) + np.exp(0.25)) - 1 + penalty)

    @pytest.mark.parametrize("penalty", [0.0, 0.7])
    def test_the_gradient_is_that_of_finite_differences(self, penalty):
        loss = self.loss(penalty)
        for seed in range(5):
            point = np.random.default_rng(seed).normal(size=6) * 2
            assert check_grad(lambda x: loss(x)[0], lambda x: loss(x)[1], point) < 1e-5

    def test_large_scores_are_finite(self):
        value, gradient = self.loss()(np.array([800.0, -800, 900, 0, -900, 5]))
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_documents_with_one_candidate_are_a_logistic_regression():
    """Its probability against the null candidate is the logistic function of the difference of their scores."""
    rng = np.random.default_rng(0)
    columns, is_answer = rng.integers(0, 6, (80, 3)), rng.random(80) < 0.4
    weights, null = fit_listwise(columns, np.arange(81), is_answer, num_features=6, penalty=0.5)
    design = np.zeros((80, 7))
    np.add.at(design, (np.repeat(np.arange(80), 3), columns.ravel()), 1)
    design[:, 6] = -1
    expected = LogisticRegression(C=2.0, fit_intercept=False, tol=1e-8, max_iter=1000).fit(design, is_answer)
    np.testing.assert_allclose([*weights, null], expected.coef_[0], atol=2e-3)
