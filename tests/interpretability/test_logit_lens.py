import pytest
import torch

from hf_mingpt.data.birthplaces import question_about
from hf_mingpt.data.questions import Question
from hf_mingpt.evaluation.answering import answer_questions
from hf_mingpt.interpretability.logit_lens import Explanation, explain
from hf_mingpt.tokenization_mingpt import MASK

from ..conftest import small_model
from ..data.other_tokenizers import byte_bpe

NAME = "Ada Byron"


@pytest.fixture
def model(variant, tokenizer):
    return small_model(variant, vocab_size=len(tokenizer)).eval()


def test_the_last_layer_has_the_probabilities_of_the_model(model, tokenizer):
    implementation = model.config._attn_implementation
    explanation = explain(model, tokenizer, NAME)
    assert "".join(explanation.tokens).startswith(question_about(NAME) + MASK)
    start = explanation.answer_start
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(list(explanation.tokens))])
    with torch.no_grad():
        probabilities = model(ids).logits[0].softmax(dim=-1)
    expected = [probabilities[place - 1, ids[0, place]] for place in range(start, ids.shape[1])]
    torch.testing.assert_close(explanation.probabilities[-1], torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert explanation.probabilities.shape[0] == len(explanation.top_tokens) == 3  # embeddings and two layers
    assert "".join(explanation.top_tokens[-1]).startswith(explanation.answer)
    assert model.config._attn_implementation == implementation


def test_an_earlier_layer_is_read_through_the_final_norm_and_the_head(model, tokenizer):
    explanation = explain(model, tokenizer, NAME)
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(list(explanation.tokens))])
    states = []
    handle = model.model.layers[0].register_forward_hook(lambda module, args, output: states.append(output))
    with torch.no_grad():
        model(ids)
        handle.remove()
        read = model.lm_head(model.model.norm(states[0][0])).softmax(dim=-1)
    expected = [read[place - 1, ids[0, place]] for place in range(explanation.answer_start, ids.shape[1])]
    torch.testing.assert_close(explanation.probabilities[1], torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_attention_weights_are_causal_distributions(model, tokenizer):
    explanation = explain(model, tokenizer, NAME)
    length = len(explanation.tokens)
    assert explanation.attentions.shape == (2, 4, length, length)
    torch.testing.assert_close(explanation.attentions.sum(dim=-1), torch.ones(2, 4, length))
    assert not explanation.attentions.triu(1).any()
    assert explanation.answer_attentions.shape == (2, 4, length - explanation.answer_start, length)
    first = explanation.attentions[0, 0, explanation.answer_start - 1]
    assert torch.equal(explanation.answer_attentions[0, 0, 0], first)


def test_an_answer_may_fill_the_context(model, tokenizer):
    name = "A" * 27  # leaves one character
    explanation = explain(model, tokenizer, name)
    assert len(explanation.tokens) <= model.config.max_position_embeddings
    (answer,) = answer_questions(model, tokenizer, [Question(question_about(name), None)])
    assert explanation.answer == answer


def test_a_bad_name_is_an_error(model, tokenizer):
    with pytest.raises(ValueError, match="Bjørk"):
        explain(model, tokenizer, "Bjørk")
    with pytest.raises(ValueError, match="leaves no room"):
        explain(model, tokenizer, "Ada " * 12)


def test_every_layer_is_read_at_the_position_before_the_character(tokenizer):
    """Compared with hooks on the layers: the embeddings and each layer, through the norm and the head."""
    model = small_model("learned", vocab_size=len(tokenizer)).eval()
    explanation = explain(model, tokenizer, NAME)
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(list(explanation.tokens))])
    states = []
    handles = [layer.register_forward_pre_hook(lambda _, args: states.append(args[0])) for layer in model.model.layers]
    handles.append(model.model.layers[-1].register_forward_hook(lambda _, args, output: states.append(output)))
    with torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()
    start, stop = explanation.answer_start, ids.shape[1]
    assert start == len(question_about(NAME)) + 1
    for layer, state in enumerate(states):
        with torch.no_grad():
            read = model.lm_head(model.model.norm(state[0])).softmax(dim=-1)
        expected = torch.stack([read[place - 1, ids[0, place]] for place in range(start, stop)])
        torch.testing.assert_close(explanation.probabilities[layer], expected, rtol=1e-4, atol=1e-6)
        most_probable = [read[place - 1].argmax().item() for place in range(start, stop)]
        assert explanation.top_tokens[layer] == tokenizer.convert_ids_to_tokens(most_probable)


def test_attention_maps_of_all_layers(tokenizer):
    model = small_model("learned", vocab_size=len(tokenizer)).eval()
    explanation = explain(model, tokenizer, NAME)
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(list(explanation.tokens))])
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(ids, output_attentions=True).attentions
    torch.testing.assert_close(explanation.attentions, torch.cat(attentions))
    assert explanation.attentions.dtype == torch.float32


def test_the_answer_has_no_closing_mask():
    attentions = torch.arange(2 * 3 * 6 * 6).reshape(2, 3, 6, 6)
    explanation = Explanation(f"Q{MASK}ab{MASK}", 2, attentions[:, :, :5, :5], torch.zeros(3, 3), ["", "", ""])
    assert explanation.answer == "ab"
    # ⁇ predicts "a", "a" predicts "b", "b" predicts the closing ⁇
    assert torch.equal(explanation.answer_attentions, attentions[:, :, 1:4, :5])
    assert explanation._replace(tokens=f"Q{MASK}ab").answer == "ab"


def test_tokens_of_another_tokenizer():
    tokenizer = byte_bpe()
    model = small_model("rope", vocab_size=len(tokenizer))
    explanation = explain(model, tokenizer, "Ada in London")
    assert explanation.question == "Where was Ada in London born?"
    tokens = explanation.tokens[: explanation.answer_start]
    assert tokens[-6:] == [" Ada", " in", " London", " born", "?", MASK]
    length = len(explanation.tokens)
    assert explanation.attentions.shape == (2, 4, length, length)
    assert explanation.probabilities.shape == (3, length - len(tokens))
