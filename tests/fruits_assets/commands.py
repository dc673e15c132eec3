"""`fruits` commands in the process of the test, for commands that need Spark for seconds only."""

from click.testing import CliRunner, Result

from fruits_assets.cli import main
from tests.fruits_assets.dagster_platform import Platform
from tests.support import WEIGHTS


def fruits(platform: Platform, *words: str, typed: str | None = None, **changed: str) -> Result:
    """Runs a command with the settings of a platform. `typed` answers questions; `changed` adds variables."""
    environment = {
        "DAGSTER_HOME": str(platform.home),
        "FRUITS_IMAGES": platform.settings.images,
        "FRUITS_STORE": platform.settings.store,
        "FRUITS_WEIGHTS": WEIGHTS,
        **changed,
    }
    result = CliRunner().invoke(main, words, input=typed, env=environment)
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result
