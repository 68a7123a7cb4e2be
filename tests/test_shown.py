"""Text of a corpus that would act on a terminal, or not be seen."""

from sae.shown import printable, printable_lines


def test_what_acts_or_is_not_seen_is_escaped():
    assert printable("\x1b]0;owned\x07") == "\\x1b]0;owned\\x07"
    assert printable("a\u202eb\u2066c") == "a\\u202eb\\u2066c"
    assert printable("\u3164\ufe0f\u034f") == "\\u3164\\ufe0f\\u034f"
    assert printable("é שלום 漢 👍") == "é שלום 漢 👍"
    assert printable(b"a\xd8\n\tb") == "a\\xd8↵→b"
    assert printable("\udc80") == "\\udc80"
    assert printable_lines("a\nb\x1b") == "a\nb\\x1b"
