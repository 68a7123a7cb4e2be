"""English out of Python sources: against a second walk of the tree, and by hand."""

import ast
import inspect
import json.decoder

from sae.source.corpus_prose import Prose, comments, docstrings, is_prose, share_in_triple_quotes, without_header

SOURCE = '''# Copyright 2020 Somebody
# Licensed under some licence

"""The module says this.

>>> 1 + 1
2

And goes on."""

# A block of comment that
# goes over two lines.
x = 1  # no block
# alone

class A:
    """A class."""

    if x:
        async def f(self):
            """
            Deep inside.

                Indented more.
            """
            return """no docstring"""
'''


def test_docstrings_by_hand():
    assert docstrings(SOURCE) == ["The module says this.\n\n\nAnd goes on.", "A class.", "Deep inside.\n\n    Indented more."]


def test_docstrings_equal_those_of_the_whole_tree():
    for module in (json.decoder, ast):
        source = inspect.getsource(module)
        tree = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
        expected = [ast.get_docstring(node) for node in tree if ast.get_docstring(node)]
        assert len(docstrings(source)) == len(expected)
        plain = {text for text in expected if ">>>" not in text}
        assert plain <= set(docstrings(source))


def test_a_module_that_does_not_parse_has_none():
    assert docstrings("def f(:\n") == []
    assert docstrings("x = '\0'") == []


def test_comments_and_headers():
    body = without_header(SOURCE)
    assert body.startswith('"""The module')
    assert comments(body) == ["A block of comment that\ngoes over two lines."]
    assert without_header("# what this is\nx = 1\n") == "# what this is\nx = 1\n"
    assert without_header("/* Copyright\n * me */\nint x;\n") == "int x;\n"
    assert without_header("// Licence: MIT\n\n#pragma once\nint x;\n") == "#pragma once\nint x;\n"


def test_share_in_triple_quotes():
    assert share_in_triple_quotes('"""abcd"""') == 0.4
    assert share_in_triple_quotes("") == 0


def test_prose_keeps_words_and_no_paragraph_twice():
    assert is_prose("These are plain words of a sentence, and some more.")
    assert not is_prose("x = [1, 2, 3, 4, 5]; y = {7: 8, 9: 10}")
    assert not is_prose("+----+-----+------+--------+")
    prose = Prose()
    text = "These are plain words of a sentence.\n\n+---+---+---+---+---+---+---+---+\n\nAnother paragraph of words is here."
    assert prose.keep(text) == "These are plain words of a sentence.\n\nAnother paragraph of words is here.\n"
    assert prose.keep("These are  plain words\nof a sentence.\n\nAnd a third one, which is new to it.") == (
        "And a third one, which is new to it.\n"
    )
    assert prose.keep(text) == ""
