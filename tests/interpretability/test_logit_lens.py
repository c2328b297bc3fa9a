import pytest
import torch

from hf_mingpt.data.birthplaces import question_about
from hf_mingpt.data.questions import Question
from hf_mingpt.evaluation.answering import answer_questions
from hf_mingpt.interpretability.logit_lens import Explanation, draw_attention, draw_heads, draw_logit_lens, explain
from hf_mingpt.tokenization_mingpt import MASK

from ..conftest import small_model

NAME = "Ada Byron"


@pytest.fixture
def model(variant, tokenizer):
    return small_model(variant, vocab_size=len(tokenizer)).eval()


def test_the_last_layer_says_what_the_model_says(model, tokenizer):
    implementation = model.config._attn_implementation
    explanation = explain(model, tokenizer, NAME)
    assert explanation.text.startswith(question_about(NAME) + MASK)
    start = explanation.answer_start
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(list(explanation.text))])
    with torch.no_grad():
        probabilities = model(ids).logits[0].softmax(dim=-1)
    expected = [probabilities[place - 1, ids[0, place]] for place in range(start, ids.shape[1])]
    torch.testing.assert_close(explanation.probabilities[-1], torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert explanation.probabilities.shape[0] == len(explanation.favourites) == 3  # embeddings and two layers
    assert explanation.favourites[-1].startswith(explanation.answer)
    assert model.config._attn_implementation == implementation


def test_an_earlier_layer_is_read_through_the_last_norm_and_the_head(model, tokenizer):
    explanation = explain(model, tokenizer, NAME)
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(list(explanation.text))])
    states = []
    handle = model.model.layers[0].register_forward_hook(lambda module, args, output: states.append(output))
    with torch.no_grad():
        model(ids)
        handle.remove()
        read = model.lm_head(model.model.norm(states[0][0])).softmax(dim=-1)
    expected = [read[place - 1, ids[0, place]] for place in range(explanation.answer_start, ids.shape[1])]
    torch.testing.assert_close(explanation.probabilities[1], torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_weights_are_distributions_over_what_came_before(model, tokenizer):
    explanation = explain(model, tokenizer, NAME)
    length = len(explanation.text)
    assert explanation.attentions.shape == (2, 4, length, length)
    torch.testing.assert_close(explanation.attentions.sum(dim=-1), torch.ones(2, 4, length))
    assert not explanation.attentions.triu(1).any()
    assert explanation.looks.shape == (2, 4, length - explanation.answer_start, length)
    assert torch.equal(explanation.looks[0, 0, 0], explanation.attentions[0, 0, explanation.answer_start - 1])


def test_pictures_name_every_character(model, tokenizer):
    explanation = explain(model, tokenizer, NAME)
    layers, _ = draw_logit_lens(explanation).axes
    shown = "".join(label.get_text() for label in layers.get_xticklabels())
    assert shown == explanation.text[explanation.answer_start :].replace(" ", "␣").replace("\n", "⏎")
    first, *_ = draw_attention(explanation).axes
    assert len(first.get_xticklabels()) == len(explanation.text)
    assert len(draw_heads(explanation).axes) == 8


def test_an_answer_may_fill_the_block(model, tokenizer):
    name = "A" * 27  # leaves one character
    explanation = explain(model, tokenizer, name)
    assert len(explanation.text) <= model.config.max_position_embeddings
    (answer,) = answer_questions(model, tokenizer, [Question(question_about(name), None)])
    assert explanation.answer == answer


def test_bad_names_are_named(model, tokenizer):
    with pytest.raises(ValueError, match="Bjørk"):
        explain(model, tokenizer, "Bjørk")
    with pytest.raises(ValueError, match="leaves no room"):
        explain(model, tokenizer, "Ada " * 12)


def test_every_layer_is_read_where_the_character_before_stands(tokenizer):
    """By hooks on the layers: the embeddings, and each layer, through the norm and the head."""
    model = small_model("learned", vocab_size=len(tokenizer)).eval()
    explanation = explain(model, tokenizer, NAME)
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(list(explanation.text))])
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
        likeliest = [read[place - 1].argmax().item() for place in range(start, stop)]
        assert explanation.favourites[layer] == "".join(tokenizer.convert_ids_to_tokens(likeliest))


def test_attentions_are_those_of_every_layer(tokenizer):
    model = small_model("learned", vocab_size=len(tokenizer)).eval()
    explanation = explain(model, tokenizer, NAME)
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(list(explanation.text))])
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(ids, output_attentions=True).attentions
    torch.testing.assert_close(explanation.attentions, torch.cat(attentions))
    assert explanation.attentions.dtype == torch.float32


def test_an_answer_is_told_without_its_mask():
    looks = torch.arange(2 * 3 * 6 * 6).reshape(2, 3, 6, 6)
    explanation = Explanation(f"Q{MASK}ab{MASK}", 2, looks[:, :, :5, :5], torch.zeros(3, 3), ["", "", ""])
    assert explanation.answer == "ab"
    assert torch.equal(explanation.looks, looks[:, :, 1:4, :5])  # at Q⁇ "a" is written, at "a" "b", at "b" the last ⁇
    assert explanation._replace(text=f"Q{MASK}ab").answer == "ab"


def test_characters_that_cannot_be_seen_have_signs(tokenizer):
    explanation = explain(small_model("learned", vocab_size=len(tokenizer)).eval(), tokenizer, "Ada")
    shown = explanation._replace(text="a\n b", answer_start=1, probabilities=torch.zeros(2, 3), favourites=["\n b"] * 2)
    axis, _ = draw_logit_lens(shown).axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["⏎", "␣", "b"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["embeddings", "layer 1"]
