"""`fruits ui`: Dagster's UI and daemon."""

import click

from fruits_assets.terminal import Command, set_dagster_home


class _UiCommand(Command):
    grace = 90.0  # the daemon, the code location and the web server end one after another
    after_interruption = "The UI has ended. Runs that it had started go on."


@click.command(cls=_UiCommand)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port.")
@click.option("--daemon/--no-daemon", default=True, show_default=True, help="Run Dagster's daemon too.")
@click.option("--read-only", is_flag=True, help="Show everything, and start and change nothing.")
def ui(host: str, port: int, daemon: bool, read_only: bool) -> None:
    """Serves Dagster's UI until Ctrl-C, with the daemon that runs queue, sensors and schedules.

    Browsers reach it by the names of this machine, and by the address in FRUITS_UI_URL. It has no login: do
    not make its port reachable from other machines without a proxy that asks for a login.
    """
    from fruits_assets.ui.services import serve
    from resources.settings import StoreSettings, load_settings

    settings = load_settings(StoreSettings)
    set_dagster_home()
    serve(host, port, settings, read_only=read_only or settings.ui_read_only, daemon=daemon)
