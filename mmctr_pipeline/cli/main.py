"""`mmctr`: the commands that run outside Dagster."""

import logging
import sys
from collections.abc import Sequence

import click

from mmctr_pipeline.advice import errors_with_advice
from mmctr_pipeline.cli.ablation import ablation
from mmctr_pipeline.cli.accept import accept
from mmctr_pipeline.cli.atlas import atlas
from mmctr_pipeline.cli.check import check
from mmctr_pipeline.cli.convert import convert
from mmctr_pipeline.cli.export import export
from mmctr_pipeline.cli.fusions import fusions
from mmctr_pipeline.cli.leaderboard import leaderboard
from mmctr_pipeline.cli.models import models
from mmctr_pipeline.cli.prune import prune
from mmctr_pipeline.cli.publish import pull, push
from mmctr_pipeline.cli.reap import reap
from mmctr_pipeline.cli.repeat import repeat
from mmctr_pipeline.cli.sample import sample
from mmctr_pipeline.cli.score import recommend, score
from mmctr_pipeline.cli.settings import settings
from mmctr_pipeline.cli.tensorboard import tensorboard
from mmctr_pipeline.environment import share_cores, unknown_variables


@click.group(context_settings={"show_default": True})
def mmctr() -> None:
    """Generate or convert data; compare, promote and use models; look after runs and artefacts."""


COMMANDS = (
    *(sample, convert, settings, ablation, fusions, leaderboard, repeat),
    *(score, recommend, export, tensorboard, atlas),
    *(check, accept, models, prune, reap, push, pull),
)
for command in COMMANDS:
    mmctr.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    share_cores()
    # Libraries that log through the root logger add their own handler if it has none.
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    package = logging.getLogger("mmctr_pipeline")
    level_before = package.level
    package.setLevel(logging.INFO)
    for sentence in unknown_variables():
        print(f"warning: {sentence}", file=sys.stderr)
    try:
        return mmctr.main(arguments, prog_name="mmctr", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:  # Ctrl-C
        print("Stopped. The same command resumes what it can.", file=sys.stderr)
        return 130
    except errors_with_advice() as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        package.setLevel(level_before)
        logging.getLogger().removeHandler(handler)


if __name__ == "__main__":
    sys.exit(main())
