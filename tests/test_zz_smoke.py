from pathlib import Path
from conftest import CLASSES
def test_smoke(spark, photos, store, extractor):
    import os
    print(os.listdir(photos), os.listdir(extractor), store)
    assert spark.range(5).count() == 5
