"""What a person asks for: options of methods, alone and in a layer's own request."""

from __future__ import annotations

import pytest

from surgery.choose import Amount, Request, Selector, parse_options, parse_selector
from surgery.errors import PlanError


def test_a_layer_s_request_holds_amounts_and_options_in_any_order() -> None:
    wanted = Selector("conv2", False, ("cp",), Amount((64,)), (("algorithm", "tpm"),))
    assert parse_selector("conv2=cp:rank=64,algorithm=tpm") == wanted
    assert parse_selector("conv2=cp:algorithm=tpm,rank=64") == wanted


def test_options_are_set_on_the_methods_that_have_them() -> None:
    request = Request(methods=("cp", "svd"), options=parse_options(["algorithm=tpm"]))
    assert getattr(request.method("cp"), "algorithm", None) == "tpm"
    assert not hasattr(request.method("svd"), "algorithm")
    own = parse_selector("conv2=cp:rank=64,algorithm=als")
    assert getattr(request.method("cp", own), "algorithm", None) == "als"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour=red", "option 'colour' is not known; methods have activation, algorithm"),
        ("start=sideways", "start is 'sideways'; choose one of"),
        ("keep=2", "keep is '2'; expected a number above 0 and at most 1"),
        ("keep=some", "keep is 'some'; expected a number"),
    ],
)
def test_an_option_that_is_not_there_is_named(text: str, said: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_options([text])
    assert said in str(caught.value)


def test_an_option_of_no_method_asked_for_is_a_mistake() -> None:
    with pytest.raises(PlanError, match=r"option 'algorithm': none of the methods asked for has it; it belongs to "):
        Request(methods=("svd",), options=(("algorithm", "tpm"),))
