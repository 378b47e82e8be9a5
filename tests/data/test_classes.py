"""Subsets, merges and the order of classes."""

import pytest

from resnetlab.data.classes import ClassChoice, alike, natural_key
from resnetlab.errors import BadInput

FOUND = ["ant", "bee", "cat", "dog, spotted"]


def test_without_a_choice_all_classes_are_used():
    assert ClassChoice().names_of(FOUND) == {name: name for name in FOUND}
    assert ClassChoice().notes(FOUND) == ()


@pytest.mark.parametrize("only", [("ant,cat",), ("ant", "cat"), ("cat, ant",), ("ant,", "cat")])
def test_classes_are_named_one_by_one_or_with_commas(only):
    assert ClassChoice(only=only).names_of(FOUND) == {"ant": "ant", "cat": "cat"}


def test_a_name_with_a_comma_is_a_name():
    assert ClassChoice(only=("ant", "dog, spotted")).names_of(FOUND) == {"ant": "ant", "dog, spotted": "dog, spotted"}


def test_classes_are_merged_under_a_new_name_or_that_of_one_of_them():
    assert ClassChoice(merge=("insect=ant,bee",)).names_of(FOUND)["bee"] == "insect"
    assert ClassChoice(merge=("ant=bee",)).names_of(FOUND)["bee"] == "ant"
    assert ClassChoice(merge=("x=ant", "x=bee")).names_of(FOUND) == {
        "ant": "x",
        "bee": "x",
        "cat": "cat",
        "dog, spotted": "dog, spotted",
    }


def test_a_subset_may_name_merged_classes():
    wanted = {"ant": "insect", "bee": "insect", "cat": "cat"}
    assert ClassChoice(only=("insect,cat",), merge=("insect=ant,bee",)).names_of(FOUND) == wanted
    assert ClassChoice(only=("ant,bee,cat",), merge=("insect=ant,bee",)).names_of(FOUND) == wanted


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"only": ("ant,cta,x",)}, r"data.classes names 'cta', 'x' .did you mean 'cat'.., but the classes of the data"),
        ({"merge": ("x=ant,be",)}, r"data.merge names 'be' .did you mean 'bee'"),
        ({"merge": ("ant,bee",)}, "must be NEW=CLASS,CLASS, such as pet=cat,dog"),
        ({"merge": ("=ant,bee",)}, "must be NEW="),
        ({"merge": ("x=",)}, "must be NEW="),
        ({"merge": ("x=ant", "y=ant,bee")}, "puts class 'ant' into x and into y"),
        ({"only": ("ant,cat",), "merge": ("x=ant,bee",)}, "data.merge names 'bee', which data.classes leaves out"),
    ],
)
def test_a_choice_that_does_not_fit_the_data_is_refused_by_name(choice, sentence):
    with pytest.raises(BadInput, match=sentence):
        ClassChoice(**choice).names_of(FOUND)


def test_natural_order_sorts_numbers_by_value():
    names = ["b", "a10", "a2", "a02", "10", "9", ""]
    assert sorted(names, key=natural_key) == ["", "9", "10", "a02", "a2", "a10", "b"]


def test_names_that_are_alike_are_grouped():
    assert alike(["Cat", "cat", "c a-t_", "dog", "doge"]) == [["Cat", "cat", "c a-t_"]]
    assert alike(["class 1", "class 11"]) == []
