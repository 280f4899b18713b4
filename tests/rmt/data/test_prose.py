"""What counts as a paragraph of English."""

from __future__ import annotations

from rmt.data.prose import paragraphs

NUMPYDOC = """
Return the running mean of a series that may be longer than the memory.

The mean is kept as one number, and each new value moves it by a share
that falls with the count; see :func:`~numpy.mean` and [1]_ for the plain one.

Parameters
----------
values : array_like, optional
    The values in the order in which they came. If it is not given, the mean
    of an empty series is what you get.
axis : int
    Axis.

Returns
-------
out : ndarray
    An array with the means that were found after each of the values.

.. math::

    m_n = m_{n-1} + (x_n - m_{n-1}) / n

.. note::
    This is not the same as what you would get from a window.

Examples
--------
>>> running_mean([1, 2, 3])
The result is what we expected to see here, and it is not prose.

For example, the following call does what it says it does::

    result = compute_the_mean_of_all_that_is_given(values)

References
----------
.. [1] https://example.org
"""

GOOGLE = """Tells what the reader keeps of a document when it has come to the end.

Args:
    path (str, optional): Where the document lies on the disk. It is read **only** once.
    size (`int`): Size.

```python
This is code, and it should not be taken for what it is not, which is prose.
```

| a table | of the things | that are not to be read |

* It holds the first of the facts that you asked for, [in a link](https://example.org/x).
2. It holds the second of the facts, with ``code`` and `a link <https://example.org>`_ in it.

Copyright of this text is with the ones who wrote it, and all rights are reserved.
"""


def test_numpydoc() -> None:
    assert list(paragraphs(NUMPYDOC)) == [
        "Return the running mean of a series that may be longer than the memory.",
        "The mean is kept as one number, and each new value moves it by a share that falls with the count; "
        "see numpy.mean and for the plain one.",
        "The values in the order in which they came. If it is not given, the mean of an empty series is what you get.",
        "An array with the means that were found after each of the values.",
        "This is not the same as what you would get from a window.",
        "For example, the following call does what it says it does:",
    ]


def test_google_and_markdown() -> None:
    assert list(paragraphs(GOOGLE)) == [
        "Tells what the reader keeps of a document when it has come to the end.",
        "Where the document lies on the disk. It is read only once.",
        "It holds the first of the facts that you asked for, in a link.",
        "It holds the second of the facts, with code and a link in it.",
    ]


def test_nothing_of_nothing() -> None:
    for text in (
        "",
        "\n\n",
        " ",
        "::",
        "Too short to be prose.",
        "x = y + z; f(x); g[y] -> z {1: 2} the of a.",
    ):
        assert list(paragraphs(text)) == []
