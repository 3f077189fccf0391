"""What a run says of its model, and what is said where it says nothing. Truth: the text written and read back."""

from pathlib import Path

import pytest

from few_shot_nas.errors import InputError
from few_shot_nas.loading import load
from few_shot_nas.model_card import ModelCard

CARD = ModelCard("MAML", "Conv4", "Glyphs", 5, {"width": 4}, {"image_size": 28}, 7, None, ("the networks",))


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(CARD.to_json(), encoding="utf-8")
    assert ModelCard.read(tmp_path / "model.json") == CARD


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"algorithm": "MAML", "left_out": []}'])
def test_what_is_no_card_is_named_by_its_place(text: str) -> None:
    with pytest.raises(InputError, match="^here: does not describe a model of few_shot_nas"):
        ModelCard.from_json(text, "here")


def test_a_folder_that_no_run_wrote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no model.json; give the folder of a run"):
        load(tmp_path)


def test_a_run_of_an_earlier_version_is_refused_with_the_command_that_makes_its_card(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("algorithm: MAML\n", encoding="utf-8")
    wanted = f"--config={tmp_path}/config.yaml --ckpt_path={tmp_path}/checkpoints/last.ckpt --run_dir=NEW makes one"
    with pytest.raises(InputError, match=f"has no model.json; if an earlier version.*{wanted}"):
        load(tmp_path)
