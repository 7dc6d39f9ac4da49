"""`volenti recover`: after a restore, so that nothing comes back that a person took back."""

from __future__ import annotations

import rich_click as click

from volenti.cli.deployment import deployed, settings_of, where
from volenti.cli.main import code_of
from volenti.errors import told
from volenti.flows.keep_anchor import read_journal
from volenti.flows.recover import NotRecovered, Recovered
from volenti.flows.recover import recover as recover_all
from volenti.flows.services import Services


@click.command(short_help="After a restore.")
@click.option(
    "--accept-head",
    "accepted",
    multiple=True,
    metavar="WORKSPACE",
    help="Take a workspace's ledger as it is although nothing is anchored for it; this is recorded.",
)
@where
def recover(accepted: tuple[str, ...], data_dir: str | None, database_url: str | None) -> int:
    """Recover every workspace whose ledger is behind or beside its anchor or journal.

    The ledger goes on under a new origin whose first entry names the anchored checkpoint, and every restriction of the
    journal is in effect before anything is permitted again. A second run finds nothing to do. A workspace that could not
    be recovered keeps no other from it, and is told at the end.
    """

    async def work(services: Services) -> list[Recovered | NotRecovered]:
        return await recover_all(services, read_journal(services), accept_head=accepted)

    with deployed(settings_of(data_dir, database_url), tell=True) as deployment:
        done = deployment.run(work)
    code = 0
    for one in done:
        if isinstance(one, Recovered):
            click.echo(
                f"{one.workspace}: {one.how}; {one.origin} goes on, {one.replayed} restrictions replayed, epoch {one.epoch}"
            )
        else:
            click.echo(f"volenti: {one.workspace}: {told(one.error)}", err=True)
            code = code or code_of(one.error)
    if not done:
        click.echo("every ledger stands as it was anchored; nothing to do", err=True)
    return code
