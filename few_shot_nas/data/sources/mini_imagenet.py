"""mini-ImageNet (Vinyals et al. 2016), in whichever of its many shapes it lies on the disk."""

from pathlib import Path
from typing import Any

from PIL import Image

from few_shot_nas.data.source import SPLITS, Source, SplitPlan
from few_shot_nas.data.sources.mini_imagenet_layouts import Found, find


class MiniImagenet(Source):
    """Colour photographs of 100 ImageNet classes; Ravi and Larochelle's split has 64/16/20 classes of 600 images.

    The first of these layouts that has train and val is used, in ``data_dir`` or its folders ``mini_imagenet``,
    ``mini-imagenet``, ``miniImagenet``, ``miniImageNet`` or ``mini_imagenet_full_size``:

    - ``{train,val,test}.csv`` with columns ``filename,label`` (or ``class``), or easyfsl's ``class_name,image_name``,
      and the images in zip shards ``{split}-{i}-of-{n}.zip``, in ``images/``, ``images_by_class/<class>/``,
      ``images/<class>/``, ``{split}/<class>/`` or beside the list;
    - folders ``{train,val,test}/<class>/*.jpg``;
    - ``mini-imagenet-cache-{train,val,test}.pkl`` (``validation`` too): keys ``image_data`` and ``class_dict``;
    - ``miniImageNet_category_split_{train_phase_train,val,test}.pickle``: keys ``data`` and ``labels``;
    - ``{base,val,novel}.json`` with ``label_names``, ``image_names`` and ``image_labels``.

    HDF5 files are not read. The test split may be absent. Images of another size are resized as a whole, without a
    centre crop (the json lists' original code crops at test time): for 42 pixels by averaging areas, else by Lanczos.
    A class in two splits is refused; some published copies are split by image. Normalised by the channel statistics
    of the 64 training classes. ImageNet's terms apply: non-commercial research and education only.

    Args:
        data_dir: folder with the data.
        cache_dir: folder for the packed images; at 84 pixels 100 classes take 1.3 GB.
        image_size: height and width in pixels.
    """

    name = "MiniImagenet"
    in_channels = 3
    mean = (0.4709, 0.4503, 0.4055)
    std = (0.2714, 0.2646, 0.2782)

    def __init__(
        self, data_dir: str = "data", cache_dir: str = "~/.cache/few_shot_nas", image_size: int = 84
    ) -> None:
        super().__init__(data_dir, cache_dir, image_size)
        self._found: Found | None = None

    def split_names(self) -> tuple[str, ...]:
        """Return train, val and, where its files are there, test."""
        return tuple(split for split in SPLITS if split in self._layout().splits)

    def settings(self) -> dict[str, Any]:
        """Return the layout that was found."""
        return {"layout": self._layout().layout.name}

    def input_files(self) -> list[Path]:
        """Return the lists and archives, or every image of the tree.

        Raises:
            InputError: if train or val is missing.
        """
        found = self._layout()
        return sorted({file for split in found.splits for file in found.layout.files(found.root, split)})

    def describe(self) -> str:
        """Return the layout that was found."""
        found = self._layout()
        return f"{found.layout.name} in {found.root}"

    def plan(self) -> dict[str, SplitPlan]:
        """Return the classes of each split with the images to read."""
        found = self._layout()
        resample = Image.Resampling.BOX if self.image_size == 42 else Image.Resampling.LANCZOS
        plans = {}
        for split in self.split_names():
            content = found.layout.read(found.root, split)
            shape = (self.image_size, self.image_size, 3)
            images = content.images(self.image_size, resample)
            plans[split] = SplitPlan(content.class_names, content.counts, shape, images)
        return plans

    def _layout(self) -> Found:
        if self._found is None:
            self._found = find(self.data_dir, self.name)
        return self._found
