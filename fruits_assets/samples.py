"""Sample photos, with which a user can run the platform without photos of their own.

They are 8 classes of 20 photos of Fruits-360 (https://github.com/fruits-360, MIT licence): JPEGs of 100 x 100
pixels on white. A file name is `<frame>_100.jpg`: the number of a frame in a film of one rotating fruit.
"""

import shutil
from pathlib import Path

SAMPLE_PHOTOS = Path(__file__).with_name("sample_photos")
IMAGES_PER_CLASS = 20


def copy_samples(folder: Path, images: int = IMAGES_PER_CLASS) -> list[str]:
    """Copies the first `images` photos of each class, in the order of their frames, to `folder/<class>/`.

    Replaces existing files of the same names. Returns the names of the classes, sorted.
    """
    classes = sorted(path for path in SAMPLE_PHOTOS.iterdir() if path.is_dir())
    for class_folder in classes:
        (folder / class_folder.name).mkdir(parents=True, exist_ok=True)
        frames = sorted(class_folder.glob("*.jpg"), key=lambda photo: int(photo.name.partition("_")[0]))
        for photo in frames[:images]:
            shutil.copy(photo, folder / class_folder.name)
    return [class_folder.name for class_folder in classes]
