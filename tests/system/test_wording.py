import pytest

from hf_mingpt.system.wording import count, percent, quote


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((1, "example"), "1 example"),
        ((0, "example"), "0 examples"),
        ((2, "example"), "2 examples"),
        ((2000, "name"), "2,000 names"),
        ((1, "person", "people"), "1 person"),
        ((3, "person", "people"), "3 people"),
    ],
)
def test_a_number_agrees_with_its_noun(arguments, said):
    assert count(*arguments) == said


@pytest.mark.parametrize(
    ("probability", "decimals", "said"),
    [
        (0.874, 0, "87%"),
        (0.994, 0, "99%"),
        (0.9951, 0, "over 99%"),
        (1.0, 0, "over 99%"),
        (0.0151, 0, "2%"),
        (0.006, 0, "1%"),
        (0.004, 0, "under 1%"),
        (0.0, 0, "under 1%"),
        (0.9994, 1, "99.9%"),
        (0.9996, 1, "over 99.9%"),
        (0.0004, 1, "under 0.1%"),
        (0.9996, 2, "99.96%"),
    ],
)
def test_a_probability_is_never_shown_as_certain(probability, decimals, said):
    assert percent(probability, decimals) == said


def test_of_a_long_text_the_beginning_is_quoted():
    assert quote("Where?") == "'Where?'"
    assert quote("é" * 80) == repr("é" * 80)
    assert quote("é" * 81) == repr("é" * 77 + "...")
