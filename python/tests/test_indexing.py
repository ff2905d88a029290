"""A recording is indexed as the NumPy array of its rows is."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import attnscope as at


def width(full, index):
    """Columns of the selected token that sees most: what the array is cut to before the index applies."""
    parts = [p for p in (index if isinstance(index, tuple) else (index,)) if p is not None]
    tokens = np.arange(full.shape[0])
    if not parts or parts[0] is Ellipsis:
        return full.shape[3]
    chosen = np.atleast_1d(tokens[_as_numpy(parts[0])])
    return int(chosen.max()) + 1 if chosen.size else 0


def one_axis(size):
    number = st.integers(-size - 2, size + 1)
    return st.one_of(
        number,
        st.slices(size),
        st.builds(slice, st.none() | number, st.none() | number, st.none() | st.integers(-3, 3).filter(bool)),
        st.lists(number, max_size=4),
        hnp.arrays(bool, size),
        hnp.arrays(bool, size + 1),
        hnp.arrays(np.int32, hnp.array_shapes(max_dims=2, max_side=3), elements=st.integers(-size, size - 1)),
        st.just(Ellipsis),
        st.none(),
    )


@pytest.fixture(scope="module")
def small(run, full):
    return run, full


@given(data=st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_as_numpy(small, data):
    run, full = small
    sizes = [*full.shape[:3], 20]
    n = data.draw(st.integers(0, 4))
    index = tuple(data.draw(one_axis(sizes[i])) for i in range(n))
    if n == 1 and data.draw(st.booleans()):
        index = index[0]
    first = index[0] if isinstance(index, tuple) and index else index
    if isinstance(first, list) and first and not all(isinstance(f, int) for f in first):
        return
    try:
        cut = full[..., : width(full, index)]
        expected = cut[_as_numpy(index)]
    except (IndexError, ValueError):
        with pytest.raises(IndexError):
            run[index]
        return
    try:
        got = run[index]
    except at.OutOfRange:
        assert expected.size == 0  # where nothing is selected NumPy does not look whether a number is out of range
        return
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    assert np.array_equal(got, expected)


def _as_numpy(index):
    """NumPy reads an empty list as floats."""
    parts = index if isinstance(index, tuple) else (index,)
    return tuple(np.array(p, np.intp) if isinstance(p, list) else p for p in parts)


def test_masks_over_several_axes(run, full):
    mask = np.zeros(full.shape[:3], bool)
    mask[41, 3, 5] = mask[7, 29, 0] = True
    assert np.array_equal(run[mask], full[..., :42][mask])
    heads = np.zeros((9, 43), bool)
    heads[2, 4] = True
    assert np.array_equal(run[:, :, heads], full[:, :, heads])
    with pytest.raises(IndexError):
        run[:, :, np.zeros((9, 44), bool)]
    with pytest.raises(IndexError):
        run[np.zeros((43, 31, 9), bool)]


@pytest.mark.parametrize("index", [43, -44, (0, 30), (0, 0, 9), (0, 0, 0, 1), ([0, 43],), (slice(None), [-31]), (0, 0, 0, 0, 0)])
def test_out_of_range_is_an_index_error(run, index):
    with pytest.raises(IndexError):
        run[index]


def test_our_sentence_says_what_there_is(run):
    with pytest.raises(at.OutOfRange, match="there is no token 43; the recording has 43"):
        run[43]
    with pytest.raises(at.OutOfRange, match="there is no layer 30; the recording has 30"):
        run[0, 30]


@pytest.mark.parametrize("index", [1.5, "layer", (0, [1.5]), object()])
def test_what_is_no_index(run, index):
    with pytest.raises((IndexError, TypeError)):
        run[index]
