"""The sizes that all stages share. This module imports nothing, so that `--help` starts quickly."""

IMAGE_SIDE = 224  # pixels: the side of the square input of MobileNetV2
FEATURES = 1280  # outputs of MobileNetV2 1.0 after average pooling (Sandler et al. 2018, table 2)
DEFAULT_COMPONENTS = 15  # principal components that the model keeps
TASKS_PER_CORE = 4  # tasks that a stage has for a core at most, unless they are full
