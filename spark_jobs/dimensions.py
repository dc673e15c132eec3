"""The sizes that all stages share. It imports nothing, so that `--help` is quick."""

IMAGE_SIDE = 224  # of the square that MobileNetV2 takes, in pixels
FEATURES = 1280  # outputs of MobileNetV2 1.0 after average pooling (Sandler et al. 2018, table 2)
DEFAULT_COMPONENTS = 15  # of the PCA
