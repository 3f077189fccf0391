"""Every flipped bit and every cut of a sealed checkpoint is noticed. Truth: the damage done here."""

import zipfile

import pytest
import torch

from few_shot_nas.errors import InputError
from few_shot_nas.runtime.checkpoint import KEY, load_checkpoint
from few_shot_nas.runtime.seal import damage, is_sealed, seal

OWN = {"meta_step": 3, "identity": {"algorithm": "MAML"}}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({KEY: OWN, "state_dict": {"net.weight": torch.arange(6.0)}, "few_shot_nas_sealed": True}, path)
    seal(path)
    return path


def test_a_sealed_file_loads_and_is_still_a_zip_archive(checkpoint):
    assert is_sealed(checkpoint) and damage(checkpoint) == ""
    assert torch.equal(load_checkpoint(checkpoint)["state_dict"]["net.weight"], torch.arange(6.0))
    with zipfile.ZipFile(checkpoint) as archive:
        assert archive.testzip() is None


def test_every_single_bit_flip_is_refused(checkpoint):
    whole = checkpoint.read_bytes()
    for place in range(0, 8 * len(whole), 29):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        checkpoint.write_bytes(flipped)
        with pytest.raises(InputError, match="checkpoint .*last.ckpt"):
            load_checkpoint(checkpoint)


def test_every_cut_is_refused_in_one_line(checkpoint):
    whole = checkpoint.read_bytes()
    for length in (0, 1, 2, 30, len(whole) // 2, len(whole) - 80, len(whole) - 71, len(whole) - 1):
        checkpoint.write_bytes(whole[:length])
        with pytest.raises(InputError) as refused:
            load_checkpoint(checkpoint)
        assert len(str(refused.value).splitlines()) == 1
    checkpoint.write_bytes(b"")
    with pytest.raises(InputError, match="last.ckpt is damaged: it is empty"):
        load_checkpoint(checkpoint)


def test_a_checkpoint_of_an_earlier_version_is_checked_by_the_archives_own_sums(tmp_path):
    path = tmp_path / "old.ckpt"
    torch.save({KEY: OWN, "state_dict": {"net.weight": torch.full((64,), 3.0)}}, path)
    whole = path.read_bytes()
    assert load_checkpoint(path)[KEY]["meta_step"] == 3
    place = whole.index(torch.full((64,), 3.0).numpy().tobytes()) + 10
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    with pytest.raises(InputError, match="old.ckpt is damaged: its entry .* is damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "was not written by few_shot_nas"),
        ({KEY: 7, "state_dict": {}}, "its entry few_shot_nas is a int"),
        ({KEY: {"identity": {}}, "state_dict": {}}, "its meta_step is None"),
        ({KEY: {"meta_step": "x", "identity": {}}, "state_dict": {}}, "its meta_step is 'x'"),
        ({KEY: {"meta_step": -1, "identity": {}}, "state_dict": {}}, "its meta_step is -1"),
        ({KEY: {"meta_step": 1}, "state_dict": {}}, "what kind of run"),
        ({KEY: OWN}, "its state_dict does not hold tensors"),
        ({KEY: OWN, "state_dict": {"a": 1}}, "its state_dict does not hold tensors"),
    ],
)
def test_a_checkpoint_with_missing_or_odd_entries_is_one_line(tmp_path, content, message):
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "odd.ckpt")
