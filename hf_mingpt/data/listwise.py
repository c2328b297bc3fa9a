"""The listwise softmax: one distribution over all candidates of a document and a null candidate, fitted by L-BFGS."""

import numpy as np

L2_PENALTY = 2.0  # chosen on folds of the training questions


def fit_listwise(
    columns: np.ndarray, offsets: np.ndarray, is_answer: np.ndarray, *, num_features: int, penalty: float = L2_PENALTY
) -> tuple[np.ndarray, float]:
    """Fits the weights of a listwise softmax by L-BFGS.

    Args:
        columns: (M, C) the features of M candidates, as positions from 0 to `num_features` - 1.
        offsets: (N + 1,): the candidates of document i are those from `offsets[i]` to `offsets[i + 1]` - 1, at least
            one.
        is_answer: (M,) booleans. If a document has several answers, any of them is right; if it has none, the null
            candidate is.
        num_features: F.
        penalty: of half the sum of the squared weights.

    Returns:
        The weights, (F,), and the score of the null candidate.
    """
    from scipy.optimize import minimize

    objective = ListwiseLoss(columns, offsets, is_answer, num_features=num_features, penalty=penalty)
    options = {"maxiter": 300, "ftol": 1e-8, "gtol": 1e-3}
    found = minimize(objective, np.zeros(num_features + 1), jac=True, method="L-BFGS-B", options=options)
    return found.x[:-1], float(found.x[-1])


class ListwiseLoss:
    """The loss that `fit_listwise` minimizes, and its gradient.

    For the scores s of the candidates of a document and the score of its null candidate, the loss is
    logsumexp(all of them) - logsumexp(those that are right). The penalty is added to the sum over the documents.
    """

    def __init__(
        self, columns: np.ndarray, offsets: np.ndarray, is_answer: np.ndarray, *, num_features: int, penalty: float
    ):
        from scipy.sparse import csr_matrix

        number, width = columns.shape
        rows = np.arange(0, number * width + 1, width)
        self.design = csr_matrix((np.ones(columns.size), columns.ravel(), rows), shape=(number, num_features))
        self.transposed = self.design.T.tocsr()
        self.first, self.document = offsets[:-1], np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        self.is_answer, self.has_answer = is_answer, np.logical_or.reduceat(is_answer, offsets[:-1])
        self.penalty = penalty

    def __call__(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss and its gradient at (F + 1,) parameters: the weights, then the score of the null candidate."""
        null_score = parameters[-1]
        scores = self.design @ parameters[:-1]
        right = np.where(self.is_answer, scores, -np.inf)
        totals = np.logaddexp(null_score, log_sum_exp(scores, self.first))
        totals_right = np.where(self.has_answer, log_sum_exp(right, self.first), null_score)
        change = np.exp(scores - totals[self.document])
        change -= np.where(self.is_answer, np.exp(right - totals_right[self.document]), 0.0)
        change_null = np.exp(null_score - totals).sum() - (~self.has_answer).sum()
        gradient = np.append(self.transposed @ change, change_null) + self.penalty * parameters
        loss = (totals - totals_right).sum() + self.penalty / 2 * np.square(parameters).sum()
        return float(loss), gradient


def log_sum_exp(scores: np.ndarray, first: np.ndarray) -> np.ndarray:
    """log(sum(exp(scores))) of each run of scores that starts at `first`, up to the next one; -inf where all are."""
    highest = np.maximum.reduceat(scores, first)
    shift = np.where(np.isfinite(highest), highest, 0.0)
    lengths = np.diff(np.append(first, len(scores)))
    with np.errstate(divide="ignore"):
        return shift + np.log(np.add.reduceat(np.exp(scores - np.repeat(shift, lengths)), first))
