"""The examples in the docstrings of the kernels. Truth: what they say themselves."""

import doctest
import importlib
import pkgutil

import pytest

from few_shot_nas import kernels

MODULES = [module.name for module in pkgutil.iter_modules(kernels.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_say(name):
    module = importlib.import_module(f"few_shot_nas.kernels.{name}")
    result = doctest.testmod(module, extraglobs={})
    assert result.attempted and not result.failed
