"""Attention exploration: what attention can compute and what it cannot, shown with the model's own attention function.

The claims are those of part 1 of CS224n, assignment 5. docs/attention.md explains them, and
`scripts/explore_attention.py` makes the figures and numbers.

Shapes: N samples, n keys, nh heads, d = WIDTH dimensions of a head, G gaps or betas. Everything is float64, except for
the two models that are trained.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import nn

from ..configuration_mingpt import MinGPTConfig
from ..modeling_mingpt import MinGPTForCausalLM, eager_attention_forward

WIDTH = 16


def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's attention without a mask and without scaling, with one query per head.

    Args:
        queries: (N, nh, d).
        keys, values: (N, n, d), shared by all heads; N may be 1.

    Returns:
        The output of each head, (N, nh, d), and its weights, (N, nh, n).
    """
    samples, heads, _ = queries.shape
    keys, values = (x[:, None].expand(samples, heads, -1, -1) for x in (keys, values))
    output, weights = eager_attention_forward(nn.Module(), queries[:, :, None], keys, values, None, scaling=1.0)
    return output[:, 0], weights[:, :, 0]


def orthonormal(number: int, generator: torch.Generator) -> torch.Tensor:
    """Draws random orthonormal vectors, (number, d)."""
    square = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(square).Q[:number]


class Copying(NamedTuple):
    """How closely attention copies one value, for each of G gaps."""

    error: torch.Tensor  # (G,) distance of the output from the value
    bound: torch.Tensor  # (G,) upper bound of that distance
    weights: torch.Tensor  # (G, n)


def copy_one(gaps: torch.Tensor, *, num_keys: int = 8, seed: int = 0) -> Copying:
    """Copies the value of one key, with a query whose product with that key exceeds the others by each of `gaps` (G,).

    The other keys get the weight (n - 1) / (n - 1 + e^gap), so the error is at most that weight times the largest
    distance between values.
    """
    generator = torch.Generator().manual_seed(seed)
    keys = orthonormal(num_keys, generator)
    values = nn.functional.normalize(torch.randn(num_keys, WIDTH, generator=generator, dtype=torch.float64), dim=-1)
    output, weights = attend(gaps[:, None, None] * keys[0], keys[None], values[None])
    weight_of_others = (num_keys - 1) / (num_keys - 1 + gaps.exp())
    return Copying(
        (output[:, 0] - values[0]).norm(dim=-1),
        weight_of_others * (values - values[0]).norm(dim=-1).max(),
        weights[:, 0],
    )


class Recovery(NamedTuple):
    """A vector of span(A), and what two linear maps recover of it from its sum with a vector of span(B)."""

    vector: torch.Tensor  # (d,)
    by_projection: torch.Tensor  # (d,)
    by_transpose: torch.Tensor  # (m,) A^T times the sum
    coordinates: torch.Tensor  # (m,) of the vector in the columns of A


def recover(*, orthonormal_columns: bool, seed: int = 0) -> Recovery:
    """Recovers v_a from v_a + v_b, with v_a in span(A), v_b in span(B), and A orthogonal to B.

    The projection A (A^T A)^-1 A^T gives v_a. A^T alone gives the coordinates of v_a, and only if the columns of A are
    orthonormal.
    """
    generator = torch.Generator().manual_seed(seed)
    basis = orthonormal(9, generator).T
    a, b = basis[:, :4], basis[:, 4:]
    if not orthonormal_columns:
        a = a @ torch.randn(4, 4, generator=generator, dtype=torch.float64)
    coordinates = torch.randn(4, generator=generator, dtype=torch.float64)
    vector = a @ coordinates
    total = vector + b @ torch.randn(5, generator=generator, dtype=torch.float64)
    return Recovery(vector, a @ torch.linalg.solve(a.T @ a, a.T @ total), a.T @ total, coordinates)


def average_two(betas: torch.Tensor, *, num_keys: int = 8, seed: int = 0) -> torch.Tensor:
    """The distance of the output for the query beta (k_a + k_b) from the mean of v_a and v_b; (G,) for betas (G,)."""
    generator = torch.Generator().manual_seed(seed)
    keys, values = orthonormal(num_keys, generator), orthonormal(num_keys, generator)
    output, _ = attend(betas[:, None, None] * (keys[0] + keys[1]), keys[None], values[None])
    return (output[:, 0] - values[:2].mean(dim=0)).norm(dim=-1)


class NoisyAverage(NamedTuple):
    """The average of two values by one head and by two heads, with keys that are drawn anew for each of N samples.

    length: (N,) the length of the first key along its mean, which has length 1.
    one_head, two_heads: (N,) the weight of the first value in the output.
    variance_of_one, variance_of_two: the variance of the output over samples, summed over its dimensions.
    """

    length: torch.Tensor
    one_head: torch.Tensor
    two_heads: torch.Tensor
    variance_of_one: float
    variance_of_two: float


