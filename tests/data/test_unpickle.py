"""Third-party pickles: arrays and containers come back, anything that would run code does not. Truth: pickle itself."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from few_shot_nas.data.unpickle import load_pickle
from few_shot_nas.errors import InputError

# What Python 2 wrote for {'data': np.array([[254, 255], [0, 1]], np.uint8)}: strings are bytes, old module names.
PYTHON_2 = (
    b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    b"(K\x01K\x02K\x02\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    b"\x89U\x04\xfe\xff\x00\x01tbu."
)


class Runs:
    """Pickles as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def write(path: Path, content: Any, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_containers_come_back(tmp_path, protocol):
    data = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    content = {"data": data, "n": np.int64(3), "l": [1, 2.5, (b"x", "y", None)]}
    loaded = load_pickle(write(tmp_path / "a.pkl", content, protocol))
    np.testing.assert_array_equal(loaded["data"], content["data"])
    assert loaded["data"].dtype == np.uint8 and loaded["n"] == 3 and loaded["l"] == content["l"]


def test_a_pickle_of_python_2_is_read(tmp_path):
    (tmp_path / "old.pkl").write_bytes(PYTHON_2)
    assert load_pickle(tmp_path / "old.pkl")["data"].tolist() == [[254, 255], [0, 1]]


@pytest.mark.parametrize("core", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_both_names_of_numpys_core_are_read(tmp_path, core):
    (tmp_path / "a.pkl").write_bytes(PYTHON_2.replace(b"numpy.core.multiarray", core))
    assert load_pickle(tmp_path / "a.pkl")["data"].sum() == 510


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_a_command_is_refused_and_not_run(tmp_path, protocol):
    marker = tmp_path / "ran"
    path = write(tmp_path / "evil.pkl", {"data": Runs(os.system, f"touch {marker}")}, protocol)
    with pytest.raises(InputError, match=r"evil\.pkl: refused, this pickle wants posix\.system"):
        load_pickle(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists(), "the payload is harmless, so the test shows nothing"


@pytest.mark.parametrize(
    "content, wanted",
    [
        (Runs(eval, "1"), "eval"),
        (Runs(getattr, "", "join"), "getattr"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        (Runs(np.load, "x"), "numpy.*load"),
    ],
)
def test_what_is_not_data_is_refused_by_name(tmp_path, content, wanted):
    with pytest.raises(InputError, match=f"refused, this pickle wants .*{wanted}"):
        load_pickle(write(tmp_path / "a.pkl", content))


def test_no_other_codec_is_run(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02c_codecs\nencode\n(U\x01aU\x05rot13tR.")
    with pytest.raises(InputError, match=r"a\.pkl: this pickle is damaged \(ValueError: codec rot13\)"):
        load_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize("content", [PYTHON_2[:-20], b"", b"not a pickle", b"\x80\x02cnumpy\ndtype\n(U\x05wrongtR."])
def test_a_damaged_pickle_is_named(tmp_path, content):
    (tmp_path / "half.pkl").write_bytes(content)
    with pytest.raises(InputError, match=r"half\.pkl: this pickle is damaged"):
        load_pickle(tmp_path / "half.pkl")
