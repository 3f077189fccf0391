"""mini-ImageNet (Vinyals et al. 2016), in whichever of its many shapes it lies on the disk."""

from PIL import Image

from few_shot_nas.data.layouts import Layout, LayoutSource
from few_shot_nas.data.sources.mini_imagenet_layouts import LAYOUTS
from few_shot_nas.ranges import ImageSize


class MiniImagenet(LayoutSource):
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
    mean = (0.4709, 0.4503, 0.4055)
    std = (0.2714, 0.2646, 0.2782)
    published = {"train": (64, 38_400), "val": (16, 9_600), "test": (20, 12_000)}
    roots = (".", "mini_imagenet", "mini-imagenet", "miniImagenet", "miniImageNet", "mini_imagenet_full_size")
    advice = (
        "The lists are at github.com/twitter-research/meta-learning-lstm (data/miniImagenet), the images are part of "
        "ImageNet (image-net.org, ILSVRC2012 train), the pickles are at zenodo.org/records/7978538"
    )

    def __init__(
        self, data_dir: str = "data", cache_dir: str = "~/.cache/few_shot_nas", image_size: ImageSize = 84
    ) -> None:
        super().__init__(data_dir, cache_dir, image_size)

    def layouts(self) -> tuple[Layout, ...]:
        """Return those listed above."""
        return LAYOUTS

    def resample(self) -> Image.Resampling:
        """Return the mean over areas for half the size, else Lanczos."""
        return Image.Resampling.BOX if self.image_size == 42 else Image.Resampling.LANCZOS
