"""Functions are known by what they do: two that do the same are one, wherever they lie, and others are others."""

import copy
import functools
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from attriscope.attribution import from_maps
from attriscope.attribution._parameters import canonical
from torch.nn import functional

READS = "def f(o):\n    return o[:, GL]"


def defined(source, name="f", **around):
    """What a script defines whose globals are these."""
    scope = {"__name__": "script", **around}
    exec(source, scope)  # noqa: S102  the tests' own text
    return scope[name]


def told(*given, **around):
    return json.dumps(canonical(defined(*given, **around)))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (1, 2), (0, False), ("a", "b"), ((1, 2), (1, 3)), ([1], [2]), ({"a": 1}, {"a": 2}), (None, 0),
        (torch.zeros(2), torch.ones(2)), (np.zeros(2), np.ones(2)), (np.int64(1), np.int64(2)), (torch.relu, torch.sigmoid),
        (torch, np), (torch.nn.ReLU, torch.nn.GELU), (torch.nn.ReLU(), torch.nn.GELU()),
        (functools.partial(torch.add, 1), functools.partial(torch.add, 2)), (torch.softmax, torch.nn.functional.softmax),
    ],
)  # fmt: skip
def test_a_function_that_reads_another_global_is_another(one, two):
    assert told(READS, GL=one) == told(READS, GL=one)
    assert told(READS, GL=one) != told(READS, GL=two)
    assert "0x" not in told(READS, GL=one)


@pytest.mark.parametrize(
    "source",
    [
        "def f(o):\n    return (lambda: GL)()", "f = lambda o: [GL for _ in o]",
        "def g(o):\n    return GL\nf = lambda o: g(o)",
        "def g(o):\n    return GL\ndef h(o):\n    return g(o)\ndef f(o):\n    return h(o)",
        "def make(g):\n    return lambda o: g(o)\nf = make(lambda o: GL)",
        "import functools\ndef g(k, o):\n    return GL\np = functools.partial(g, 1)\ndef f(o):\n    return p(o)",
    ],
)  # fmt: skip
def test_globals_are_found_through_functions(source):
    assert told(source, GL=1) == told(source, GL=1)
    assert told(source, GL=1) != told(source, GL=2)


def test_functions_that_are_closed_over_are_told_apart():
    make = "def make(g):\n    return lambda o: g(o)\nf = make(lambda o: o[:, {}])"
    assert told(make.format(1)) == told(make.format(1))
    assert told(make.format(1)) != told(make.format(2))


@pytest.mark.parametrize(
    "source",
    [
        "def f(o):\n    return f(o) + GL", "def g(o):\n    return f(o) + GL\ndef f(o):\n    return g(o)",
        "def g(o):\n    return GL\ndef f(o):\n    return g(o)\ng.__defaults__ = (f,)",
        "def make():\n    def f(o):\n        return f(o) + GL\n    return f\nf = make()",
    ],
)  # fmt: skip
def test_functions_that_call_each_other_come_to_an_end(source):
    assert told(source, GL=1) == told(source, GL=1)
    assert told(source, GL=1) != told(source, GL=2)


def test_many_functions_that_share_others_are_told_once():
    """Each calls the one before it twice over: told every time there would be 2 ** 60 of them."""
    source = "def a0(o):\n    return GL\nb0 = a0\n"
    for k in range(60):
        source += f"def a{k + 1}(o):\n    return a{k}(b{k}(o))\nb{k + 1} = lambda o: a{k}(b{k}(o))\n"
    source += "f = a60"
    assert told(source, GL=1) != told(source, GL=2)


def test_what_a_function_does_not_read_or_writes_itself_is_no_part_of_it():
    other = told("def f(o):\n    return o.GL", GL=1)
    assert other == told("def f(o):\n    return o.GL", GL=2), "an attribute of that name is no global"
    counts = "def f(o):\n    global GL\n    GL = GL + 1\n    return o"
    assert told(counts, GL=1) == told(counts, GL=2)
    assert told(READS) == told(READS), "a global that there is not yet"


def test_an_object_of_somebody_s_own_is_its_class():
    first, second = (defined("class A: pass\nf = A()") for _ in range(2))
    assert told(READS, GL=first) == told(READS, GL=second)
    assert "0x" not in told(READS, GL=first)


def test_a_network_that_a_function_reads_is_told_with_its_weights():
    one, two = (torch.nn.Linear(2, 2) for _ in range(2))
    assert told(READS, GL=one) == told(READS, GL=copy.deepcopy(one)) != told(READS, GL=two)


def test_functions_of_libraries_are_their_names(monkeypatch):
    """Their globals are caches and registries, which change; their version says what they do."""
    libraries = {functional.interpolate: "_is_integer", textwrap.dedent: "_whitespace_only_re", from_maps: "FromMaps"}
    for function, read in libraries.items():
        before = told(READS, GL=function)
        with monkeypatch.context() as patch:
            patch.setitem(function.__globals__, read, 5)
            assert told(READS, GL=function) == before


def test_another_process_tells_the_same():
    source = "def g(o):\n    return GL\ndef f(o):\n    return g(o) + f(o) + torch.ones(2)"
    script = (
        "import json, torch\nfrom attriscope.attribution._parameters import canonical\n"
        f"scope = {{'__name__': 'script', 'GL': (1, 'a'), 'torch': torch}}\nexec({source!r}, scope)\n"
        "print(json.dumps(canonical(scope['f'])))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == told(source, GL=(1, "a"), torch=torch)