def average_noisy_keys(
    beta: float, alpha: float, *, stretched: bool, samples: int = 4000, num_keys: int = 8, seed: int = 0
) -> NoisyAverage:
    """Averages v_a and v_b when k_i ~ N(mu_i, alpha I), with orthonormal means mu_i.

    One head has the query beta (mu_a + mu_b). Two heads have the queries beta mu_a and beta mu_b, and their outputs
    are averaged.

    Args:
        stretched: whether k_a has the covariance alpha I + 1/2 mu_a mu_a^T, so that its length varies.
    """
    generator = torch.Generator().manual_seed(seed)
    means, values = orthonormal(num_keys, generator), orthonormal(num_keys, generator)
    noise = torch.randn(samples, num_keys, WIDTH, generator=generator, dtype=torch.float64)
    keys = means + math.sqrt(alpha) * noise
    if stretched:
        length = torch.randn(samples, 1, generator=generator, dtype=torch.float64)
        keys[:, 0] += math.sqrt(0.5) * length * means[0]
    queries = beta * torch.stack((means[0] + means[1], means[0], means[1]))
    output, _ = attend(queries.expand(samples, -1, -1), keys, values[None])  # (N, 3, d)
    one, two = output[:, 0], output[:, 1:].mean(dim=1)
    return NoisyAverage(
        keys[:, 0] @ means[0],
        one @ values[0],
        two @ values[0],
        one.var(dim=0).sum().item(),
        two.var(dim=0).sum().item(),
    )


def weight_of_stretched_key(length: torch.Tensor, beta: float) -> torch.Tensor:
    """The weight that one head gives to v_a without other noise, in closed form: 1 / (1 + exp(beta (1 - length)))."""
    return torch.sigmoid(beta * (length - 1))


NUM_SYMBOLS = 32  # letters, and as many answers
SHOWN = 8  # distinct letters of a sequence, at most
PAIRS = 16  # letter-answer pairs of a sequence


def recall_sequences(number: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws sequences `letter answer letter answer ...` of associative recall; each has its own answer for a letter.

    Returns:
        Ids and labels, (number, 2 * PAIRS). An answer has a label if its letter has occurred before: it is the token
        after the earlier occurrence.
    """
    answer_of = torch.randint(NUM_SYMBOLS, (number, NUM_SYMBOLS), generator=generator)
    shown = torch.rand(number, NUM_SYMBOLS, generator=generator).argsort(dim=1)[:, :SHOWN]
    letters = shown.gather(1, torch.randint(SHOWN, (number, PAIRS), generator=generator))
    answers = answer_of.gather(1, letters) + NUM_SYMBOLS
    repeated = (letters[:, :, None] == letters[:, None, :]).tril(-1).any(dim=-1)
    ids = torch.stack((letters, answers), dim=-1).flatten(1)
    labels = torch.full_like(ids, -100)
    labels[:, 1::2] = answers.where(repeated, -100)
    return ids, labels


def chance_accuracy(number: int = 1000, seed: int = 0) -> float:
    """The accuracy of guessing among the answers of the letters that a sequence has shown so far.

    Two letters may have the same answer, so a guess is correct a little more often than one time in the letters shown.
    """
    ids, labels = recall_sequences(number, torch.Generator().manual_seed(seed))
    letters, answers, has_label = ids[:, ::2], ids[:, 1::2], labels[:, 1::2] != -100
    new = ~(letters[:, :, None] == letters[:, None, :]).tril(-1).any(dim=-1)
    correct = ((answers[:, :, None] == answers[:, None, :]) & new[:, None, :]).tril().sum(dim=-1)
    return (correct / new.cumsum(dim=1))[has_label].mean().item()


def train_recall(
    attention_type: Literal["dot_product", "synthesizer"], *, steps: int, every: int = 10, seed: int = 0
) -> list[float]:
    """Trains one layer on associative recall: to predict the token after the earlier occurrence of the current one.

    Each position also gets the embedding of the token before it, as a layer below could provide it. Dot products find
    the position whose previous token is the current one. The synthesizer scores positions without reading their tokens.

    Returns:
        The accuracy on fresh sequences, before training and then every `every` steps.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    config = MinGPTConfig(
        vocab_size=2 * NUM_SYMBOLS,
        max_position_embeddings=2 * PAIRS,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        attention_type=attention_type,
        embedding_dropout=0.0,
        attention_dropout=0.0,
        hidden_dropout=0.0,
    )
    model = MinGPTForCausalLM._from_config(config, attn_implementation="eager").train()
    previous_embedding = nn.Embedding(2 * NUM_SYMBOLS + 1, config.hidden_size)
    nn.init.normal_(previous_embedding.weight, std=config.initializer_range)
    optimizer = torch.optim.AdamW([*model.parameters(), *previous_embedding.parameters()], lr=3e-3, weight_decay=0.0)
    accuracies = []
    for step in range(steps + 1):
        ids, labels = recall_sequences(64, generator)
        previous = nn.functional.pad(ids[:, :-1], (1, 0), value=2 * NUM_SYMBOLS)
        output = model(inputs_embeds=model.get_input_embeddings()(ids) + previous_embedding(previous), labels=labels)
        if step % every == 0:
            targets = labels[:, 1:]
            correct = output.logits[:, :-1].argmax(dim=-1) == targets
            accuracies.append(correct[targets != -100].double().mean().item())
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return accuracies
