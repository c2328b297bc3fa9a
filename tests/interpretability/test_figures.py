import pytest
import torch
from matplotlib.colors import PowerNorm
from matplotlib.text import Text

from hf_mingpt.interpretability.figures import draw_attention, draw_heads, draw_logit_lens
from hf_mingpt.interpretability.logit_lens import Explanation
from hf_mingpt.tokenization_mingpt import MASK

TEXT = f"Who?{MASK}a b{MASK}"


@pytest.fixture
def explanation():
    attentions = torch.full((2, 4, len(TEXT), len(TEXT)), 0.1).tril()
    probabilities = torch.tensor([[0.1] * 4, [0.2] * 4, [0.9] * 4])
    return Explanation(TEXT, 5, attentions, probabilities, [MASK * 4, f"a{MASK}\n{MASK}", f"a b{MASK}"])


def labels_of(axis, direction: str) -> str:
    return "".join(label.get_text() for label in getattr(axis, f"get_{direction}ticklabels")())


def test_the_logit_lens_is_named_and_shows_the_top_character_of_each_layer(explanation):
    axis, colorbar = draw_logit_lens(explanation).axes
    assert "Logit lens" in axis.get_title()
    assert labels_of(axis, "x") == f"a␣b{MASK}"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["embeddings", "layer 1", "layer 2"]
    assert "".join(text.get_text() for text in axis.texts) == f"{MASK * 4}a{MASK}⏎{MASK}a␣b{MASK}"
    assert "probability" in colorbar.get_ylabel()


def test_attention_maps_name_every_character_once(explanation):
    first, last, colorbar = draw_attention(explanation).axes
    assert labels_of(last, "x") == TEXT.replace(" ", "␣")
    assert labels_of(first, "y") == labels_of(last, "y") == f"a␣b{MASK}"
    assert (first.get_title(), last.get_title()) == ("Layer 1, mean of the heads", "Layer 2, mean of the heads")
    assert colorbar.get_ylabel() == "attention weight"


def test_all_maps_share_one_color_scale(explanation):
    figures = [draw(explanation) for draw in (draw_logit_lens, draw_attention, draw_heads)]
    images = [image for figure in figures for axis in figure.axes for image in axis.images]
    assert len(images) == 1 + 2 + 8
    assert {(type(image.norm), image.norm.gamma, *image.get_clim(), image.get_cmap().name) for image in images} == {
        (PowerNorm, 0.5, 0, 1, "Blues")
    }


@pytest.mark.parametrize("draw", [draw_logit_lens, draw_attention])
def test_mask_is_framed_and_in_a_font_that_has_it(draw, explanation):
    from matplotlib.font_manager import findfont, get_font

    texts = [text for text in draw(explanation).findobj(Text) if text.get_text() == MASK and text.get_visible()]
    assert texts
    for text in texts:
        assert text.get_bbox_patch() is not None
        assert get_font(findfont(text.get_fontproperties())).get_char_index(ord(MASK))
